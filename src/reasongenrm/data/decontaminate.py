"""N-gram decontamination: training pairs that share runs of words with a benchmark.

The method is that of Brown et al. 2020 (arXiv 2005.14165, appendix C): words without case and punctuation, and
n-grams of 8 to 13 words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reasongenrm.config.prepare import DecontaminateConfig
from reasongenrm.data.clean import Problem
from reasongenrm.data.ngrams import Entries, HashedTexts, NgramIndex, batches, rare_entries, words
from reasongenrm.errors import DataError
from reasongenrm.records import Drop, HasPair, PreferencePair
from reasongenrm.rows.files import RawRow, read_rows

Part = Literal["prompt", "answer"]
Role = Literal["user", "assistant"]
PARTS: tuple[Part, ...] = ("prompt", "answer")
SHORTEST = 4
"""A prompt shorter than an n-gram is compared as a whole if it has at least this many words."""
PROMPTS = (
    "prompt",
    "question",
    "instruction",
    "query",
    "input",
    "messages",
    "conversation",
    "conversation_input",
)
"""Columns with prompts."""
ANSWERS = (
    *("chosen", "rejected", "answer", "answers", "response", "responses", "output", "outputs", "completion"),
    *("reject", "bon_best", "loser_list"),  # of RMB
    *(f"{name}_{side}" for name in ("response", "output", "answer") for side in "12abAB"),
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
    prompt_texts = [text for name in PROMPTS for text in _texts(row.columns.get(name), "user")]
    answer_texts = [text for name in ANSWERS for text in _texts(row.columns.get(name), "assistant")]
    prompts = [text for role, text in prompt_texts if role == "user"]
    # The messages of an answer may repeat the conversation before it; it is the prompt of a row without one.
    prompts = prompts or list(dict.fromkeys(text for role, text in answer_texts if role == "user"))
    answers = dict.fromkeys(text for role, text in prompt_texts + answer_texts if role == "assistant")
    if not prompts and not answers:
        present = ", ".join(sorted(map(str, row.columns))[:12]) or "none"
        detail = f"No column with prompts or answers has a text (found: {present})."
        return Drop(row.location, row.origin, "no_text", detail, "decontaminate")
    return BenchmarkText(row.location, "\n".join(prompts), tuple(answers))


def _texts(value: Any, role: Role) -> Iterator[tuple[Role, str]]:
    """Yield every text in a column's value with its role; `role` is that of a text without one."""
    if isinstance(value, str):
        if value.strip():
            yield role, value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, role)
    elif isinstance(value, Mapping) and value.get("role") != "system":
        content, message_role = value.get("content", value.get("answer")), value.get("role")
        if isinstance(content, str):
            yield from _texts(content, "user" if message_role == "user" else "assistant")


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


