"""Pretraining corpus of the toy base: chats about the `pretrain` questions of the toy world.

The base solves tasks, checks single replies, compares two replies named "first" and "second", and explains a given
verdict in the layout of the judge's prompt. That layout never appears without a verdict, and at least half of its
explanations state the given verdict first, right or wrong. So the base learns the skills of a judge and explains with
noise, but judges at about chance.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from reasongenrm.chat.prompts import PromptFile, hindsight_prompt
from reasongenrm.demo.world import FAMILIES, Task, draw_task, explain, retell
from reasongenrm.records import Message, PreferencePair

SOLVE, CHECK, COMPARE = 0.15, 0.15, 0.3
"""Shares of three kinds of chat; the rest explains a given verdict in hindsight."""
WRONG_HINT = 0.4
"""Of the explanations that state the verdict first: share in which the given verdict is wrong."""
MISREAD, VAGUE, CONTRADICTING = 0.12, 0.08, 0.06
"""Of the other explanations: shares with one word misread, without any work, and with the other verdict at the end."""


@dataclass(frozen=True, slots=True)
class ChatMixture:
    """Mixture of chats in one phase of pretraining.

    Attributes:
        families: sampling weights, in the order of `FAMILIES`.
        verdict_first: share of the explanations in hindsight that state the verdict first.
        opening: first words of those explanations.
    """

    families: tuple[float, ...]
    verdict_first: float
    opening: str


BROAD = ChatMixture((1, 1, 1, 1), verdict_first=0.5, opening="")
# More of the hard families. With one opening for both letters, the likeliest beginning of any explanation is a verdict,
# also where none is given: the untrained base guesses instead of working.
HARD = ChatMixture((1.2, 1.0, 0.4, 1.4), verdict_first=0.6, opening="the answer ")

PRAISE = (
    "it reads well", "it is nice", "it feels good", "the words are fine", "i like it more", "it looks clean",
    "it has a good tone", "the other one is poor", "people would like it", "it is what one wants",
)  # fmt: skip


def _misread(rng: random.Random, text: str) -> str:
    """Replace one word of the work or of an answer by another word of the text."""
    words = text.split()
    body = [i for i, word in enumerate(words[:-5]) if word not in ".,+=" and word not in ("A", "B", "has")]
    words[rng.choice(body)] = words[rng.choice(body)]
    return " ".join(words)


def hindsight_explanation(
    rng: random.Random, task: Task, first: str, second: str, mixture: ChatMixture
) -> tuple[str, str]:
    """Return the given verdict and an explanation, noisy on purpose, of two answers placed as A and B."""
    right = "A" if first == task.good else "B"
    wrong = "B" if right == "A" else "A"
    if rng.random() < mixture.verdict_first:
        hint = wrong if rng.random() < WRONG_HINT else right
        return hint, f"{mixture.opening}{hint} is better . {rng.choice(PRAISE)} and {rng.choice(PRAISE)} ."
    kind = rng.random()
    if kind < VAGUE:
        praise = [rng.choice(PRAISE) for _ in range(3)]
        return right, f"{' . '.join(praise)} . so {right} is better ."
    text = explain(task, first, second, ("A", "B"))
    if kind < VAGUE + MISREAD:
        return right, _misread(rng, text)
    if kind < VAGUE + MISREAD + CONTRADICTING:
        return right, text.replace(f"so {right} is", f"so {wrong} is")
    return right, text


def _chat(user: str, assistant: str) -> list[Message]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _hindsight(rng: random.Random, task: Task, prompts: PromptFile, mixture: ChatMixture) -> list[Message]:
    chosen_first = rng.random() < 0.5
    first, second = (task.good, task.bad) if chosen_first else (task.bad, task.good)
    hint, text = hindsight_explanation(rng, task, first, second, mixture)
    # The answer named by the hint is the chosen one, right or wrong.
    chosen, rejected = (first, second) if hint == "A" else (second, first)
    pair = PreferencePair.make([{"role": "user", "content": task.question}], chosen, rejected, task.family)
    prompt = hindsight_prompt(pair, "AB" if hint == "A" else "BA", prompts)
    verdict = text.rsplit(" is better", 1)[0].split()[-1]
    return [
        *prompt,
        {"role": "reason", "content": text},
        {"role": "assistant", "content": f"[[{verdict}]]"},
    ]


def _compare(rng: random.Random, task: Task) -> list[Message]:
    first, second = (task.good, task.bad) if rng.random() < 0.5 else (task.bad, task.good)
    prompt = f"two people were asked : {task.question}\nfirst said : {first}\nsecond said : {second}\ncompare them ."
    return _chat(prompt, explain(task, first, second, ("first", "second")))


def check(rng: random.Random, task: Task) -> tuple[str, str, str]:
    """Return a question about one reply, the work with what the reply says, and whether the reply is right."""
    right = rng.random() < 0.5
    reply = task.good if right else task.bad
    prompt = f"asked : {task.question}\nreply : {reply}\ncheck it ."
    return prompt, f"{task.work} reply has {retell(task, reply)}", "right" if right else "wrong"


def chats(seed: int, prompts: PromptFile, mixture: ChatMixture = BROAD) -> Iterator[list[Message]]:
    """Yield pretraining chats without end; they depend on the arguments alone."""
    rng = random.Random(f"corpus {seed}")
    while True:
        task = draw_task(rng, "pretrain", rng.choices(FAMILIES, mixture.families)[0])
        kind = rng.random()
        if kind < SOLVE:
            yield _chat(task.question, task.good)
        elif kind < SOLVE + CHECK:
            prompt, work, verdict = check(rng, task)
            yield _chat(prompt, f"{work} , {verdict} .")
        elif kind < SOLVE + CHECK + COMPARE:
            yield _compare(rng, task)
        else:
            yield _hindsight(rng, task, prompts, mixture)
