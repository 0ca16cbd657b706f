"""Verdict grammar: texts of which a judge writes one, such as `[[A]]` and `[[B]]`, and which text states one.

A judge that repeats its instructions (`[[A]] or [[B]]`) states no verdict.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from pydantic import model_validator

from reasongenrm.config.engines import Strict
from reasongenrm.records import Letter

LETTERS = "ABCDEFGH"
"""Letters of the answers of a list, in the order of the prompt."""

_WORD = re.compile(r"\w")
_SENTENCE_END = re.compile(r"""[.!?…。！？]["'”’)\]*_]{0,4}\s|\n[^\S\n]*\n""")


@dataclass(frozen=True)  # no slots: cached properties
class VerdictTexts:
    """Texts of which a judge writes one; a verdict is named by its index.

    Attributes:
        texts: none contains another.
    """

    texts: tuple[str, ...]

    @cached_property
    def opening(self) -> str:
        """Common beginning of all texts."""
        return _common_prefix(self.texts)

    @cached_property
    def closing(self) -> str:
        """Common end of all texts."""
        return _common_prefix([text[::-1] for text in self.texts])[::-1]

    @cached_property
    def _any(self) -> re.Pattern[str]:
        """Any of the texts; one that begins or ends in a letter or digit is not part of a longer word."""
        return re.compile("|".join(f"({_bounded(text)})" for text in self.texts))

    def find(self, text: str) -> list[tuple[int, int, int]]:
        """Return all verdicts in a text, as (start, end, index of the verdict)."""
        return [(*m.span(), (m.lastindex or 1) - 1) for m in self._any.finditer(text)]

    def in_turn(self, text: str, *, ended: bool = True) -> int | None:
        """Return the verdict that a verdict turn states; None if it states none, or two different ones.

        Args:
            text: the turn.
            ended: whether the judge ended it; a verdict must close a turn that was cut, which might go on with another.
        """
        verdicts = self.find(text)
        if len({verdict for _, _, verdict in verdicts}) != 1:
            return None
        _, end, verdict = verdicts[-1]
        return verdict if ended or not _WORD.search(text, end) else None

    def split_at_end(self, text: str) -> tuple[str, int] | None:
        """Return the text before the verdict that closes it, and the verdict; None if no verdict closes it.

        Only characters other than letters and digits may follow the verdict, and it is the only one in its sentence
        (sentences end in a full stop, question or exclamation mark, or an empty line). For judges of which only the text
        is known: a verdict quoted inside a reason does not count, and neither does `[[A]] or [[B]]`.
        """
        verdicts = self.find(text)
        if not verdicts:
            return None
        start, end, verdict = verdicts[-1]
        if _WORD.search(text, end):
            return None
        others = [other_end for _, other_end, other in verdicts if other != verdict]
        if others:
            boundary = _SENTENCE_END.search(text, others[-1], start)
            if boundary is None or not _WORD.search(text, boundary.end(), start):
                return None
        return text[:start].rstrip(), verdict


def _common_prefix(texts: Sequence[str]) -> str:
    return "".join(
        letters[0] for letters in takewhile(lambda at: len(set(at)) == 1, zip(*texts, strict=False))
    )


def _bounded(text: str) -> str:
    before = r"(?<!\w)" if _WORD.match(text[0]) else ""
    after = r"(?!\w)" if _WORD.match(text[-1]) else ""
    return before + re.escape(text) + after


class Grammar(Strict):
    """The verdict grammar of a prompt file.

    Attributes:
        a, b: the verdict for the answer shown as A, and for the one shown as B.
    """

    a: str = "[[A]]"
    b: str = "[[B]]"

    @model_validator(mode="after")
    def _check_distinct(self) -> Grammar:
        if not self.a.strip() or not self.b.strip() or self.a in self.b or self.b in self.a:
            raise ValueError("give two different texts, neither of which contains the other")
        if self.a != self.a.strip() or self.b != self.b.strip():
            raise ValueError("a verdict begins and ends with a visible character")
        return self

    @cached_property
    def verdicts(self) -> VerdictTexts:
        """Both texts, A first."""
        return VerdictTexts((self.a, self.b))

    def text(self, winner: Letter) -> str:
        """Return the verdict as the judge writes it."""
        return self.a if winner == "A" else self.b

    def find_all(self, text: str) -> list[tuple[int, Letter]]:
        """Return all verdicts in a text, as (index of the first character that differs from the other verdict, letter)."""
        shared = len(self.verdicts.opening)
        return [(start + shared, letter(verdict)) for start, _, verdict in self.verdicts.find(text)]

    def split_at_end(self, text: str) -> tuple[str, Letter] | None:
        """Return the text before the verdict that closes it, and the verdict (see `VerdictTexts.split_at_end`)."""
        parts = self.verdicts.split_at_end(text)
        return (parts[0], letter(parts[1])) if parts else None

    def without_closing(self, text: str) -> str:
        """Return a text without a verdict that closes it."""
        parts = self.split_at_end(text)
        return (parts[0] if parts else text).strip()


def letter(verdict: int) -> Letter:
    """Return the letter of a verdict on two answers."""
    return "B" if verdict else "A"


DEFAULT_GRAMMAR = Grammar()
"""`[[A]]` and `[[B]]`."""


def stated_verdicts(
    reason: str, phrases: Sequence[str], grammar: Grammar | None = None
) -> list[tuple[int, Letter]]:
    """Return the verdicts that a reason states, as (number of words before it, letter), in the order of the text.

    Args:
        reason: the text.
        phrases: regular expressions with one group, A or B; a phrase may ignore case, and its group may be empty in a
            match that states nothing.
        grammar: its verdicts count as well.
    """
    verdicts: set[tuple[int, Letter]] = set(grammar.find_all(reason)) if grammar else set()
    for phrase in phrases:
        verdicts |= {(m.start(1), "A" if m[1] in "Aa" else "B") for m in re.finditer(phrase, reason) if m[1]}
    return [(len(reason[:start].split()), letter) for start, letter in sorted(verdicts)]
