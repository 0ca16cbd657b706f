"""The language of a text, by whatlang's trigrams; for statistics, not for filters."""

from __future__ import annotations

from typing import Any

from reasongenrm.records import PreferencePair

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
