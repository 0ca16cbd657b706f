"""Label leaks: surface features of answers (lengths, openings, chat markers) that predict which one is chosen."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reasongenrm.metrics.intervals import wilson_interval
from reasongenrm.records import Letter, PreferencePair

LONGEST = 4000
"""Characters of an answer that are examined: of a longer one, the first and the last half of this number. Lengths
in characters are those of the whole answer."""
MIN_DECIDED = 20
"""Pairs that a feature must decide to be called a leak."""
MIN_DECIDED_ACCURACY = 0.95
"""A leak has this accuracy among the pairs that the feature decides, or …"""
MIN_ACCURACY_ALONE = 0.7
"""… the lower end of the 95% interval of its accuracy over all pairs, ties counted half, is above this."""
MOST_SOURCES = 50
MOST_PHRASES = 10_000
MOST_LISTED = 40

# A marker looks like a tag or an instruction mark: <|im_start|>, <im_start>, </s>, [INST], [[A]], <<SYS>>.
_MARKER = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<<?/?[A-Za-z_][\w.-]{0,30}>>?|\[/?[A-Z_]{2,20}\]|\[\[[^\[\]\s]{1,20}\]\]"
)
_MOST_MARKERS = 64  # of one answer
_ROLES = ("\nHuman:", "\nAssistant:", "\nUser:", "\nSystem:", "### Instruction", "### Response")
_EMOJI = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff]")
_REFUSAL = re.compile(
    r"\W*(?:i['’]?m (?:so |very |really )?sorry|sorry|i apologi[sz]e|i (?:can(?:['’]t|not| not)|won['’]t|will not)|"
    r"i['’]?m (?:not able|unable)|i am (?:not able|unable|sorry)|as an ai|unfortunately,? i)\b"
)
_AS_AI = ("as an ai", "as a language model", "as a large language model")
_NUMBERED = ("\n1.", "\n2.", "\n3.", "\n4.")
_OTHER_SOURCES = "(further sources)"

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


def measures(text: str) -> dict[str, float]:
    """Return counts, shares in [0, 1], and yes (1) or no (0), by name."""
    part = head_and_tail(text)
    kinds = part.encode().translate(_KINDS)
    size = len(kinds) or 1
    # The first characters of each line: searching them takes a tenth of the time of searching the text.
    heads = "\n".join(["", *[line.lstrip()[:3] for line in part.split("\n")]])
    last = part[-1:]
    end = part[-40:].rstrip()[-1:]
    opening = part[:200].lower()
    return {
        "characters": len(text),
        "white space": kinds.count(b" "),
        "lines": heads.count("\n") - 1,
        "leading white space": part[:1].isspace(),
        "trailing white space": last.isspace(),
        "ends with a line end": last == "\n",
        "ends in a letter or digit": end.isalnum(),
        "ends with . ! or ?": end in (".", "!", "?"),
        "headings": heads.count("\n#"),
        "bullets": heads.count("\n- ") + heads.count("\n* ") + heads.count("\n• "),
        "numbered items": sum([heads.count(mark) for mark in _NUMBERED]),
        "bold": part.count("**"),
        "code fences": part.count("```"),
        "tables": heads.count("\n|"),
        "share of digits": kinds.count(b"0") / size,
        "share of capitals": kinds.count(b"A") / size,
        "share of bytes not ASCII": kinds.count(b"x") / size,
        "emoji": 0 if part.isascii() else len(_EMOJI.findall(part)),
        "question marks": kinds.count(b"?"),
        "exclamation marks": kinds.count(b"!"),
        "opens with a refusal": _REFUSAL.match(opening) is not None,
        "speaks as an AI": "as a" in opening and any(phrase in opening for phrase in _AS_AI),
    }


def phrases(text: str) -> set[str]:
    """Return the names of an answer's phrases: its chat markers and tags, its first and last words."""
    part = head_and_tail(text)
    names: set[str] = set()
    if "<" in part or "[" in part:
        names = {f"marker {marker}" for marker in sorted(set(_MARKER.findall(part)))[:_MOST_MARKERS]}
    names.update(f"marker {role.strip()}" for role in _ROLES if role in part)
    first = part[:80].lower().split(None, 2)[:2]
    if first:
        names.add(f"first word {first[0]}")
        names.add(f"first words {' '.join(first)}")
        names.add(f"last words {' '.join(part[-40:].lower().split()[-2:])}")
    return names


