"""N-gram decontamination: training pairs that share runs of words with a benchmark.

The method is that of Brown et al. 2020 (arXiv 2005.14165, appendix C): words without case and punctuation, and
n-grams of 8 to 13 words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from reasongenrm.config.prepare import DecontaminateConfig
from reasongenrm.data.benchmark_texts import BenchmarkText
from reasongenrm.data.ngrams import Grams, Texts, batches, joined, without_common, words
from reasongenrm.records import Drop, HasPair, PreferencePair

Row = TypeVar("Row", bound=HasPair)
Part = Literal["prompt", "answer"]
PARTS: tuple[Part, ...] = ("prompt", "answer")
BATCH = 256
SHORTEST = 4
"""A prompt of fewer words than an n-gram is matched whole, from this many words on."""
_BATCH_ROWS = 1024
_SHOWN = 200


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
        count: n-grams shared, counted in the pair.
        whole: whether the prompts are the same and shorter than n words (then `count` is 1).
        text: the first of the n-grams shared, folded and without punctuation.
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


class Decontaminator:
    """The n-grams of the benchmarks, prompts and answers apart, and the training pairs that hold them.

    A training prompt shorter than n words matches a benchmark's prompt if the two are the same, word for word, and
    have at least SHORTEST words; compared are each user turn alone, and all of them together. Answers shorter than n
    words never match: "Yes, that is right." answers a thousand questions. What stands in more than `config.common`
    rows of one benchmark (instructions, refusals) is no match. Memory is 12 bytes per word and n-gram size of the
    benchmarks, and at most 16 MiB of filter for each size and part.
    """

    def __init__(
        self,
        config: DecontaminateConfig,
        benchmarks: Iterable[tuple[str, Iterable[BenchmarkText | Drop]]],
    ) -> None:
        """Read the benchmarks.

        Args:
            benchmarks: name and rows of each.

        Raises:
            ConfigError, DataError: from the rows' reader.
        """
        self.config = config
        self.sizes = sorted(set(config.ngrams))
        self.read: dict[str, dict[str, Any]] = {}
        """Of each benchmark: rows read, rows unreadable, and the first unreadable one with its detail."""
        self._rows: list[tuple[str, str]] = []  # (benchmark, row) by number
        self._whole: dict[str, list[int]] = {}  # a short prompt's words -> rows
        found: dict[tuple[Part, int], list[tuple[Any, Any]]] = defaultdict(list)
        for name, rows in benchmarks:
            self._add(name, rows, found)
        self._grams = {key: Grams.of(*joined(parts)) for key, parts in found.items()}

    def matches(self, pair: PreferencePair) -> list[Match]:
        """Return what the pair shares with the benchmarks, by part, size and row; at most one Match for each."""
        return self.batch_matches([pair])[0]

    def batch_matches(self, pairs: Sequence[PreferencePair]) -> list[list[Match]]:
        """Do `matches` for each of the pairs; some hundred at once are much faster than one."""
        found: list[list[Match]] = [[] for _ in pairs]
        for part in PARTS:
            owners: list[int] = []
            texts: list[list[str]] = []
            for number, pair in enumerate(pairs):
                for text in _texts_of(pair, part):
                    owners.append(number)
                    texts.append(words(text))
            flat = Texts(texts)
            for n in self.sizes:
                hits = self._hits(flat, part, n, owners, texts)
                if part == "prompt":
                    self._whole_hits(pairs, n, hits)
                for (number, row), (count, whole, text) in sorted(hits.items()):
                    pair, (benchmark, name) = pairs[number], self._rows[row]
                    found[number].append(
                        Match(pair.id, pair.source, part, n, benchmark, name, count, whole, text)
                    )
        return found

    def problem(self, matches: Iterable[Match]) -> tuple[str, str] | None:
        """Return the slug and the sentence for a pair whose matches drop it; a prompt's come before an answer's."""
        for match in matches:
            least = self.config.drop_prompt if match.part == "prompt" else self.config.drop_answer
            if least is not None and match.n >= least:
                problem = (
                    f"is the prompt of {match.row}"
                    if match.whole
                    else f"shares {match.n} words in a row with {match.row}"
                )
                shown = match.text[:_SHOWN] + ("…" if len(match.text) > _SHOWN else "")
                return (
                    f"contaminated_{match.part}",
                    f"The {match.part} {problem} of the benchmark {match.benchmark}: {shown!r}; remove the pair.",
                )
        return None

    def _add(
        self,
        name: str,
        rows: Iterable[BenchmarkText | Drop],
        found: dict[tuple[Part, int], list[tuple[Any, Any]]],
    ) -> None:
        """Read one benchmark; its n-grams go to `found`, as arrays of hashes and row numbers."""
        read = self.read.setdefault(name, {"rows": 0, "unreadable": 0, "first_unreadable": None})
        own: dict[tuple[Part, int], list[tuple[Any, Any]]] = defaultdict(list)
        whole: dict[str, list[int]] = defaultdict(list)
        for batch in batches(rows, _BATCH_ROWS):
            good: list[tuple[int, BenchmarkText]] = []
            for row in batch:
                if isinstance(row, Drop):
                    read["unreadable"] += 1
                    read["first_unreadable"] = read["first_unreadable"] or f"{row.location}: {row.detail}"
                    continue
                read["rows"] += 1
                good.append((len(self._rows), row))
                self._rows.append((name, row.row))
            for part in PARTS:
                self._index(part, good, own, whole)
        for key, pieces in own.items():
            found[key].append(without_common(*joined(pieces), self.config.common))
        for text, numbers in whole.items():
            if len(numbers) <= self.config.common:
                self._whole.setdefault(text, []).extend(numbers)

    def _index(
        self,
        part: Part,
        rows: Sequence[tuple[int, BenchmarkText]],
        own: dict[tuple[Part, int], list[tuple[Any, Any]]],
        whole: dict[str, list[int]],
    ) -> None:
        import numpy as np

        numbers: list[int] = []
        texts: list[list[str]] = []
        for number, row in rows:
            for text in (row.prompt,) if part == "prompt" else row.answers:
                found = words(text)
                numbers.append(number)
                texts.append(found)
                if part == "prompt" and SHORTEST <= len(found) < self.sizes[-1]:
                    whole[" ".join(found)].append(number)
        flat, of_text = Texts(texts), np.array(numbers, np.int32)
        for n in self.sizes:
            hashes, starts = flat.ngrams(n)
            own[part, n].append((hashes, of_text[flat.owner[starts]]))

    def _hits(
        self, flat: Texts, part: Part, n: int, owners: Sequence[int], texts: Sequence[Sequence[str]]
    ) -> dict[tuple[int, int], tuple[int, bool, str]]:
        """Return (pair number, row number) -> (n-grams shared, False, the first of them)."""
        hits: dict[tuple[int, int], tuple[int, bool, str]] = {}
        if (part, n) not in self._grams:
            return hits
        hashes, starts = flat.ngrams(n)
        for place, rows in self._grams[part, n].find(hashes):
            start = int(starts[place])
            text = int(flat.owner[start])
            first = start - int(flat.first[text])
            for row in rows.tolist():
                count, _, shown = hits.get((owners[text], row), (0, False, ""))
                shown = shown or " ".join(texts[text][first : first + n])
                hits[owners[text], row] = (count + 1, False, shown)
        return hits

    def _whole_hits(
        self, pairs: Sequence[PreferencePair], n: int, hits: dict[tuple[int, int], tuple[int, bool, str]]
    ) -> None:
        """Add the rows whose short prompt is a user turn of the pair, or all of them together."""
        if not self._whole:
            return
        for number, pair in enumerate(pairs):
            turns = [words(turn["content"]) for turn in pair.history if turn["role"] == "user"]
            if len(turns) > 1:
                turns.append([word for turn in turns for word in turn])
            for turn in turns:
                if SHORTEST <= len(turn) < n:
                    text = " ".join(turn)
                    for row in self._whole.get(text, ()):
                        hits.setdefault((number, row), (1, True, text))


class Contamination:
    """Counts matches for the data report; memory is one number per benchmark row matched."""

    def __init__(self, benchmarks: Mapping[str, Mapping[str, Any]]) -> None:
        """Args: benchmarks: `Decontaminator.read`."""
        self._read = benchmarks
        self._pairs: Counter[tuple[str, Part, int]] = Counter()
        self._matches: Counter[tuple[str, Part, int]] = Counter()
        self._rows: dict[tuple[str, Part, int], set[str]] = defaultdict(set)
        self._last: dict[tuple[str, Part, int], str] = {}

    def add(self, match: Match) -> None:
        """Count a match; those of one pair come one after the other."""
        key = (match.benchmark, match.part, match.n)
        self._matches[key] += 1
        self._rows[key].add(match.row)
        self._pairs[key] += self._last.get(key) != match.pair_id
        self._last[key] = match.pair_id

    def to_dict(self) -> dict[str, Any]:
        """Return `benchmarks` (what was read of each) and `matches`, a list of counts by benchmark, part and n."""
        return {
            "benchmarks": [{"benchmark": name, **read} for name, read in sorted(self._read.items())],
            "matches": [
                {
                    "benchmark": name,
                    "part": part,
                    "n": n,
                    "pairs": self._pairs[name, part, n],
                    "benchmark_rows": len(self._rows[name, part, n]),
                    "matches": count,
                }
                for (name, part, n), count in sorted(self._matches.items())
            ],
        }


def decontaminate(
    rows: Iterable[Row],
    decontaminator: Decontaminator,
    on_drop: Callable[[Drop], None],
    on_match: Callable[[Match], None],
) -> Iterator[Row]:
    """Yield the pairs that the config does not drop for their matches, in their order, read 256 at a time.

    Args:
        rows: pairs, or what holds a `pair`.
        decontaminator: what they are compared with.
        on_drop: called once for each pair left out: stage `clean`, reason `contaminated_prompt` or
            `contaminated_answer`, the pair's id as `where`.
        on_match: called for every match of every pair, those listed alone included.
    """
    for batch in batches(rows, BATCH):
        pairs = [row.pair for row in batch]
        for row, pair, matches in zip(batch, pairs, decontaminator.batch_matches(pairs), strict=True):
            for match in matches:
                on_match(match)
            problem = decontaminator.problem(matches)
            if problem is None:
                yield row
            else:
                on_drop(Drop(pair.id, pair.source, *problem, "clean"))


def _texts_of(pair: PreferencePair, part: Part) -> Iterator[str]:
    for turn in pair.history:
        if (turn["role"] == "assistant") == (part == "answer"):
            yield turn["content"]
    if part == "answer":
        yield pair.chosen
        yield pair.rejected
