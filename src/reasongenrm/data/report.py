"""The data report: what came in, what was kept, and what was dropped where and why; its sums are checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from reasongenrm.records import Drop, HasPair, Letter, PreferencePair

Row = TypeVar("Row", bound=HasPair)


UNIT = "pairs, or rows that could not become pairs"


TOKENS_PER_BIN = 64


OWN_KEYS = ("unit", "total", "sources", "first_dropped", "length_histogram", "tokens")


@dataclass(slots=True)
class _Counts:
    """Counts of one source, or of all of them. Lengths are in characters, over kept pairs."""

    seen: int = 0
    kept: int = 0
    drops: Counter[tuple[str, str]] = field(default_factory=Counter)  # (stage, reason) -> rows
    winners: Counter[str] = field(default_factory=Counter)  # A, B -> judge prompts
    # (user turns, language) and (bin of chosen, bin of rejected) -> kept pairs; two counters cost half of four.
    kinds: Counter[tuple[int, str | None]] = field(default_factory=Counter)
    lengths: Counter[tuple[int, int]] = field(default_factory=Counter)
    chosen_characters: int = 0
    rejected_characters: int = 0
    chosen_longer: int = 0
    rejected_longer: int = 0

    def add(self, other: _Counts) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_dict(self) -> dict[str, Any]:
        by_stage: dict[str, dict[str, int]] = {}
        for (stage, reason), count in sorted(self.drops.items()):
            by_stage.setdefault(stage, {})[reason] = count
        turns, languages = Counter[int](), Counter[str]()
        for (number, language), count in self.kinds.items():
            turns[number] += count
            if language is not None:
                languages[language] += count
        placed = self.winners.total()
        return {
            "in": self.seen,
            "kept": self.kept,
            "dropped": self.drops.total(),
            "dropped_by_stage": by_stage,
            "judge_prompts": {
                "A": self.winners["A"],
                "B": self.winners["B"],
                "share_A": _ratio(self.winners["A"], placed, 4),
            },
            "length": {
                "mean_chosen_characters": _ratio(self.chosen_characters, self.kept, 1),
                "mean_rejected_characters": _ratio(self.rejected_characters, self.kept, 1),
                "share_chosen_longer": _ratio(self.chosen_longer, self.kept, 4),
                "share_rejected_longer": _ratio(self.rejected_longer, self.kept, 4),
            },
            "user_turns": {str(number): count for number, count in sorted(turns.items())},
            "languages": dict(sorted(languages.items())),
        }

    def histogram(self) -> list[dict[str, int]]:
        chosen, rejected = Counter[int](), Counter[int]()
        for (of_chosen, of_rejected), count in self.lengths.items():
            chosen[of_chosen] += count
            rejected[of_rejected] += count
        bins = [*chosen, *rejected]
        return [
            {"characters_from": _lower_end(at), "chosen": chosen[at], "rejected": rejected[at]}
            for at in (range(min(bins), max(bins) + 1) if bins else ())
        ]


@dataclass(slots=True)
class _Tokens:
    """Lengths of one template's prompts, in tokens."""

    limit: int | None
    bins: Counter[int] = field(default_factory=Counter)
    prompts: int = 0
    tokens: int = 0
    longest: int = 0
    over_limit: int = 0

    def add(self, tokens: int) -> None:
        self.prompts += 1
        self.tokens += tokens
        self.bins[tokens // TOKENS_PER_BIN] += 1
        self.longest = max(self.longest, tokens)
        self.over_limit += self.limit is not None and tokens > self.limit

    def to_dict(self) -> dict[str, Any]:
        return {
            "prompts": self.prompts,
            "limit": self.limit,
            "over_limit": self.over_limit,
            "mean": _ratio(self.tokens, self.prompts, 1),
            "half_up_to": self._quantile(0.5),
            "nine_tenths_up_to": self._quantile(0.9),
            "99_percent_up_to": self._quantile(0.99),
            "longest": self.longest,
            "tokens_per_bin": TOKENS_PER_BIN,
            "histogram": [[at * TOKENS_PER_BIN, count] for at, count in sorted(self.bins.items())],
        }

    def _quantile(self, share: float) -> int | None:
        """Return the upper end of the bin up to which this share of the prompts lies."""
        below = 0
        for at, count in sorted(self.bins.items()):
            below += count
            if below >= share * self.prompts:
                return min((at + 1) * TOKENS_PER_BIN - 1, self.longest)
        return None


class DataReport:
    """Counts rows through the stages that make judge prompts: load, clean, length, …

    The unit is a *pair, or a row that could not become a pair*: what a loader yields. One line of a ranked
    CSV may become several pairs, each counted on its own. Every unit is `seen` once, when it comes in, and at
    the end is either `kept` or `dropped`, once, under the same source. A pair rendered in both orders is
    still one unit: it is kept when one of its judge prompts is, and dropped when all of them are. Only
    `placed` and `tokens` count judge prompts. What becomes of a kept pair's reasons is counted in sections of
    their own.

    Memory does not grow with the rows: it is some counters per source and per template.
    """

    def __init__(self, token_limits: Mapping[str, int] | None = None) -> None:
        """Args: token_limits: template -> the most tokens that the recipe allows, for comparison."""
        self._limits = dict(token_limits or {})
        self._sources: dict[str, _Counts] = {}
        self._spelled: dict[str, _Counts] = {}  # as the rows write it -> the same counts
        self._examples: dict[tuple[str, str], Drop] = {}
        self._tokens: dict[str, _Tokens] = {}
        self._sections: dict[str, Mapping[str, Any]] = {}

    def watch(self, rows: Iterable[Row | Drop]) -> Iterator[Row | Drop]:
        """Pass rows on, pairs or what holds a `pair`, each counted as seen."""
        for row in rows:
            self.seen(row.source)
            yield row

    def seen(self, source: str) -> None:
        """Count a unit that came in."""
        self._of(source).seen += 1

    def dropped(self, drop: Drop) -> None:
        """Count a unit that some stage left out; the first of each stage and reason is shown."""
        key = (drop.stage, drop.reason)
        self._of(drop.source).drops[key] += 1
        if key not in self._examples:
            self._examples[key] = drop

    def kept(self, pair: PreferencePair, language: str | None = None) -> None:
        """Count a pair that came through all stages, with its lengths, its number of turns and its language."""
        counts = self._of(pair.source)
        chosen, rejected = len(pair.chosen), len(pair.rejected)
        counts.kept += 1
        counts.chosen_characters += chosen
        counts.rejected_characters += rejected
        if chosen > rejected:
            counts.chosen_longer += 1
        elif rejected > chosen:
            counts.rejected_longer += 1
        counts.lengths[
            _BINS[chosen] if chosen < _SMALL else _bin(chosen),
            _BINS[rejected] if rejected < _SMALL else _bin(rejected),
        ] += 1
        counts.kinds[[turn["role"] for turn in pair.history].count("user"), language] += 1

    def placed(self, source: str, winner: Letter) -> None:
        """Count a judge prompt by the letter of its winner, for the A/B balance."""
        self._of(source).winners[winner] += 1

    def tokens(self, template: str, tokens: int) -> None:
        """Count the length of a judge prompt rendered with a template, kept or dropped for its length."""
        if template not in self._tokens:
            self._tokens[template] = _Tokens(self._limits.get(template))
        self._tokens[template].add(tokens)

    def section(self, name: str, values: Mapping[str, Any]) -> None:
        """Put figures that somebody else counted into the report, under a key of their own.

        Args:
            values: plain JSON values; `leaks` is `LeakDetector.to_dict()` and `contamination` is
                `Contamination.to_dict()`, others are shown as they are.

        Raises:
            ValueError: the report has this key already.
        """
        if name in OWN_KEYS or name in self._sections:
            raise ValueError(f"the data report has a part {name!r} already")
        self._sections[name] = values

    def _of(self, source: str) -> _Counts:
        counts = self._spelled.get(source)
        if counts is None:
            # Escaped here and not when printed, so that two sources can never fall together in print alone.
            counts = self._sources.setdefault(_printable(source), _Counts())
            self._spelled[source] = counts
        return counts

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values, sources and reasons sorted.

        Raises:
            AssertionError: for some source, in ≠ kept + dropped: a stage lost a row or counted it twice.
        """
        total = _Counts()
        for source, counts in sorted(self._sources.items()):
            if counts.seen != counts.kept + counts.drops.total():
                raise AssertionError(
                    f"data report of source {source!r}: {counts.seen} in, but {counts.kept} kept"
                    f" + {counts.drops.total()} dropped"
                )
            total.add(counts)
        return {
            "unit": UNIT,
            "total": total.to_dict(),
            "sources": {name: counts.to_dict() for name, counts in sorted(self._sources.items())},
            "first_dropped": [
                {
                    "stage": stage,
                    "reason": reason,
                    "location": _printable(drop.location),
                    "detail": _printable(drop.detail),
                }
                for (stage, reason), drop in sorted(self._examples.items())
            ],
            "length_histogram": total.histogram(),
            "tokens": {name: counts.to_dict() for name, counts in sorted(self._tokens.items())},
            **self._sections,
        }


def _bin(length: int) -> int:
    """Return the bin of a length: 0, 1, and then two bins to each doubling."""
    if length < 2:
        return length
    bits = length.bit_length()
    return 2 * bits - 2 + (length >> (bits - 2) & 1)


_SMALL = 4096


_BINS = bytes(map(_bin, range(_SMALL)))


def _lower_end(at: int) -> int:
    """Return the smallest length in a bin."""
    return at if at < 2 else (2 + at % 2) << (at // 2 - 1)


def _printable(text: str) -> str:
    """Return the text with line ends, control characters and halves of surrogate pairs written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _ratio(part: int, whole: int, digits: int) -> float | None:
    return round(part / whole, digits) if whole else None


UNKNOWN = "und"
"""ISO 639-3 for "undetermined": too short, no letters, or in doubt."""


LONGEST = 1000


_SHORTEST = 12


# These stand in no other language's running text, all together. whatlang takes 0.1 ms per text, which would be most
# of the time of reading a pair, and most of the pairs are in English.
_ENGLISH = frozenset(
    "the and of to that is with for this you are from which your have their there would should what not".split()
)


_FIRST_WORDS = 60


_ENGLISH_SHARE = 0.12


_ENGLISH_KINDS = 4


def pair_language(pair: PreferencePair) -> str:
    """Return the language of a pair's last user turn and chosen answer, half of LONGEST characters of each."""
    half = LONGEST // 2
    return language(f"{pair.history[-1]['content'][:half]}\n{pair.chosen[:half]}")


def language(text: str) -> str:
    """Return the ISO 639-3 code of a text's language (`eng`, `cmn`, …), or UNKNOWN where whatlang is not sure.

    Plain English is seen from its commonest words, without asking whatlang. At most LONGEST characters are read.
    """
    text = text[:LONGEST]
    if len(text.strip()) < _SHORTEST:
        return UNKNOWN
    if _plainly_english(text):
        return "eng"
    import whatlang

    try:
        found: Any = whatlang.detect(text)
    except ValueError:  # no letters at all
        return UNKNOWN
    return str(found.lang) if found.is_reliable else UNKNOWN


def _plainly_english(text: str) -> bool:
    first = text.lower().split(None, _FIRST_WORDS)[:_FIRST_WORDS]
    common = [word for word in first if word in _ENGLISH]
    return len(common) >= _ENGLISH_SHARE * len(first) and len(set(common)) >= _ENGLISH_KINDS
