"""The data report: counts of rows that came in, were kept, and were dropped at which stage and why; sums are checked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeVar

from reasongenrm.records import Drop, HasPair, Letter, PreferencePair

Loaded = TypeVar("Loaded", bound=HasPair)

UNIT = "pairs, or rows that could not become pairs"
TOKENS_PER_BIN = 64

UNKNOWN_LANGUAGE = "und"
"""ISO 639-3 for "undetermined": too short, no letters, or in doubt."""

_LONGEST_TEXT = 1000  # characters that are read to detect a language
_SHORTEST_TEXT = 12
# No other language's running text has all of these. whatlang takes 0.1 ms per text, which would be most of the time of
# reading a pair, and most pairs are in English.
_ENGLISH_WORDS = frozenset(
    "the and of to that is with for this you are from which your have their there would should what not".split()
)
_ENGLISH_SHARE = 0.12  # of the first words
_ENGLISH_KINDS = 4  # different words among them
_FIRST_WORDS = 60


class DataReport:
    """Counts rows through the stages that make judge prompts: load, clean, length, …

    The unit is a *pair, or a row that could not become a pair*: what a loader yields. One line of a ranked
    CSV may become several pairs, each counted on its own. Every unit is counted once as loaded, and at the end once as
    either kept or dropped, under the same source. A pair rendered in both orders is still one unit: it is kept when
    one of its judge prompts is, and dropped when all of them are. Only `add_placement` and `add_tokens` count judge
    prompts.

    Memory does not grow with the rows: it is some counters per source and per template.
    """

    def __init__(self, token_limits: Mapping[str, int] | None = None) -> None:
        """Args: token_limits: template -> the most tokens that the recipe allows, for comparison."""
        self._limits = dict(token_limits or {})
        self._sources: dict[str, _SourceCounts] = defaultdict(_SourceCounts)
        self._examples: dict[tuple[str, str], Drop] = {}
        self._tokens: dict[str, Counter[int]] = defaultdict(Counter)  # template -> tokens -> judge prompts

    def count_loaded(self, rows: Iterable[Loaded | Drop]) -> Iterator[Loaded | Drop]:
        """Pass rows on (pairs, or objects with a `pair`), each counted as loaded."""
        for row in rows:
            self.add_loaded(row.source)
            yield row

    def add_loaded(self, source: str) -> None:
        """Count a unit that came in."""
        self._counts(source).loaded += 1

    def add_drop(self, drop: Drop) -> None:
        """Count a unit that some stage left out; the first of each stage and reason is shown."""
        key = (drop.stage, drop.reason)
        self._counts(drop.source).drops[key] += 1
        self._examples.setdefault(key, drop)

    def add_kept(self, pair: PreferencePair, language: str | None = None) -> None:
        """Count a pair that came through all stages, with its lengths, its number of turns and its language."""
        counts = self._counts(pair.source)
        chosen, rejected = len(pair.chosen), len(pair.rejected)
        counts.kept += 1
        counts.chosen_characters += chosen
        counts.rejected_characters += rejected
        counts.chosen_longer += chosen > rejected
        counts.rejected_longer += rejected > chosen
        counts.chosen_bins[_length_bin(chosen)] += 1
        counts.rejected_bins[_length_bin(rejected)] += 1
        counts.user_turns[[turn["role"] for turn in pair.history].count("user")] += 1
        counts.with_points += bool(pair.reference_points)
        counts.points += len(pair.reference_points)
        if language is not None:
            counts.languages[language] += 1

    def add_placement(self, source: str, winner: Letter) -> None:
        """Count a judge prompt by the letter of its winner, for the A/B balance."""
        self._counts(source).winners[winner] += 1

    def add_tokens(self, template: str, tokens: int) -> None:
        """Count the length of a judge prompt rendered with a template, kept or dropped for its length."""
        self._tokens[template][tokens] += 1

    def _counts(self, source: str) -> _SourceCounts:
        # Escaped here and not when printed, so that two sources never look the same only in print.
        return self._sources[_escape_unprintable(source)]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values, sources and reasons sorted.

        Raises:
            AssertionError: for some source, in ≠ kept + dropped: a stage lost a row or counted it twice.
        """
        total = _SourceCounts()
        for source, counts in sorted(self._sources.items()):
            kept, dropped = counts.kept, counts.drops.total()
            problem = f"source {source!r}: {counts.loaded} in, but {kept} kept + {dropped} dropped"
            assert counts.loaded == kept + dropped, problem
            total.add(counts)
        return {
            "unit": UNIT,
            "total": total.to_dict(),
            "sources": {name: counts.to_dict() for name, counts in sorted(self._sources.items())},
            "first_dropped": [
                {
                    "stage": stage,
                    "reason": reason,
                    "location": _escape_unprintable(drop.location),
                    "detail": _escape_unprintable(drop.detail),
                }
                for (stage, reason), drop in sorted(self._examples.items())
            ],
            "length_histogram": total.histogram(),
            "tokens": {
                name: _token_figures(lengths, self._limits.get(name))
                for name, lengths in sorted(self._tokens.items())
            },
        }


