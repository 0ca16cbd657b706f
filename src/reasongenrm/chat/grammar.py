"""How a judge writes its verdict: two texts that differ in one place, such as `[[A]]` and `[[B]]`."""

from __future__ import annotations

import re
from functools import cached_property
from itertools import takewhile

from pydantic import BaseModel, ConfigDict, model_validator

from reasongenrm.records import Letter


class Grammar(BaseModel):
    """The verdict grammar of a prompt file.

    Attributes:
        a, b: the verdict for the answer that stands as A, and as B.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    a: str = "[[A]]"
    b: str = "[[B]]"

    @model_validator(mode="after")
    def _tell_apart(self) -> Grammar:
        if not self.a.strip() or not self.b.strip() or self.a in self.b or self.b in self.a:
            raise ValueError("give two different texts, neither of which holds the other")
        if self.a != self.a.strip() or self.b != self.b.strip():
            raise ValueError("a verdict begins and ends with a visible character")
        return self

    @cached_property
    def opening(self) -> str:
        """What both verdicts begin with."""
        return _common_start(self.a, self.b)

    @cached_property
    def closing(self) -> str:
        """What both verdicts end in."""
        return _common_start(self.a[::-1], self.b[::-1])[::-1]

    @cached_property
    def _either(self) -> re.Pattern[str]:
        return re.compile(f"({re.escape(self.a)})|{re.escape(self.b)}")

    @cached_property
    def _at_end(self) -> re.Pattern[str]:
        return re.compile(rf"(?:({re.escape(self.a)})|{re.escape(self.b)})\W*$")

    def text(self, winner: Letter) -> str:
        """Return the verdict as the judge writes it."""
        return self.a if winner == "A" else self.b

    def said(self, winner: Letter) -> str:
        """Return the verdict up to the last character by which it differs from the other one."""
        return self.text(winner).removesuffix(self.closing)

    def found(self, text: str) -> list[tuple[int, Letter]]:
        """Return the verdicts in a text, each with the place of the first character that tells it from the other."""
        return [(m.start() + len(self.opening), "A" if m[1] else "B") for m in self._either.finditer(text)]

    def last(self, text: str) -> Letter | None:
        """Return the last verdict in a text, or None."""
        found = self.found(text)
        return found[-1][1] if found else None

    def at_end(self, text: str) -> tuple[str, Letter] | None:
        """Return what stands before the verdict that closes a text, and the verdict; None where none closes it.

        Marks that are no letters may stand behind it. For judges of which the text alone is known: a verdict that is
        quoted in the midst of a reason is none.
        """
        found = self._at_end.search(text)
        return (text[: found.start()].rstrip(), "A" if found[1] else "B") if found else None

    def without_closing(self, text: str) -> str:
        """Return a text without a verdict that closes it."""
        found = self.at_end(text)
        return (found[0] if found else text).strip()


def _common_start(first: str, second: str) -> str:
    return "".join(x for x, _ in takewhile(lambda both: both[0] == both[1], zip(first, second, strict=False)))


DEFAULT = Grammar()
"""`[[A]]` and `[[B]]`."""


def verdict_text(winner: Letter, grammar: Grammar = DEFAULT) -> str:
    """Return the verdict as the judge writes it."""
    return grammar.text(winner)
