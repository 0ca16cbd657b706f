"""Verdict grammar: texts of which a judge writes one, such as `[[A]]` and `[[B]]`, and which text states one.

A judge that repeats its instructions (`[[A]] or [[B]]`) states no verdict.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise, takewhile
from typing import get_args

from pydantic import model_validator

from reasongenrm.config.engines import Strict
from reasongenrm.records import Letter

LETTERS = "ABCDEFGH"
"""Letters of the answers of a list, in the order of the prompt."""

_WORD = re.compile(r"[^\W_]")
_WORDS = re.compile(r"[^\W_]+")
FEW_WORDS = 4
"""Two different verdicts of one sentence with at most so many words between them are an enumeration, not a conclusion."""
_SPACED = r"[^\W_\u0e00-\U0010ffff]"
"""A letter or digit of a script that separates words by spaces (others begin at U+0E00)."""
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

        Only characters other than letters and digits may follow the verdict. The last other verdict before it is in an
        earlier sentence (sentences end in a full stop, question or exclamation mark, or an empty line) with a word between
        the two, or more than four words away. For judges of which only the text is known: a verdict quoted inside a reason does not count, and neither
        does `[[A]] or [[B]]`.
        """
        verdicts = self.find(text)
        if not verdicts:
            return None
        start, end, verdict = verdicts[-1]
        if _WORD.search(text, end):
            return None
        others = [other_end for _, other_end, other in verdicts if other != verdict]
        if others and _one_statement(text[others[-1] : start]):
            return None
        return text[:start].rstrip(), verdict

    def echoes(self, text: str) -> set[int]:
        """Return where verdicts start that are named together with a different one, as in `[[A]] or [[B]]`."""
        neighbours = pairwise(self.find(text))
        return {
            start
            for one, other in neighbours
            if one[2] != other[2] and _one_statement(text[one[1] : other[0]])
            for start in (one[0], other[0])
        }


def _one_statement(between: str) -> bool:
    """Whether two verdicts are named together: with no word between them, or with few in one sentence."""
    words = sum(1 for _ in islice(_WORDS.finditer(between), FEW_WORDS + 1))
    return words == 0 or (words <= FEW_WORDS and not _SENTENCE_END.search(between))


def _common_prefix(texts: Sequence[str]) -> str:
    return "".join(
        letters[0] for letters in takewhile(lambda at: len(set(at)) == 1, zip(*texts, strict=False))
    )


def _bounded(text: str) -> str:
    before = f"(?<!{_SPACED})" if re.match(_SPACED, text[0]) else ""
    after = f"(?!{_SPACED})" if re.match(_SPACED, text[-1]) else ""
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
        return self.verdicts.texts[LETTERS.index(winner)]

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


class ListGrammar(Grammar):
    """The verdict grammar of lists of more than two answers.

    Attributes:
        others: the verdicts for the answers shown as C, as D, and so on.
    """

    others: tuple[str, ...]

    @cached_property
    def verdicts(self) -> VerdictTexts:
        """All texts, in the order of the letters."""
        return VerdictTexts((self.a, self.b, *self.others))


def letter(verdict: int) -> Letter:
    """Return the letter of a verdict."""
    return get_args(Letter)[verdict]


DEFAULT_GRAMMAR = Grammar()
"""`[[A]]` and `[[B]]`."""


def stated_verdicts(
    reason: str, phrases: Sequence[str], grammar: Grammar | None = None
) -> list[tuple[int, Letter]]:
    """Return the verdicts that a reason states, as (number of words before it, letter), in the order of the text.

    With a grammar, an echo such as `[[A]] or [[B]]` states none.

    Args:
        reason: the text.
        phrases: regular expressions with one group, a letter; a phrase may ignore case, and its group may be empty in a
            match that states nothing.
        grammar: its verdicts count as well.
    """
    verdicts: set[tuple[int, Letter]] = set(grammar.find_all(reason)) if grammar else set()
    shared = len(grammar.verdicts.opening) if grammar else 0
    echoes = {start + shared for start in grammar.verdicts.echoes(reason)} if grammar else set()
    for phrase in phrases:
        found = (m for m in re.finditer(phrase, reason) if m[1])
        verdicts |= {(m.start(1), letter(max(0, LETTERS.find(m[1].upper())))) for m in found}
    return [
        (len(reason[:start].split()), stated) for start, stated in sorted(verdicts) if start not in echoes
    ]
