"""N-gram decontamination: training pairs that share runs of words with a benchmark.

The method is that of Brown et al. 2020 (arXiv 2005.14165, appendix C): words without case and punctuation, and
n-grams of 8 to 13 words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from reasongenrm.config.prepare import DecontaminateConfig
from reasongenrm.data.ngrams import HashedTexts, NgramIndex, batches, distinct_entries, without_common, words
from reasongenrm.errors import DataError
from reasongenrm.records import Drop, HasPair, PreferencePair
from reasongenrm.rows.files import RawRow, read_rows

Row = TypeVar("Row", bound=HasPair)
Part = Literal["prompt", "answer"]
PARTS: tuple[Part, ...] = ("prompt", "answer")
BATCH = 256
SHORTEST = 4
"""A prompt shorter than an n-gram is compared as a whole if it has at least this many words."""
PROMPTS = ("prompt", "question", "instruction", "query", "input", "messages", "conversation")
"""Columns with prompts."""
ANSWERS = (
    *("chosen", "rejected", "answer", "answers", "response", "responses", "output", "outputs", "completion"),
    *(
        f"{name}_{side}"
        for name in ("response", "output", "answer")
        for side in ("1", "2", "a", "b", "A", "B")
    ),
)
"""Columns with answers."""
_BATCH_ROWS = 1024
_MAX_QUOTE = 200


@dataclass(frozen=True, slots=True)
class BenchmarkText:
    """The texts of one row of a benchmark.

    Attributes:
        row: `file:line`, `file[row]` or `dataset[row]`.
        prompt: its user turns, one per line.
        answers: its answers, and the assistant turns of its prompt.
    """

    row: str
    prompt: str
    answers: tuple[str, ...]


def benchmark_texts(
    path: str, *, split: str = "train", revision: str | None = None
) -> Iterator[BenchmarkText | Drop]:
    """Yield the texts of a benchmark, one item per row; a row without any is a Drop of stage `decontaminate`.

    A column of PROMPTS or ANSWERS is a text, a list of texts (RM-Bench, RewardBench 2), one or more messages
    of `role` and `content`, or lists of those; other columns are ignored. System turns are left out: many rows
    share them.

    Args:
        path, split, revision: see `rows.files.read_rows`.

    Raises:
        ConfigError: a revision of a local path.
        DataError: `path` does not exist, cannot be opened, or no row of it has a text.
    """
    readable = 0
    for row in read_rows(path, optional=(*PROMPTS, *ANSWERS), split=split, revision=revision):
        text = row if isinstance(row, Drop) else _texts_of_row(row)
        readable += isinstance(text, BenchmarkText)
        yield text
    if not readable:
        hint = (
            f"a row has some of the columns {', '.join(PROMPTS[:3])}, {', '.join(ANSWERS[:3])}, response_A, …"
        )
        raise DataError("no readable row in this benchmark", location=path, hint=hint)


def _texts_of_row(row: RawRow) -> BenchmarkText | Drop:
    prompts: list[str] = []
    answers: list[str] = []
    for name in PROMPTS:
        _collect(row.columns.get(name), "user", prompts, answers)
    prompts = [text for text in prompts if text.strip()]
    # The messages of an answer may repeat the conversation before it; it is the prompt of a row without one.
    repeated: list[str] = []
    for name in ANSWERS:
        _collect(row.columns.get(name), "assistant", repeated, answers)
    prompts = prompts or [text for text in dict.fromkeys(repeated) if text.strip()]
    answers = [text for text in dict.fromkeys(answers) if text.strip()]
    if not prompts and not answers:
        present = ", ".join(sorted(map(str, row.columns))[:12]) or "none"
        detail = f"No column with prompts or answers has a text (found: {present})."
        return Drop(row.location, row.origin, "no_text", detail, "decontaminate")
    return BenchmarkText(row.location, "\n".join(prompts), tuple(answers))


def _collect(value: Any, role: str, prompts: list[str], answers: list[str]) -> None:
    """Add the texts of a column's value to prompts or answers; `role` is that of a text without one."""
    if isinstance(value, str):
        (prompts if role == "user" else answers).append(value)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect(item, role, prompts, answers)
    elif isinstance(value, Mapping) and isinstance(value.get("content"), str):
        message_role = value.get("role")
        if message_role != "system":
            _collect(value["content"], "user" if message_role == "user" else "assistant", prompts, answers)


@dataclass(frozen=True, slots=True)
class Match:
    """A text of a training pair and a row of a benchmark that share n words in a row.

    Attributes:
        pair_id, source: the training pair.
        part: `prompt` (a turn of the user or the system against a benchmark's prompt) or `answer` (either answer or
            an earlier assistant turn against a benchmark's answers).
        n: the size of the n-gram, in words.
        benchmark: its name.
        row: `file:line` or `dataset[row]` of the benchmark.
        count: number of shared n-grams, counted in the pair.
        whole: whether the prompts are the same and shorter than n words (then `count` is 1).
        text: the first of the shared n-grams, casefolded and without punctuation.
    """

    pair_id: str
    source: str
    part: Part
    n: int
    benchmark: str
    row: str
    count: int
    whole: bool
    text: str


