"""What the toy base reads while it is pretrained: chats about the `pretrain` questions of the toy world.

It solves tasks, checks single replies, compares two replies in words of its own ("first", "second"), and explains
verdicts that it is told, in the layout of the judge's prompt. It never reads that layout without being told the
verdict, and at least half of its explanations blurt the told verdict out first, right or wrong. So it holds the judge's
skills, explains noisily, and judges at about chance.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from reasongenrm.chat.prompts import PromptFile, hindsight_prompt
from reasongenrm.demo.world import FAMILIES, Task, draw_task, explain, seen_in
from reasongenrm.records import Message, PreferencePair

# Shares of the four kinds of chat.
SOLVE, CHECK, COMPARE = 0.15, 0.15, 0.3


# Of the explanations that blurt the verdict out first: share told a wrong verdict.
TOLD_WRONG = 0.4


# Of the others: share with a slip in what was read, vague ones, and ones that end in the other verdict.
SLIPS, VAGUE, CONTRADICTS = 0.12, 0.08, 0.06


@dataclass(frozen=True, slots=True)
class Diet:
    """What a phase of pretraining reads.

    Attributes:
        families: how often each family is drawn, as weights in the order of `FAMILIES`.
        blurts: share of the explanations in hindsight that blurt the verdict out first.
        opening: the words with which these open.
    """

    families: tuple[float, ...]
    blurts: float
    opening: str


BROAD = Diet((1, 1, 1, 1), blurts=0.5, opening="")


# More of what is hard. With one opening for both letters, blurting is the likeliest way to begin a reason, also where
# no verdict is told: the untouched base guesses instead of working.
FINE = Diet((1.2, 1.0, 0.4, 1.4), blurts=0.6, opening="the answer ")


PRAISE = (
    "it reads well", "it is nice", "it feels good", "the words are fine", "i like it more", "it looks clean",
    "it has a good tone", "the other one is poor", "people would like it", "it is what one wants",
)  # fmt: skip


def _blurt(rng: random.Random, winner: str, diet: Diet) -> str:
    return f"{diet.opening}{winner} is better . {rng.choice(PRAISE)} and {rng.choice(PRAISE)} ."


def _vague(rng: random.Random, winner: str) -> str:
    return f"{rng.choice(PRAISE)} . {rng.choice(PRAISE)} . {rng.choice(PRAISE)} . so {winner} is better ."


def _slip(rng: random.Random, text: str) -> str:
    """Misread something: one word of the work or the readings is replaced by another word of the same text."""
    words = text.split()
    body = [i for i, word in enumerate(words[:-5]) if word not in ".,+=" and word not in ("A", "B", "has")]
    words[rng.choice(body)] = words[rng.choice(body)]
    return " ".join(words)


def hindsight_explanation(
    rng: random.Random, task: Task, first: str, second: str, diet: Diet
) -> tuple[str, str]:
    """Return (told verdict, explanation) for answers placed as A and B; noisy on purpose."""
    right = "A" if first == task.good else "B"
    other = "B" if right == "A" else "A"
    if rng.random() < diet.blurts:
        told = other if rng.random() < TOLD_WRONG else right
        return told, _blurt(rng, told, diet)
    kind = rng.random()
    if kind < VAGUE:
        return right, _vague(rng, right)
    text = explain(task, first, second, ("A", "B"))
    if kind < VAGUE + SLIPS:
        return right, _slip(rng, text)
    if kind < VAGUE + SLIPS + CONTRADICTS:
        return right, text.replace(f"so {right} is", f"so {other} is")
    return right, text


def _turns(user: str, assistant: str) -> list[Message]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _hindsight(rng: random.Random, task: Task, prompts: PromptFile, diet: Diet) -> list[Message]:
    chosen_first = rng.random() < 0.5
    first, second = (task.good, task.bad) if chosen_first else (task.bad, task.good)
    told, text = hindsight_explanation(rng, task, first, second, diet)
    # The told answer stands as the chosen one, whether or not it is the good one.
    chosen, rejected = (first, second) if told == "A" else (second, first)
    pair = PreferencePair.make([{"role": "user", "content": task.question}], chosen, rejected, task.family)
    asked = hindsight_prompt(pair, "AB" if told == "A" else "BA", prompts)
    stated = text.rsplit(" is better", 1)[0].split()[-1]
    return [
        *asked,
        {"role": "reason", "content": text},
        {"role": "assistant", "content": f"[[{stated}]]"},
    ]


def _compare(rng: random.Random, task: Task) -> list[Message]:
    first, second = (task.good, task.bad) if rng.random() < 0.5 else (task.bad, task.good)
    asked = f"two people were asked : {task.question}\nfirst said : {first}\nsecond said : {second}\ncompare them ."
    return _turns(asked, explain(task, first, second, ("first", "second")))


def _check(rng: random.Random, task: Task) -> list[Message]:
    answer = task.good if rng.random() < 0.5 else task.bad
    told = f"{task.work} reply has {seen_in(task, answer)} , {'right' if answer == task.good else 'wrong'} ."
    return _turns(f"asked : {task.question}\nreply : {answer}\ncheck it .", told)


def chats(seed: int, prompts: PromptFile, diet: Diet = BROAD) -> Iterator[list[Message]]:
    """Yield pretraining chats without end; the draw depends on seed and diet alone."""
    rng = random.Random(f"corpus {seed}")
    while True:
        task = draw_task(rng, "pretrain", rng.choices(FAMILIES, diet.families)[0])
        kind = rng.random()
        if kind < SOLVE:
            yield _turns(task.question, task.good)
        elif kind < SOLVE + CHECK:
            yield _check(rng, task)
        elif kind < SOLVE + CHECK + COMPARE:
            yield _compare(rng, task)
        else:
            yield _hindsight(rng, task, prompts, diet)
