"""Conversations judged by a rule, for heads that learn a judge's scores."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from reasongenrm.config.distil import DistilRecipe
from reasongenrm.records import Conversation, Judgment
from support.heads import ARGS, sentence

RUBRIC = {
    "criteria": [
        {"name": "accuracy", "weight": 3, "scale": [1, 5]},
        {"name": "tone", "weight": 1, "scale": [0, 10]},
    ]
}

ACCURACY = {"good": 5.0, "so": 3.0, "bad": 1.0}
TONE = {"you": 8.0, "he": 2.0}
"""The judge's rule: one word of the reply decides one criterion."""


def distil_recipe(base: Path | str, **changes: Any) -> DistilRecipe:
    """A recipe with the rule's rubric; the server is never asked."""
    head = {"model": str(base), "args": ARGS | {"max_steps": 60}} | changes.pop("head", {})
    judge = {"rubric": RUBRIC, "server": {"kind": "anthropic", "model": "nobody"}}
    raw = {"name": "distilled", "conversations": "none.jsonl", "judge": judge, "head": head, "seed": 1}
    return DistilRecipe.model_validate(raw | changes)


def rule_judgment(row: Conversation, samples: int = 1, noise: float = 0.0) -> Judgment:
    """The judgment by the rule; with noise, samples differ."""
    rubric = distil_recipe("none").judge.rubric
    words = row.response.split()
    true = {
        "accuracy": next(score for word, score in ACCURACY.items() if word in words),
        "tone": next(score for word, score in TONE.items() if word in words),
    }
    draw = random.Random(row.id)
    scores = tuple(
        {
            c.name: min(c.scale[1], max(c.scale[0], true[c.name] + draw.gauss(0, noise)))
            for c in rubric.criteria
        }
        for _ in range(samples)
    )
    mean = {name: sum(sample[name] for sample in scores) / samples for name in true}
    return Judgment(row.id, mean, rubric.weighted_score(mean), "by the rule", scores, {"ok": samples}, {})


def unreadable(row: Conversation) -> Judgment:
    return Judgment(row.id, {}, None, "", (), {"unreadable": 1}, {})


def judged_conversations(
    messages: int = 60, *, samples: int = 1, noise: float = 0.0, seed: int = 3
) -> tuple[list[Conversation], list[Judgment]]:
    """Three replies to each message, of every accuracy, and their judgments."""
    draw = random.Random(seed)
    rows = []
    for number in range(messages):
        message = f"{sentence(draw, 'what')} {number}"
        for word in ACCURACY:
            texts = [text for text in sentence(draw, word).split() if text not in TONE]
            texts.insert(draw.randrange(len(texts)), draw.choice(list(TONE)))
            rows.append(Conversation.make("the student is new" * (number % 2), message, " ".join(texts)))
    return rows, [rule_judgment(row, samples, noise) for row in rows]
