"""Verdict grammar: two texts that differ in one place, such as `[[A]]` and `[[B]]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import takewhile

from pydantic import model_validator

from reasongenrm.config.engines import Strict
from reasongenrm.records import Letter


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
    def opening(self) -> str:
        """Common beginning of both verdicts."""
        return _common_prefix(self.a, self.b)

    @cached_property
    def closing(self) -> str:
        """Common end of both verdicts."""
        return _common_prefix(self.a[::-1], self.b[::-1])[::-1]

    @cached_property
    def _either(self) -> re.Pattern[str]:
        return re.compile(f"({re.escape(self.a)})|{re.escape(self.b)}")

    @cached_property
    def _at_end(self) -> re.Pattern[str]:
        return re.compile(rf"(?:({re.escape(self.a)})|{re.escape(self.b)})\W*$")

    def text(self, winner: Letter) -> str:
        """Return the verdict as the judge writes it."""
        return self.a if winner == "A" else self.b

    def find_all(self, text: str) -> list[tuple[int, Letter]]:
        """Return all verdicts in a text, as (index of the first character that differs from the other verdict, letter)."""
        return [(m.start() + len(self.opening), "A" if m[1] else "B") for m in self._either.finditer(text)]

    def last(self, text: str) -> Letter | None:
        """Return the last verdict in a text, or None."""
        verdicts = self.find_all(text)
        return verdicts[-1][1] if verdicts else None

    def split_at_end(self, text: str) -> tuple[str, Letter] | None:
        """Return the text before the verdict that closes it, and the verdict; None if no verdict closes it.

        Only characters other than letters and digits may follow the verdict. For judges of which only the text is
        known: a verdict quoted inside a reason does not count.
        """
        match = self._at_end.search(text)
        return (text[: match.start()].rstrip(), "A" if match[1] else "B") if match else None

    def without_closing(self, text: str) -> str:
        """Return a text without a verdict that closes it."""
        parts = self.split_at_end(text)
        return (parts[0] if parts else text).strip()


def _common_prefix(first: str, second: str) -> str:
    return "".join(x for x, _ in takewhile(lambda both: both[0] == both[1], zip(first, second, strict=False)))


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