def head_and_tail(text: str) -> str:
    """Return the first and the last half of LONGEST characters, or the whole text if it has no more."""
    if len(text) <= LONGEST:
        return text
    return text[: LONGEST // 2] + text[-LONGEST // 2 :]


SurfaceDifference = tuple[tuple[str, ...], tuple[str, ...]]
"""Of the chosen and of the rejected answer: the measures of which it has more, then the phrases that only it has."""


def surface_difference(pair: PreferencePair) -> SurfaceDifference:
    """Compare a pair's answers; the leak detector spends nearly all its time here, so that it may run in other
    processes."""
    chosen, rejected = ((measures(text), phrases(text)) for text in (pair.chosen, pair.rejected))
    return _advantages(*chosen, *rejected), _advantages(*rejected, *chosen)


def _advantages(
    ours: dict[str, float], our_phrases: set[str], theirs: dict[str, float], their_phrases: set[str]
) -> tuple[str, ...]:
    more = [name for name, value in ours.items() if value > theirs[name]]
    return (*more, *sorted(our_phrases - their_phrases))  # a set's own order differs between processes


@dataclass(slots=True)
class _Counts:
    """Counts over the pairs of one source: measure or phrase -> [chosen has more of it, rejected has more of it]."""

    pairs: int = 0
    measures: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0] for name in measures("")})
    phrases: dict[str, list[int]] = field(default_factory=dict)

    def add(self, name: str, chosen: int, rejected: int) -> None:
        counts = self.measures.get(name) or self.phrases.setdefault(name, [0, 0])
        counts[0] += chosen
        counts[1] += rejected

    def drop_rare(self) -> None:
        """Keep the half of the phrases that is most frequent; of equally frequent ones, the latest."""
        latest_first = list(self.phrases.items())[::-1]
        frequent = sorted(latest_first, key=lambda item: -sum(item[1]))[: MOST_PHRASES // 2]
        self.phrases = dict(frequent[::-1])


def _accuracy_alone(sides: Sequence[int], pairs: int) -> float:
    """Return a feature's accuracy over all pairs when only it decides, with a coin for its ties."""
    return (max(sides) + (pairs - sum(sides)) / 2) / pairs


def _figures(name: str, sides: Sequence[int], pairs: int, predictions: tuple[str, str]) -> dict[str, Any]:
    """Return the figures of a feature.

    Args:
        sides: how many pairs it decides one way, and how many the other way.
        predictions: what it predicts if the first or if the second count is higher.
    """
    decided, correct = sum(sides), max(sides)
    accuracy, alone = correct / decided, _accuracy_alone(sides, pairs)
    low, high = wilson_interval(correct, decided)
    low_alone, _ = wilson_interval(int(alone * pairs), pairs)
    return {
        "feature": name,
        "predicts": predictions[sides[0] < sides[1]],
        "pairs": pairs,
        "decided": decided,
        "coverage": round(decided / pairs, 4),
        "accuracy": round(accuracy, 4),
        "interval": [round(low, 4), round(high, 4)],
        "accuracy_alone": round(alone, 4),
        "leak": decided >= MIN_DECIDED
        and (accuracy >= MIN_DECIDED_ACCURACY or low_alone > MIN_ACCURACY_ALONE),
    }


class LeakDetector:
    """Counts, pair by pair, what surface features would have predicted.

    A feature that compares the two answers predicts that the one with more of it is chosen, or the one with less,
    whichever is right more often. A feature of the conversation (its source, turns, length) cannot distinguish the
    answers, but could predict the winner's letter if answers were placed badly: `add_placement` counts that.

    Memory is bounded: of each source at most MOST_PHRASES phrases are kept, and the rarer half is dropped when there
    are more (so a count can be too low, and never too high); sources beyond MOST_SOURCES are counted together.
    """

    def __init__(self) -> None:
        self._sources: dict[str, _Counts] = defaultdict(_Counts)
        self._letters: dict[str, list[int]] = {}  # feature of the conversation -> [A won, B won]
        self._placements = 0

    def add(self, pair: PreferencePair, difference: SurfaceDifference | None = None) -> None:
        """Count a pair.

        Args:
            difference: `surface_difference(pair)`, if it is known already.
        """
        chosen, rejected = difference or surface_difference(pair)
        source = pair.source
        if source not in self._sources and len(self._sources) >= MOST_SOURCES:
            source = _OTHER_SOURCES
        counts = self._sources[source]
        counts.pairs += 1
        for name in chosen:
            counts.add(name, 1, 0)
        for name in rejected:
            counts.add(name, 0, 1)
        if len(counts.phrases) > MOST_PHRASES:
            counts.drop_rare()

    def add_placement(self, pair: PreferencePair, winner: Letter) -> None:
        """Count the letter of a pair's chosen answer."""
        self._placements += 1
        source = pair.source if pair.source in self._sources else _OTHER_SOURCES
        size = sum([len(turn["content"]) for turn in pair.history]).bit_length()
        for name in (
            f"source {source}",
            f"turns {min(len(pair.history), 20)}",
            f"prompt under {1 << size} characters",
        ):
            self._letters.setdefault(name, [0, 0])[winner == "B"] += 1

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain JSON values.

        `leaks`: the leaks over all pairs, in one source or in the placement (`scope`). `features`: over all pairs,
        every measure and the strongest phrases. `placement`: the conversation's features against the letter. Each
        feature has its prediction, `pairs`, the pairs it decides (`decided`, and their share `coverage`), its
        `accuracy` on those with its 95% Wilson interval, and `accuracy_alone` over all pairs, ties counted half.
        """
        total = _Counts()
        for counts in self._sources.values():
            total.pairs += counts.pairs
            for name, (chosen, rejected) in (counts.measures | counts.phrases).items():
                total.add(name, chosen, rejected)
        features = _features(total, least=1)
        leaks = [{"scope": "all pairs", **row} for row in features if row["leak"]]
        if len(self._sources) > 1:
            for name, counts in sorted(self._sources.items()):
                rows = _features(counts, least=MIN_DECIDED)
                leaks += [{"scope": f"source {name}", **row} for row in rows if row["leak"]]
        placement = [
            _figures(name, letters, sum(letters), ("A", "B"))
            for name, letters in sorted(self._letters.items())
        ]
        leaks += [{"scope": "placement", **row} for row in placement if row["leak"]]
        return {
            "pairs": total.pairs,
            "placements": self._placements,
            "rule": f"a feature that decides at least {MIN_DECIDED} pairs is a leak if it is right in"
            f" {MIN_DECIDED_ACCURACY:.0%} of those, or if the lower end of the 95% interval of its accuracy over all"
            f" pairs is above {MIN_ACCURACY_ALONE:.0%}",
            "leaks": leaks,
            "features": features,
            "placement": placement,
        }


def _features(counts: _Counts, *, least: int) -> list[dict[str, Any]]:
    """Return the features of some pairs, the strongest first, with the MOST_LISTED strongest phrases.

    Args:
        least: number of pairs that a feature must decide.
    """
    strongest = sorted(
        counts.phrases.items(), key=lambda item: (-_accuracy_alone(item[1], counts.pairs), item[0])
    )
    rows = [
        _figures(name, sides, counts.pairs, predictions)
        for group, predictions in (
            (counts.measures.items(), ("more is chosen", "more is rejected")),
            (strongest[:MOST_LISTED], ("chosen has it", "rejected has it")),
        )
        for name, sides in group
        if sum(sides) >= least
    ]
    return sorted(rows, key=lambda row: (not row["leak"], -row["accuracy_alone"], row["feature"]))