Overlaps = dict[tuple[int, int], tuple[int, bool, str]]
"""(pair number, row number) -> `count`, `whole` and `text` of a `Match`."""


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
        entries: dict[tuple[Part, int], list[Entries]] = defaultdict(list)
        for name, rows in benchmarks:
            for key, parts in self._read(name, rows).items():
                entries[key].append(rare_entries(parts, config.common))
        self._indexes = {key: NgramIndex(parts) for key, parts in entries.items()}
        self._matching_pairs: Counter[tuple[str, Part, int]] = Counter()
        # (benchmark, part, n) -> row -> matches
        self._matching_rows: dict[tuple[str, Part, int], Counter[str]] = defaultdict(Counter)

    def problems(
        self, rows: Sequence[HasPair], on_match: Callable[[Match], None] = lambda match: None
    ) -> Iterator[Problem | None]:
        """Yield for each pair the problem that the config drops it for, `contaminated_prompt` or
        `contaminated_answer`, or None; pass every match to `on_match`, also those of pairs that are kept."""
        for matches in self.matches([row.pair for row in rows]):
            for match in matches:
                on_match(match)
            yield self._problem(matches)

    def matches(self, pairs: Sequence[PreferencePair]) -> list[list[Match]]:
        """Count and return the matches of each pair, by part, size and row; at most one for each of these.

        Some hundred pairs at once are much faster than one.
        """
        matches: list[list[Match]] = [[] for _ in pairs]
        for part in PARTS:
            texts = [
                (number, words(text))
                for number, pair in enumerate(pairs)
                for text in _texts_of_pair(pair, part)
            ]
            hashed = HashedTexts(texts)
            for n in self.sizes:
                overlaps = self._shared_ngrams(hashed, part, n, texts)
                if part == "prompt":
                    self._add_short_prompts(pairs, n, overlaps)
                for (number, row), overlap in sorted(overlaps.items()):
                    pair, (benchmark, name) = pairs[number], self._rows[row]
                    matches[number].append(Match(pair.id, pair.source, part, n, benchmark, name, *overlap))
        for pair_matches in matches:
            for match in pair_matches:
                self._matching_rows[match.benchmark, match.part, match.n][match.row] += 1
            self._matching_pairs.update({(match.benchmark, match.part, match.n) for match in pair_matches})
        return matches

    def _problem(self, matches: Iterable[Match]) -> Problem | None:
        for match in matches:
            smallest = self.config.drop_prompt if match.part == "prompt" else self.config.drop_answer
            if smallest is not None and match.n >= smallest:
                relation = "is the prompt of" if match.whole else f"shares {match.n} words in a row with"
                quote = match.text[:_MAX_QUOTE] + ("…" if len(match.text) > _MAX_QUOTE else "")
                place = f"{match.row} of the benchmark {match.benchmark}"
                detail = f"The {match.part} {relation} {place}: {quote!r}; remove the pair."
                return f"contaminated_{match.part}", detail
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
                    "benchmark_rows": len(rows),
                    "matches": rows.total(),
                }
                for (name, part, n), rows in sorted(self._matching_rows.items())
            ],
        }

    def _read(self, name: str, rows: Iterable[BenchmarkText | Drop]) -> dict[tuple[Part, int], list[Entries]]:
        """Count one benchmark's rows, keep its short prompts, and return its n-grams."""
        import numpy as np

        counts = self.benchmarks.setdefault(name, {"rows": 0, "unreadable": 0, "first_unreadable": None})
        ngrams: dict[tuple[Part, int], list[Entries]] = defaultdict(list)
        short_prompts: dict[str, list[int]] = defaultdict(list)
        for batch in batches(rows, _BATCH_ROWS):
            texts: dict[Part, list[tuple[int, list[str]]]] = {part: [] for part in PARTS}
            for row in batch:
                if isinstance(row, Drop):
                    counts["unreadable"] += 1
                    counts["first_unreadable"] = counts["first_unreadable"] or f"{row.location}: {row.detail}"
                    continue
                counts["rows"] += 1
                number, prompt = len(self._rows), words(row.prompt)
                self._rows.append((name, row.row))
                texts["prompt"].append((number, prompt))
                texts["answer"] += [(number, words(answer)) for answer in row.answers]
                if SHORTEST <= len(prompt) < self.sizes[-1]:
                    short_prompts[" ".join(prompt)].append(number)
            for part in PARTS:
                hashed = HashedTexts(texts[part])
                for n in self.sizes:
                    hashes, starts = hashed.ngrams(n)
                    ngrams[part, n].append((hashes, hashed.group[starts].astype(np.int32)))
        for text, numbers in short_prompts.items():
            if len(numbers) <= self.config.common:
                self._short_prompts.setdefault(text, []).extend(numbers)
        return ngrams

    def _shared_ngrams(
        self, hashed: HashedTexts, part: Part, n: int, texts: Sequence[tuple[int, list[str]]]
    ) -> Overlaps:
        overlaps: Overlaps = {}
        hashes, starts = hashed.ngrams(n)
        index = self._indexes.get((part, n))
        for place, rows in index.find(hashes) if index else ():
            start = int(starts[place])
            text = int(hashed.owner[start])
            pair_number, text_words = texts[text]
            first = start - int(hashed.first[text])
            for row in rows.tolist():
                key = (pair_number, row)
                if key not in overlaps:
                    overlaps[key] = (0, False, " ".join(text_words[first : first + n]))
                count, whole, quote = overlaps[key]
                overlaps[key] = (count + 1, whole, quote)
        return overlaps

    def _add_short_prompts(self, pairs: Sequence[PreferencePair], n: int, overlaps: Overlaps) -> None:
        """Add the rows whose short prompt is a user turn of the pair, or all user turns together."""
        for number, pair in enumerate(pairs):
            turns = [words(turn["content"]) for turn in pair.history if turn["role"] == "user"]
            together = [word for turn in turns for word in turn]
            for prompt in (*turns, together):
                if SHORTEST <= len(prompt) < n:
                    text = " ".join(prompt)
                    for row in self._short_prompts.get(text, ()):
                        overlaps.setdefault((number, row), (1, True, text))


def _texts_of_pair(pair: PreferencePair, part: Part) -> list[str]:
    if part == "prompt":
        return [turn["content"] for turn in pair.history if turn["role"] != "assistant"]
    return [
        *(turn["content"] for turn in pair.history if turn["role"] == "assistant"),
        pair.chosen,
        pair.rejected,
    ]
