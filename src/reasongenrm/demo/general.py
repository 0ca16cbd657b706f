"""General data of the toy world: its questions themselves, worked out and answered, with no verdict in them.

The questions are of the `pretrain` split and every word is one that the toy base has read; what is new to it is the
order question, reason, answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from reasongenrm.demo.world import FAMILIES, Task, draw_task, seen_in

CHECKS = 0.4
"""Share of the rows that ask whether a reply is right; the others ask the question."""


def toy_general(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Yield distinct rows with `prompt`, `reason`, `response` and `source` (the family, in turn).

    Args:
        count: number of rows; beyond some 20 000 the smallest family has no more distinct ones to give.
        seed: decides the draw.
    """
    rng = random.Random(f"general {seed}")
    seen: set[str] = set()
    for number in range(count):
        family = FAMILIES[number % len(FAMILIES)]
        while True:
            task = draw_task(rng, "pretrain", family)
            row = _check(rng, task) if rng.random() < CHECKS else _solve(task)
            if row["prompt"] not in seen:
                break
        seen.add(row["prompt"])
        yield row | {"source": family}


def _solve(task: Task) -> dict[str, str]:
    return {"prompt": task.question, "reason": task.work, "response": task.good}


def _check(rng: random.Random, task: Task) -> dict[str, str]:
    right = rng.random() < 0.5
    reply = task.good if right else task.bad
    return {
        "prompt": f"asked : {task.question}\nreply : {reply}\ncheck it .",
        "reason": f"{task.work} reply has {seen_in(task, reply)} .",
        "response": "right" if right else "wrong",
    }
