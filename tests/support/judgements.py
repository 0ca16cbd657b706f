"""Judgements that a head can tell apart: the careful ones are right."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from reasongenrm.config.scalar import ScalarConfig
from reasongenrm.records import JudgePrompt, Letter, PreferencePair, Reason
from support.heads import ARGS, sentence

RIGHT, WRONG = "good", "bad"
"""Words of a right and of a wrong reason: those of `support.heads`, which the tiny base knows."""


def judge_prompts(count: int, seed: int) -> list[JudgePrompt]:
    """Judge prompts of words, every other one with A as the winner."""
    source = random.Random(seed)

    def one(number: int) -> JudgePrompt:
        winner: Letter = "AB"[number % 2]  # type: ignore[assignment]
        message = {"role": "user", "content": sentence(source, "what")}
        return JudgePrompt(
            f"p{number}", f"pair{number}", "AB" if winner == "A" else "BA", (message,), winner, "s"
        )  # type: ignore[arg-type]

    return [one(number) for number in range(count)]


def reason(prompt: JudgePrompt, number: int, *, right: bool, source: random.Random, **keys: str) -> Reason:
    """A blind reason whose word says whether its verdict is right."""
    other: Letter = "B" if prompt.winner == "A" else "A"
    text = sentence(source, RIGHT if right else WRONG)
    finish = keys.pop("finish_reason", "stop")
    verdict = prompt.winner if right else other
    return Reason(f"{prompt.id}#blind#{number}", prompt.id, text, verdict, 9, finish, "blind", "blind")


def judgements(prompts: list[JudgePrompt], seed: int) -> list[tuple[JudgePrompt, list[Reason]]]:
    """Prompts, each with a right and a wrong reason."""
    source = random.Random(seed)
    return [
        (prompt, [reason(prompt, n, right=right, source=source) for n, right in enumerate((True, False))])
        for prompt in prompts
    ]


def meta_config(base: Path) -> ScalarConfig:
    """Settings of a head that learns them in seconds."""
    return ScalarConfig(model=str(base), args=ARGS | {"max_steps": 60})


def pair_texts(pairs: Iterator[PreferencePair]) -> list[tuple[str, str]]:
    """The judgements of pairs."""
    return [(pair.chosen, pair.rejected) for pair in pairs]
