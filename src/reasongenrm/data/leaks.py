"""The surface of an answer: what can be seen without understanding it (lengths, marks, openings, chat markers)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from reasongenrm.metrics.intervals import wilson_interval
from reasongenrm.records import Letter, PreferencePair

LONGEST = 4000
"""Characters of an answer that are looked at; longer ones are measured by their first and last halves of it. Lengths
in characters are those of the whole answer."""


MEASURES = (
    *(
        "characters",
        "white space",
        "lines",
        "leading white space",
        "trailing white space",
        "ends with a line end",
    ),
    *("ends in a letter or digit", "ends with . ! or ?", "headings", "bullets", "numbered items", "bold"),
    *("code fences", "tables", "share of digits", "share of capitals", "share of bytes not ASCII", "emoji"),
    *("question marks", "exclamation marks", "opens with a refusal", "speaks as an AI"),
)
"""The names of what `measures` returns, in its order."""


# A marker looks like a tag or an instruction mark: <|im_start|>, <im_start>, </s>, [INST], [[A]], <<SYS>>.
_MARKER = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<<?/?[A-Za-z_][\w.-]{0,30}>>?|\[/?[A-Z_]{2,20}\]|\[\[[^\[\]\s]{1,20}\]\]"
)


_ROLES = ("\nHuman:", "\nAssistant:", "\nUser:", "\nSystem:", "### Instruction", "### Response")


_EMOJI = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff]")


_REFUSAL = re.compile(
    r"\W*(?:i['’]?m (?:so |very |really )?sorry|sorry|i apologi[sz]e|i (?:can(?:['’]t|not| not)|won['’]t|will not)|"
    r"i['’]?m (?:not able|unable)|i am (?:not able|unable|sorry)|as an ai|unfortunately,? i)\b"
)


_AS_AI = ("as an ai", "as a language model", "as a large language model")


_NUMBERED = ("\n1.", "\n2.", "\n3.", "\n4.")


# Each byte of UTF-8 as its kind: white space, digit, capital, other ASCII (- or itself), not ASCII.
_KINDS = bytes(
    ord(" ") if chr(byte).isspace() and byte < 128
    else ord("0") if ord("0") <= byte <= ord("9")
    else ord("A") if ord("A") <= byte <= ord("Z")
    else ord("x") if byte >= 128
    else byte if chr(byte) in "?!"
    else ord("-")
    for byte in range(256)
)  # fmt: skip


_MOST_NAMES = 64


def measures(text: str) -> tuple[float, ...]:
    """Return the MEASURES of an answer: counts, shares in [0, 1], and yes (1) or no (0)."""
    seen = shortened(text)
    kinds = seen.encode("utf-8", "replace").translate(_KINDS)
    size = len(kinds) or 1
    # Of each line its beginning: to look for the marks there is a tenth of the work of looking in the text.
    heads = "\n".join(["", *[line.lstrip()[:3] for line in seen.split("\n")]])
    last = seen[-1:]
    end = seen[-40:].rstrip()[-1:]
    opening = seen[:200].lower()
    return (
        len(text),
        kinds.count(b" "),
        heads.count("\n") - 1,
        seen[:1].isspace(),
        last.isspace(),
        last == "\n",
        end.isalnum(),
        end in (".", "!", "?"),
        heads.count("\n#"),
        heads.count("\n- ") + heads.count("\n* ") + heads.count("\n• "),
        sum([heads.count(mark) for mark in _NUMBERED]),
        seen.count("**"),
        seen.count("```"),
        heads.count("\n|"),
        kinds.count(b"0") / size,
        kinds.count(b"A") / size,
        kinds.count(b"x") / size,
        0 if seen.isascii() else len(_EMOJI.findall(seen)),
        kinds.count(b"?"),
        kinds.count(b"!"),
        _REFUSAL.match(opening) is not None,
        "as a" in opening and any(phrase in opening for phrase in _AS_AI),
    )


def marks(text: str) -> set[str]:
    """Return the names of what an answer holds or not: its chat markers and tags, its first and last words."""
    seen = shortened(text)
    found: set[str] = set()
    if "<" in seen or "[" in seen:
        found = {f"marker {mark}" for mark in sorted(set(_MARKER.findall(seen)))[:_MOST_NAMES]}
    found.update(f"marker {role.strip()}" for role in _ROLES if role in seen)
    first = seen[:80].lower().split(None, 2)[:2]
    if first:
        found.add(f"first word {first[0]}")
        found.add(f"first words {' '.join(first)}")
        found.add(f"last words {' '.join(seen[-40:].lower().split()[-2:])}")
    return found


def shortened(text: str) -> str:
    """Return the first and the last half of LONGEST characters, or the whole text if it has no more."""
    if len(text) <= LONGEST:
        return text
    return text[: LONGEST // 2] + text[-LONGEST // 2 :]


LEAST_DECIDED = 20
"""Pairs that a feature must decide before it is called a leak."""


SURE = 0.95
"""A leak: this accuracy among the pairs that the feature decides, however few of all they are, or …"""


ALONE = 0.7
"""… the lower end of the 95% interval of its accuracy over all pairs, ties counted half, above this."""


MOST_SOURCES = 50


MOST_MARKS = 10_000


MOST_LISTED = 40


_REST = "(further sources)"


class Comparison(NamedTuple):
    """What the surfaces of a pair's answers differ in.

    Attributes:
        signs: of each of MEASURES, 1 where the chosen answer has more, -1 where the rejected one has, else 0.
        chosen, rejected: marks that this answer alone has, sorted.
    """

    signs: tuple[int, ...]
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]


def compare(pair: PreferencePair) -> Comparison:
    """Look at a pair for `LeakDetector.add`; nearly all the time goes here, so that it may run in other processes."""
    both = zip(measures(pair.chosen), measures(pair.rejected), strict=True)
    in_chosen, in_rejected = marks(pair.chosen), marks(pair.rejected)
    return Comparison(
        tuple([(left > right) - (left < right) for left, right in both]),
        tuple(sorted(in_chosen - in_rejected)),  # a set's own order differs between processes
        tuple(sorted(in_rejected - in_chosen)),
    )


@dataclass(slots=True)
class _Counts:
    """Of one source: how often the chosen answer has more of a measure, or alone has a mark; and the other way."""

    pairs: int = 0
    chosen_more: list[int] = field(default_factory=lambda: [0] * len(MEASURES))
    rejected_more: list[int] = field(default_factory=lambda: [0] * len(MEASURES))
    marks: dict[str, list[int]] = field(default_factory=dict)  # name -> [chosen alone, rejected alone]

    def merge(self, other: _Counts) -> None:
        self.pairs += other.pairs
        for at in range(len(MEASURES)):
            self.chosen_more[at] += other.chosen_more[at]
            self.rejected_more[at] += other.rejected_more[at]
        for name, (chosen, rejected) in other.marks.items():
            both = self.marks.setdefault(name, [0, 0])
            both[0] += chosen
            both[1] += rejected

    def forget(self) -> None:
        """Keep the half of the marks that was met most; of those met equally often, the ones met last."""
        latest_first = list(self.marks.items())[::-1]
        kept = sorted(latest_first, key=lambda item: -sum(item[1]))[: MOST_MARKS // 2]
        self.marks = dict(kept[::-1])


@dataclass(frozen=True, slots=True)
class _Feature:
    """How a feature splits some pairs: for each way to decide, how many it would decide so."""

    name: str
    first: int
    second: int
    pairs: int

    @property
    def alone(self) -> float:
        """Accuracy over all pairs when this feature alone decides and a coin decides its ties."""
        decided = self.first + self.second
        return (max(self.first, self.second) + (self.pairs - decided) / 2) / self.pairs

    def to_dict(self, first: str, second: str) -> dict[str, Any]:
        """Return its figures; `first` and `second` say what it predicts when the first or second count is higher."""
        decided = self.first + self.second
        right = max(self.first, self.second)
        accuracy = right / decided
        low, high = wilson_interval(right, decided)
        whole = wilson_interval(int(self.alone * self.pairs), self.pairs)
        leak = decided >= LEAST_DECIDED and (accuracy >= SURE or whole[0] > ALONE)
        return {
            "feature": self.name,
            "predicts": first if self.first >= self.second else second,
            "pairs": self.pairs,
            "decided": decided,
            "coverage": round(decided / self.pairs, 4),
            "accuracy": round(accuracy, 4),
            "interval": [round(low, 4), round(high, 4)],
            "accuracy_alone": round(self.alone, 4),
            "leak": leak,
        }


class LeakDetector:
    """Counts, pair by pair, what surface features would have predicted.

    A feature that compares the two answers predicts that the one with more of it is chosen, or the one with less,
    whichever is right more often. One of the conversation (its source, turns, length) cannot tell the answers apart,
    but could predict the winner's letter if answers were placed badly: `placed` counts that.

    Memory is bounded: of each source at most MOST_MARKS markers and opening or closing words are held, the rarer
    half being forgotten when there are more (so a count can be too low, and never too high); sources beyond MOST_SOURCES are counted together.
    """

    def __init__(self) -> None:
        self._sources: dict[str, _Counts] = {}
        self._letters: dict[str, list[int]] = {}  # feature of the conversation -> [A won, B won]
        self._placed = 0

    def add(self, pair: PreferencePair, compared: Comparison | None = None) -> None:
        """Count a pair.

        Args:
            compared: `compare(pair)`, where it was done before.
        """
        signs, *alone = compared or compare(pair)
        counts = self._of(pair.source)
        counts.pairs += 1
        for at, sign in enumerate(signs):
            if sign > 0:
                counts.chosen_more[at] += 1
            elif sign:
                counts.rejected_more[at] += 1
        for side, names in enumerate(alone):
            for name in names:
                counts.marks.setdefault(name, [0, 0])[side] += 1
        if len(counts.marks) > MOST_MARKS:
            counts.forget()

    def placed(self, pair: PreferencePair, winner: Letter) -> None:
        """Count under which letter the chosen answer of a pair stands."""
        self._placed += 1
        at = 0 if winner == "A" else 1
        source = pair.source if pair.source in self._sources else _REST
        size = sum([len(turn["content"]) for turn in pair.history]).bit_length()
        for name in (
            f"source {source}",
            f"turns {min(len(pair.history), 20)}",
            f"prompt under {1 << size} characters",
        ):
            self._letters.setdefault(name, [0, 0])[at] += 1

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain JSON values.

        `leaks`: what is flagged, over all pairs or in one source or in the placement (`scope`). `features`: over
        all pairs, every measure and the strongest marks. `placement`: the conversation's features against the
        letter. Of each: what it predicts, `pairs`, the pairs it decides (`decided`, and their share `coverage`), its
        `accuracy` on those with its 95% Wilson interval, and `accuracy_alone` over all pairs, ties counted half.
        """
        total = _Counts()
        for counts in self._sources.values():
            total.merge(counts)
        features = _features(total, every_measure=True)
        leaks = [{"scope": "all pairs", **row} for row in features if row["leak"]]
        if len(self._sources) > 1:
            for name, counts in sorted(self._sources.items()):
                rows = _features(counts, every_measure=False)
                leaks += [{"scope": f"source {name}", **row} for row in rows if row["leak"]]
        placement = [
            _Feature(name, a, b, a + b).to_dict("A", "B") for name, (a, b) in sorted(self._letters.items())
        ]
        leaks += [{"scope": "placement", **row} for row in placement if row["leak"]]
        return {
            "pairs": total.pairs,
            "placed": self._placed,
            "rule": f"a feature that decides at least {LEAST_DECIDED} pairs is a leak if it is right in {SURE:.0%} of"
            f" those, or if the lower end of the 95% interval of its accuracy over all pairs is above {ALONE:.0%}",
            "leaks": leaks,
            "features": features,
            "placement": placement,
        }

    def _of(self, source: str) -> _Counts:
        if source not in self._sources and len(self._sources) >= MOST_SOURCES:
            source = _REST
        return self._sources.setdefault(source, _Counts())


def _features(counts: _Counts, *, every_measure: bool) -> list[dict[str, Any]]:
    """Return the features of some pairs, the strongest first; of the marks, the MOST_LISTED strongest."""
    measured = [
        _Feature(name, more, less, counts.pairs)
        for name, more, less in zip(MEASURES, counts.chosen_more, counts.rejected_more, strict=True)
        if more + less
    ]
    marked = [
        _Feature(name, chosen, rejected, counts.pairs) for name, (chosen, rejected) in counts.marks.items()
    ]
    marked = sorted(marked, key=lambda one: (-one.alone, one.name))[:MOST_LISTED]
    rows = [
        one.to_dict("more is chosen", "more is rejected")
        for one in measured
        if every_measure or one.first + one.second >= LEAST_DECIDED
    ]
    rows += [
        one.to_dict("chosen has it", "rejected has it")
        for one in marked
        if one.first + one.second >= LEAST_DECIDED or every_measure
    ]
    return sorted(rows, key=lambda row: (not row["leak"], -row["accuracy_alone"], row["feature"]))
