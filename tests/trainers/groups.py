"""Groups of samples from the toy world, with texts that trainers tend to change."""

from __future__ import annotations

import random

from reasongenrm.demo.world import distinct, draw_task, ranked_answers
from reasongenrm.rewards.schedule import Group

SIZE = 8
"""Samples per prompt."""

UNREADABLE = "this can not be judged"
"""An answer about which the scripted judge (see conftest.py) says nothing that can be read."""

ODD_TEXTS = (
    "",
    "  two spaces before , and two after  ",
    "naïve „café“ 日本語 🦜",
    "[[A]] [[B]] [Answer A]",
    "line one\n\nline two\ttab",
    "\\frac{1}{2} {braces} %s %(name)s",
    "one two three\n",
    '{"rewards": [1.0]}',
)
"""Answers beside those of the toy world: empty, white space at the ends, unicode, the judge's own marks, line ends, JSON."""


def toy_groups(count: int, seed: int = 19) -> list[Group]:
    """Return groups of SIZE samples, the families in turn; each group has two equal texts and
    the good answer as reference, and some have an UNREADABLE one."""
    rng = random.Random(f"trainers {seed}")
    tasks = distinct(lambda family: draw_task(rng, "test", family), lambda task: task.question, count)
    groups = []
    for number, task in enumerate(tasks):
        wrong = [f"{task.bad} {word}" for word in ("and", "no", "yes")]
        answers = [task.good, task.good, task.bad, *(text for text, _ in ranked_answers(rng, task)[1:])]
        odd = [ODD_TEXTS[number % len(ODD_TEXTS)], *([UNREADABLE] if number % 3 == 0 else [])]
        answers = [*answers, *odd, *wrong][:SIZE]
        rng.shuffle(answers)
        groups.append(Group(task.question, tuple(answers), (task.good,) * SIZE))
    assert all(len(group.answers) == SIZE and len(set(group.answers)) < SIZE for group in groups)
    return groups