@dataclass(slots=True)
class _SourceCounts:
    """Counts of one source, or of all of them. Lengths are in characters, over kept pairs."""

    loaded: int = 0
    kept: int = 0
    drops: Counter[tuple[str, str]] = field(default_factory=Counter)  # (stage, reason) -> rows
    winners: Counter[str] = field(default_factory=Counter)  # A, B -> judge prompts
    user_turns: Counter[int] = field(default_factory=Counter)  # -> kept pairs, as the next three
    languages: Counter[str] = field(default_factory=Counter)
    chosen_bins: Counter[int] = field(default_factory=Counter)
    rejected_bins: Counter[int] = field(default_factory=Counter)
    chosen_characters: int = 0
    rejected_characters: int = 0
    chosen_longer: int = 0
    rejected_longer: int = 0
    with_points: int = 0
    points: int = 0

    def add(self, other: _SourceCounts) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_dict(self) -> dict[str, Any]:
        by_stage: dict[str, dict[str, int]] = {}
        for (stage, reason), count in sorted(self.drops.items()):
            by_stage.setdefault(stage, {})[reason] = count
        return {
            "in": self.loaded,
            "kept": self.kept,
            "dropped": self.drops.total(),
            "dropped_by_stage": by_stage,
            "judge_prompts": {
                "A": self.winners["A"],
                "B": self.winners["B"],
                "share_A": _ratio(self.winners["A"], self.winners.total(), 4),
            },
            "length": {
                "mean_chosen_characters": _ratio(self.chosen_characters, self.kept, 1),
                "mean_rejected_characters": _ratio(self.rejected_characters, self.kept, 1),
                "share_chosen_longer": _ratio(self.chosen_longer, self.kept, 4),
                "share_rejected_longer": _ratio(self.rejected_longer, self.kept, 4),
            },
            "user_turns": {str(number): count for number, count in sorted(self.user_turns.items())},
            "languages": dict(sorted(self.languages.items())),
        } | self._reference_points()

    def _reference_points(self) -> dict[str, Any]:
        """Return the section `reference_points`: kept pairs that have some, and their number; no section where none has."""
        if not self.points:
            return {}
        return {"reference_points": {"pairs": self.with_points, "points": self.points}}

    def histogram(self) -> list[dict[str, int]]:
        chosen, rejected = self.chosen_bins, self.rejected_bins
        bins = [*chosen, *rejected]
        return [
            {"characters_from": _lower_end(number), "chosen": chosen[number], "rejected": rejected[number]}
            for number in (range(min(bins), max(bins) + 1) if bins else ())
        ]


def _token_figures(lengths: Counter[int], limit: int | None) -> dict[str, Any]:
    """Return the figures of one template: tokens -> number of judge prompts, and the limit of the recipe."""
    bins: Counter[int] = Counter()
    for tokens, count in lengths.items():
        bins[tokens // TOKENS_PER_BIN] += count
    histogram = sorted(bins.items())
    prompts, longest = lengths.total(), max(lengths)

    def quantile(share: float) -> int:
        """Return the upper end of the bin up to which this share of the prompts lies."""
        totals = accumulate(count for _, count in histogram)
        number = next(
            number for (number, _), total in zip(histogram, totals, strict=True) if total >= share * prompts
        )
        return min((number + 1) * TOKENS_PER_BIN - 1, longest)

    return {
        "prompts": prompts,
        "limit": limit,
        "over_limit": sum(n for tokens, n in lengths.items() if limit is not None and tokens > limit),
        "mean": _ratio(sum(tokens * count for tokens, count in lengths.items()), prompts, 1),
        "half_up_to": quantile(0.5),
        "nine_tenths_up_to": quantile(0.9),
        "99_percent_up_to": quantile(0.99),
        "longest": longest,
        "tokens_per_bin": TOKENS_PER_BIN,
        "histogram": [[number * TOKENS_PER_BIN, count] for number, count in histogram],
    }


def _length_bin(length: int) -> int:
    """Return the bin of a length: 0, 1, and then two bins to each doubling."""
    if length < 2:
        return length
    bits = length.bit_length()
    return 2 * bits - 2 + (length >> (bits - 2) & 1)


def _lower_end(number: int) -> int:
    """Return the smallest length in a bin."""
    return number if number < 2 else (2 + number % 2) << (number // 2 - 1)


def _escape_unprintable(text: str) -> str:
    """Return the text with line ends, control characters and halves of surrogate pairs written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _ratio(part: int, whole: int, digits: int) -> float | None:
    return round(part / whole, digits) if whole else None


def pair_language(pair: PreferencePair) -> str:
    """Return the language of a pair's last user turn and chosen answer, read up to 500 characters each."""
    half = _LONGEST_TEXT // 2
    return language(f"{pair.history[-1]['content'][:half]}\n{pair.chosen[:half]}")


def language(text: str) -> str:
    """Return the ISO 639-3 code of a text's language (`eng`, `cmn`, …), or UNKNOWN_LANGUAGE where whatlang is not sure.

    Plain English is recognized by its commonest words, without whatlang. At most 1,000 characters are read.
    """
    text = text[:_LONGEST_TEXT]
    if len(text.strip()) < _SHORTEST_TEXT:
        return UNKNOWN_LANGUAGE
    if _is_plain_english(text):
        return "eng"
    import whatlang

    try:
        detected: Any = whatlang.detect(text)
    except ValueError:  # no letters at all
        return UNKNOWN_LANGUAGE
    return str(detected.lang) if detected.is_reliable else UNKNOWN_LANGUAGE


def _is_plain_english(text: str) -> bool:
    first = text.lower().split(None, _FIRST_WORDS)[:_FIRST_WORDS]
    common = [word for word in first if word in _ENGLISH_WORDS]
    return len(common) >= _ENGLISH_SHARE * len(first) and len(set(common)) >= _ENGLISH_KINDS
