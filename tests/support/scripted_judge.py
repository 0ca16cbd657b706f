"""A judge without an engine, whose comparisons come from a function."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.errors import DataError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.inputs import ComparisonInput
from reasongenrm.records import Comparison, ListVerdict, Rating, Winner


def longer(row: ComparisonInput) -> Comparison:
    """A comparison by length: the more characters, the better; a text with a question mark cannot be read."""
    _, a, b = row[:3]
    if "?" in a + b:
        return Comparison("c", None, None, "", "unparsed", (), 1, 1)
    chance = 1 / (1 + math.exp(len(b) - len(a)))
    return Comparison("c", "A" if chance > 0.5 else "B" if chance < 0.5 else "tie", chance, "", "ok", (), 1, 1)  # fmt: skip


class Scripted(Judge):
    """A judge whose comparisons come from a function; records its batches."""

    def __init__(self, opinion: Callable[[ComparisonInput], Comparison] = longer) -> None:
        engine: Any = SimpleNamespace(max_model_len=512)
        super().__init__(engine, None, PromptFile.load("configs/prompts/toy.yaml"), JudgingConfig())
        self.opinion, self.calls = opinion, list[list[ComparisonInput]]()
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def compare_many(self, rows: Iterable[ComparisonInput]) -> Iterator[Comparison]:
        batch = list(rows)
        self.calls.append(batch)
        self.inside.set()
        assert self.go_on.wait(30)
        for number, (prompt, a, b) in enumerate(batch):
            if a == "bad":
                raise DataError("bad type", location=f"row {number}")
            if a == "dead":
                raise RuntimeError("the engine died")
            yield self.opinion((prompt, a, b))


def beats(a: str, b: str) -> float:
    """P(a is better) by length."""
    return 1 / (1 + math.exp(len(b) - len(a)))


class QualityJudge:
    """Judges by a quality of each text, in nats; a text with a question mark cannot be read, by anyone beside it either.

    Args:
        quality: by default the text's length.
        letters: verdicts have no probabilities.
        recovers: what could not be read is read at the second request for it, in whatever order.
    """

    def __init__(
        self, quality: Callable[[str], float] = len, *, letters: bool = False, recovers: bool = False
    ) -> None:
        self.quality, self.letters, self.recovers = quality, letters, recovers
        self.calls, self.seen = list[tuple[str, list[Any]]](), set[frozenset[str]]()

    def _unread(self, texts: Iterable[str]) -> bool:
        key = frozenset(texts)
        again, _ = key in self.seen, self.seen.add(key)
        return any("?" in text for text in key) and not (again and self.recovers)

    def compare_many(self, rows: Iterable[Any]) -> Iterator[Comparison]:
        batch = list(rows)
        self.calls.append(("compare_many", batch))
        for _, a, b, *_ in batch:
            if self._unread((a, b)):
                yield Comparison("c", None, None, "", "unparsed", (), 1, 1)
                continue
            chance = 1 / (1 + math.exp(self.quality(b) - self.quality(a)))
            winner: Winner = "A" if chance > 0.5 else "B" if chance < 0.5 else "tie"
            yield Comparison("c", winner, None if self.letters else chance, "", "ok", (), 1, 1)

    def rate_many(self, rows: Iterable[Any]) -> Iterator[Rating]:
        batch = list(rows)
        self.calls.append(("rate_many", batch))
        for _, answer, *_ in batch:
            unread = self._unread([answer])
            rating = max(1.0, min(10.0, 1 + self.quality(answer)))
            yield Rating("r", None if unread else rating, "unparsed" if unread else "ok", "")

    def choose_many(self, rows: Iterable[Any]) -> Iterator[ListVerdict]:
        batch = list(rows)
        self.calls.append(("choose_many", batch))
        for _, answers, *_ in batch:
            if self._unread(answers):
                yield ListVerdict("v", "l", None, None, "unparsed", "")
                continue
            weights = [math.exp(self.quality(answer)) for answer in answers]
            shares = tuple(weight / sum(weights) for weight in weights)
            yield ListVerdict("v", "l", shares.index(max(shares)), None if self.letters else shares, "ok", "")
