"""A training record of a judge, token by token, with its loss mask: by the encoder and the rows of the training itself."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from drawing import MONO_WIDTH, Drawing

ROOT = Path(__file__).resolve().parents[2]
TITLE = (
    "The tokens of a training record. The user turn with the question and both answers is not learned; the reason, the header of "
    "the verdict and the verdict are learned, and P(A) is read at the verdict's letter"
)
WIDTH, SIZE, LEFT, RIGHT = 900, 13, 124, 24


class Token(NamedTuple):
    """A token of the record.

    Attributes:
        text: decoded.
        learned: 1 if it counts in the loss.
        part: `plain` (the template's), `judged`, `reason`, `header` or `verdict`.
    """

    text: str
    learned: int
    part: str


def toy_record() -> tuple[Any, tuple[Any, ...], str, str]:
    """Return the encoder of the toy judge, a judge's prompt, and its reason and verdict."""
    from reasongenrm.chat.encoder import ChatEncoder
    from reasongenrm.chat.prompts import PromptFile, judge_prompt
    from reasongenrm.checkpoints import load_checkpoint
    from reasongenrm.demo.world import draw_task, explain
    from reasongenrm.records import PreferencePair

    prompts = PromptFile.load(ROOT / "configs" / "prompts" / "toy.yaml")
    template = (ROOT / "configs" / "prompts" / "reason.jinja").read_text(encoding="utf-8")
    tokenizer = load_checkpoint("AutoTokenizer", str(ROOT / "data" / "toy-base"))
    encoder = ChatEncoder(tokenizer, template, prompts.verdict)
    task = draw_task(random.Random(3), "train", "toy-chat-hard")
    pair = PreferencePair.make([{"role": "user", "content": task.question}], task.good, task.bad, task.family)
    messages = judge_prompt(pair, "BA", prompts).messages
    return encoder, messages, explain(task, task.bad, task.good, ("A", "B")), prompts.verdict.b


def training_row() -> dict[str, list[int]]:
    """Return `input_ids` and `completion_mask` of the record as stage 2 makes them from a line of `sft.jsonl`."""
    from reasongenrm.train.tokens import training_rows

    encoder, messages, reason, verdict = toy_record()
    row = {"prompt": list(messages), "reason": reason, "response": verdict}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sft.jsonl"
        file.write_text(json.dumps(row) + "\n", encoding="utf-8")
        return next(training_rows([file], encoder, 512))


@lru_cache(maxsize=1)
def tokens() -> tuple[Token, ...]:
    """Return the record's tokens with their mask, named by the part of the conversation that they belong to."""
    encoder, messages, reason, verdict = toy_record()
    row = training_row()
    judged = encoder.content(messages[0]["content"])
    parts = ["plain"] * row["completion_mask"].count(0)
    first = len(encoder.structure("<|im_start|>user\n"))
    parts[first : first + len(judged)] = ["judged"] * len(judged)
    parts += ["reason"] * len(encoder.content(reason))
    parts += ["header"] * len(encoder.structure(encoder.reason_verdict_separator))
    parts += ["verdict"] * (len(encoder.content(verdict)) + len(encoder.structure(encoder.end_marker)))
    texts = (encoder.tokenizer.decode([number]) for number in row["input_ids"])
    return tuple(Token(*three) for three in zip(texts, row["completion_mask"], parts, strict=True))


def shown(text: str) -> str:
    """Return a token with its white space as signs."""
    return text.replace("\n", "↵").replace(" ", "·")


def _lines() -> Iterator[list[Token]]:
    """Yield the tokens in lines, which end behind a line end of the text or at the figure's edge."""
    line: list[Token] = []
    room = left = WIDTH - LEFT - RIGHT
    for token in tokens():
        width = len(token.text) * SIZE * MONO_WIDTH + 10
        if width > left:
            yield line
            line, left = [], room
        line.append(token)
        left -= width
        if token.text.endswith("\n"):
            yield line
            line, left = [], room
    yield line


LEGEND = (
    ("plain", "the template's own tokens"),
    ("judged", "question and answers: data"),
    ("reason", "reason"),
    ("header", "header"),
    ("verdict", "verdict"),
)


def draw() -> Drawing:
    """Return the figure."""
    lines = list(_lines())
    pitch = SIZE + 17
    top = 74
    height = top + len(lines) * pitch + 50
    figure = Drawing(WIDTH, height, TITLE)
    x = 24.0
    for part, label in LEGEND:
        figure.rect(x, 18, 16, 16, part, radius=4)
        figure.text(x + 22, 31, label, size=12.5)
        x += 22 + 6.9 * len(label) + 26
    learned = sum(token.learned for token in tokens())
    figure.bar(24, 51, 16, "good")
    text = f"learned: loss mask 1 ({learned} tokens); all others have loss mask 0 ({len(tokens()) - learned} tokens)"
    figure.text(46, 57, text, size=12.5)
    turn, before = "", ""
    for number, line in enumerate(lines):
        y = top + number * pitch
        if line[0].text == "<|im_start|>":
            turn = line[1].text
        elif line[0].part == "reason" and before != "reason":
            turn = "reason"
        if turn != before:
            label = {"user": "user turn", "reason": "reason turn", "assistant": "verdict turn"}[turn]
            figure.text(24, y + SIZE + 2, label, size=12.5, color="soft", bold=True)
            before = turn
        x = LEFT
        for token in line:
            width = figure.chip(x, y, shown(token.text), token.part, size=SIZE, learned=bool(token.learned))
            if token.part == "verdict" and token.text in ("A", "B"):
                letter = x + width / 2
            x += width + 2
    bottom = top + len(lines) * pitch
    figure.arrow([(letter, bottom + 16), (letter, bottom - 4)], "cost")
    note = "P(A) = p(A) / (p(A) + p(B)) is read at this token"
    figure.text(letter - 10, bottom + 32, note, size=12.5, color="cost")
    return figure