class _Overlap(NamedTuple):
    """The n-grams that a pair shares with a row: their number, and `whole` and `text` of `Match`."""

    ngrams: int
    whole: bool
    text: str


Overlaps = dict[tuple[int, int], _Overlap]
"""(pair number, row number) -> overlap."""


class Decontaminator:
    """The n-grams of the benchmarks, prompts and answers apart, to compare with training pairs.

    A training prompt shorter than n words matches a benchmark's prompt if the two are the same, word for word, and
    have at least SHORTEST words; each user turn is compared, and all of them together. Answers shorter than n
    words never match: "Yes, that is right." answers a thousand questions. N-grams of more than `config.common`
    rows of one benchmark (instructions, refusals) are ignored. Memory is 12 bytes per word and n-gram size of the
    benchmarks, and at most 16 MiB of filter for each size and part.
    """

    def __init__(
        self,
        config: DecontaminateConfig,
        benchmarks: Iterable[tuple[str, Iterable[BenchmarkText | Drop]]],
    ) -> None:
        """Index the benchmarks.

        Args:
            benchmarks: name and rows of each.

        Raises:
            ConfigError, DataError: from the rows' reader.
        """
        self.config = config
        self.sizes = sorted(set(config.ngrams))
        self.benchmarks: dict[str, dict[str, Any]] = {}
        """Of each benchmark: number of rows, of unreadable rows, and the first unreadable one with its detail."""
        self._rows: list[tuple[str, str]] = []  # (benchmark, row) by number
        self._short_prompts: dict[str, list[int]] = {}  # a short prompt's words -> row numbers
        entries: dict[tuple[Part, int], list[tuple[Any, Any]]] = defaultdict(list)
        for name, rows in benchmarks:
            self._add(name, rows, entries)
        self._indexes = {key: NgramIndex.build(parts) for key, parts in entries.items()}
        self._matches: Counter[tuple[str, Part, int]] = Counter()
        self._matching_pairs: Counter[tuple[str, Part, int]] = Counter()
        self._matching_rows: dict[tuple[str, Part, int], set[str]] = defaultdict(set)

    def matches(self, pairs: Sequence[PreferencePair]) -> list[list[Match]]:
        """Count and return the matches of each pair, by part, size and row; at most one for each of these.

        Some hundred pairs at once are much faster than one.
        """
        matches: list[list[Match]] = [[] for _ in pairs]
        for part in PARTS:
            owners: list[int] = []
            texts: list[list[str]] = []
            for number, pair in enumerate(pairs):
                for text in _texts_of_pair(pair, part):
                    owners.append(number)
                    texts.append(words(text))
            hashed = HashedTexts(texts)
            for n in self.sizes:
                overlaps = self._shared_ngrams(hashed, part, n, owners, texts)
                if part == "prompt":
                    self._add_short_prompts(pairs, n, overlaps)
                pairs_by_benchmark: dict[str, set[int]] = defaultdict(set)
                for (number, row), overlap in sorted(overlaps.items()):
                    pair, (benchmark, name) = pairs[number], self._rows[row]
                    matches[number].append(Match(pair.id, pair.source, part, n, benchmark, name, *overlap))
                    self._matches[benchmark, part, n] += 1
                    self._matching_rows[benchmark, part, n].add(name)
                    pairs_by_benchmark[benchmark].add(number)
                for benchmark, numbers in pairs_by_benchmark.items():
                    self._matching_pairs[benchmark, part, n] += len(numbers)
        return matches

    def problem(self, matches: Iterable[Match]) -> tuple[str, str] | None:
        """Return slug and detail of a pair to drop for its matches; those of the prompt come first."""
        for match in matches:
            smallest = self.config.drop_prompt if match.part == "prompt" else self.config.drop_answer
            if smallest is not None and match.n >= smallest:
                problem = (
                    f"is the prompt of {match.row}"
                    if match.whole
                    else f"shares {match.n} words in a row with {match.row}"
                )
                quote = match.text[:_MAX_QUOTE] + ("…" if len(match.text) > _MAX_QUOTE else "")
                return (
                    f"contaminated_{match.part}",
                    f"The {match.part} {problem} of the benchmark {match.benchmark}: {quote!r}; remove the pair.",
                )
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return `benchmarks` (row counts of each) and `matches`, a list of counts by benchmark, part and n."""
        return {
            "benchmarks": [{"benchmark": name, **counts} for name, counts in sorted(self.benchmarks.items())],
            "matches": [
                {
                    "benchmark": name,
                    "part": part,
                    "n": n,
                    "pairs": self._matching_pairs[name, part, n],
                    "benchmark_rows": len(self._matching_rows[name, part, n]),
                    "matches": count,
                }
                for (name, part, n), count in sorted(self._matches.items())
            ],
        }

    def _add(
        self,
        name: str,
        rows: Iterable[BenchmarkText | Drop],
        entries: dict[tuple[Part, int], list[tuple[Any, Any]]],
    ) -> None:
        """Read one benchmark, and add its n-grams to `entries` as arrays of hashes and row numbers."""
        counts = self.benchmarks.setdefault(name, {"rows": 0, "unreadable": 0, "first_unreadable": None})
        own: dict[tuple[Part, int], list[tuple[Any, Any]]] = defaultdict(list)
        short_prompts: dict[str, list[int]] = defaultdict(list)
        for batch in batches(rows, _BATCH_ROWS):
            readable: list[tuple[int, BenchmarkText]] = []
            for row in batch:
                if isinstance(row, Drop):
                    counts["unreadable"] += 1
                    counts["first_unreadable"] = counts["first_unreadable"] or f"{row.location}: {row.detail}"
                    continue
                counts["rows"] += 1
                readable.append((len(self._rows), row))
                self._rows.append((name, row.row))
            for part in PARTS:
                self._add_ngrams(part, readable, own, short_prompts)
        for key, parts in own.items():
            entries[key].append(without_common(distinct_entries(parts), self.config.common))
        for text, numbers in short_prompts.items():
            if len(numbers) <= self.config.common:
                self._short_prompts.setdefault(text, []).extend(numbers)

    def _add_ngrams(
        self,
        part: Part,
        rows: Sequence[tuple[int, BenchmarkText]],
        own: dict[tuple[Part, int], list[tuple[Any, Any]]],
        short_prompts: dict[str, list[int]],
    ) -> None:
        import numpy as np

        numbers: list[int] = []
        texts: list[list[str]] = []
        for number, row in rows:
            for text in (row.prompt,) if part == "prompt" else row.answers:
                text_words = words(text)
                numbers.append(number)
                texts.append(text_words)
                if part == "prompt" and SHORTEST <= len(text_words) < self.sizes[-1]:
                    short_prompts[" ".join(text_words)].append(number)
        hashed, row_of_text = HashedTexts(texts), np.array(numbers, np.int32)
        for n in self.sizes:
            hashes, starts = hashed.ngrams(n)
            own[part, n].append((hashes, row_of_text[hashed.owner[starts]]))

    def _shared_ngrams(
        self, hashed: HashedTexts, part: Part, n: int, owners: Sequence[int], texts: Sequence[Sequence[str]]
    ) -> Overlaps:
        overlaps: Overlaps = {}
        if (part, n) not in self._indexes:
            return overlaps
        hashes, starts = hashed.ngrams(n)
        for place, rows in self._indexes[part, n].find(hashes):
            start = int(starts[place])
            text = int(hashed.owner[start])
            first = start - int(hashed.first[text])
            for row in rows.tolist():
                key = (owners[text], row)
                if earlier := overlaps.get(key):
                    overlaps[key] = earlier._replace(ngrams=earlier.ngrams + 1)
                else:
                    overlaps[key] = _Overlap(1, False, " ".join(texts[text][first : first + n]))
        return overlaps

    def _add_short_prompts(self, pairs: Sequence[PreferencePair], n: int, overlaps: Overlaps) -> None:
        """Add the rows whose short prompt is a user turn of the pair, or all user turns together."""
        if not self._short_prompts:
            return
        for number, pair in enumerate(pairs):
            turns = [words(turn["content"]) for turn in pair.history if turn["role"] == "user"]
            if len(turns) > 1:
                turns.append([word for turn in turns for word in turn])
            for turn in turns:
                if SHORTEST <= len(turn) < n:
                    text = " ".join(turn)
                    for row in self._short_prompts.get(text, ()):
                        overlaps.setdefault((number, row), _Overlap(1, True, text))


def decontaminate(
    rows: Iterable[Row],
    decontaminator: Decontaminator,
    on_drop: Callable[[Drop], None],
    on_match: Callable[[Match], None],
) -> Iterator[Row]:
    """Yield the pairs that the config does not drop for their matches, in their order, read 256 at a time.

    Args:
        rows: pairs, or objects with a `pair`.
        decontaminator: the benchmarks to compare with.
        on_drop: called once for each pair left out: stage `clean`, reason `contaminated_prompt` or
            `contaminated_answer`, the pair's id as location.
        on_match: called for every match of every pair, also of pairs that are not dropped.
    """
    for batch in batches(rows, BATCH):
        pairs = [row.pair for row in batch]
        for row, pair, matches in zip(batch, pairs, decontaminator.matches(pairs), strict=True):
            for match in matches:
                on_match(match)
            problem = decontaminator.problem(matches)
            if problem is None:
                yield row
            else:
                on_drop(Drop(pair.id, pair.source, *problem, "clean"))


def _texts_of_pair(pair: PreferencePair, part: Part) -> Iterator[str]:
    for turn in pair.history:
        if (turn["role"] == "assistant") == (part == "answer"):
            yield turn["content"]
    if part == "answer":
        yield pair.chosen
        yield pair.rejected
