"""Prompt and response as one sequence with a scalar head, by the tokens that a trained head reads."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from conversation import ROOT, shown
from drawing import Drawing

TITLE = (
    "Prompt and response are one sequence of tokens. A causal model has the scalar head at the last token, "
    "an encoder such as DistilBERT at the first one; the head gives one number"
)
WIDTH = 900
PROMPT, RESPONSE = "sort zipper velvet bottle window", "bottle velvet window zipper"

Runs = list[tuple[str, list[str]]]
PARTS = {0: "query", 1: "response", None: "special"}
"""Number of the text that a token comes from -> its part of the sequence."""


def _runs(base: str) -> Runs:
    """Return the parts of the sequence that a head of this base reads, with their tokens."""
    from reasongenrm.scalar.inputs import encode, load_base_tokenizer

    tokenizer = load_base_tokenizer(base, None, 512)
    encoded: Any = encode(tokenizer, PROMPT, RESPONSE, 512)
    texts = (tokenizer.decode([number]) for number in encoded["input_ids"])
    tokens = zip(encoded.sequence_ids(), texts, strict=True)
    return [(PARTS[part], [text for _, text in group]) for part, group in groupby(tokens, key=itemgetter(0))]


@lru_cache(maxsize=1)
def token_rows() -> dict[str, Runs]:
    """Return the sequence of a causal base and of a BERT-like one."""
    from reasongenrm.demo.build import build_tiny_distilbert

    with tempfile.TemporaryDirectory() as folder:
        build_tiny_distilbert(Path(folder), [PROMPT, RESPONSE], seed=17)
        return {"causal": _runs(str(ROOT / "data" / "toy-base")), "encoder": _runs(folder)}


FILLS = {"query": "judged", "response": "reason", "special": "plain"}


def _row(figure: Drawing, y: float, title: str, runs: Runs, *, at: int, note: str) -> None:
    """Draw one sequence, and the head at the token of the index `at`."""
    figure.text(24, y, title, size=13.5, bold=True)
    x, places = 24.0, []
    for part, tokens in runs:
        for token in tokens:
            width = figure.chip(x, y + 14, shown(token), FILLS[part])
            places.append(x + width / 2)
            x += width + 3
    middle = places[at]
    figure.arrow([(middle, y + 36), (middle, y + 62)])
    left = min(max(middle - 128, 24), WIDTH - 280)
    figure.rect(left, y + 62, 256, 46, "header", border=True)
    figure.text(left + 128, y + 81, "scalar head: Z = r(ω, ω̂)", size=13.5, anchor="middle", bold=True)
    figure.text(left + 128, y + 99, note, size=12, anchor="middle")


def draw() -> Drawing:
    """Return the figure."""
    rows = token_rows()
    figure = Drawing(WIDTH, 326, TITLE)
    x = 24.0
    for fill, label in (("judged", "prompt ω"), ("reason", "response ω̂"), ("plain", "special token")):
        figure.rect(x, 16, 16, 16, fill, radius=4)
        figure.text(x + 22, 29, label, size=12.5)
        x += 130
    _row(
        figure,
        62,
        "Causal language model",
        rows["causal"],
        at=-1,
        note="Z = w · h, of the last token's state h",
    )
    _row(
        figure,
        206,
        "Encoder, such as DistilBERT",
        rows["encoder"],
        at=0,
        note="two layers on the first token's state",
    )
    return figure
