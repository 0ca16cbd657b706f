"""The input sequence of a scalar head as a table and as a picture: [omega; omega-hat] -> r(omega, omega-hat)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from reasongenrm.errors import EngineError
from reasongenrm.records import Message
from reasongenrm.report.charts import encode_png, figure
from reasongenrm.report.tables import grid
from reasongenrm.scalar.inputs import encode
from reasongenrm.scalar.losses import probability

TokenRuns = list[tuple[str, list[str]]]
"""Name and tokens of each part of a sequence, in order."""

COLORS = {"query": "#9ecae1", "response": "#fdbe85", "special": "#d9d9d9"}
"""Part of the sequence -> colour; the tokens on it are black."""


def token_runs(tokenizer: Any, prompt: str | Sequence[Message], response: str) -> list[tuple[str, list[str]]]:
    """Return the input sequence [omega; omega-hat] exactly as the model reads it: the name and the tokens of each part.

    The parts are `query` (the prompt, omega), `response` (omega-hat) and `special` (from the tokenizer's pair template).

    Args:
        tokenizer: a trained head's (`ScalarRewardModel.tokenizer`).

    Raises:
        EngineError: a slow tokenizer, which does not report where its tokens come from.
    """
    if not tokenizer.is_fast:
        problem = "the tokenizer does not tell prompt from response"
        raise EngineError(problem, location=tokenizer.name_or_path, hint="use a fast tokenizer")
    encoded: Any = encode(tokenizer, prompt, response, tokenizer.model_max_length)
    texts = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    names = {0: "query", 1: "response", None: "special"}
    tokens = zip([names[number] for number in encoded.sequence_ids()], texts, strict=True)
    return [(part, [text for _, text in group]) for part, group in groupby(tokens, key=itemgetter(0))]


def sequence_table(tokenizer: Any, prompt: str | Sequence[Message], response: str) -> str:
    """Return the parts of `token_runs` with their positions, from 0, as a Markdown table."""
    rows, first = [], 0
    for part, tokens in token_runs(tokenizer, prompt, response):
        last = first + len(tokens) - 1
        rows.append((part, f"{first}–{last}" if last > first else f"{first}", " ".join(tokens)))
        first = last + 1
    return grid(["part", "positions", "tokens"], rows, text_columns=3)


LINE = 128.0
"""Width of a line of tokens; a unit is about 1/170 of the figure's 7 inches."""


def sequence_figure(
    tokenizer: Any,
    prompt: str | Sequence[Message],
    responses: Mapping[str, str],
    scores: Mapping[str, float] | None = None,
) -> bytes:
    """Draw the sequence of each of two responses in the colours of its parts, and what becomes of it, as a PNG.

    Each sequence goes through encoder and head to its score Z = r(omega, omega-hat); both meet only in their difference.

    Args:
        tokenizer: a trained head's.
        prompt: what is answered.
        responses: name -> text of the two responses, the preferred one first.
        scores: name -> score in nats; without them the picture holds the symbols.

    Raises:
        EngineError: see `token_runs`.
    """
    names = list(responses)
    placed = [_placed(token_runs(tokenizer, prompt, responses[name])) for name in names]
    lines = [1 + tokens[-1][-1] for tokens in placed]
    drawing, [[axes]] = figure(0.31 * (sum(lines) + 4.2))
    top, places = 0.0, []
    for name, tokens, count in zip(names, placed, lines, strict=True):
        for part, text, left, width, line in tokens:
            _box(axes, left, top + line, width, text, COLORS[part])
        places.append(top + count + 0.05)
        _draw_score(axes, name, places[-1], None if scores is None else scores[name])
        top += count + 1.4
    _draw_difference(axes, names, places, scores)
    _draw_legend(axes, top)
    axes.set(xlim=(-1, LINE + 43), ylim=(top + 0.6, -0.5))
    axes.axis("off")
    return encode_png(drawing)


def _draw_score(axes: Any, name: str, middle: float, score: float | None) -> None:
    """Draw the way from a sequence, on the line above, to its score."""
    axes.plot([4, 4], [middle - 0.67, middle], color="#333", linewidth=0.9)
    _arrow(axes, (4, middle), (9, middle))
    _box(axes, 9, middle, 26, "encoder and head", "#c7e9c0")
    _arrow(axes, (35, middle), (40, middle))
    value = "" if score is None else rf" $=$ {score:+.2f}"
    symbols = rf"$Z_{{{name}}} = r(\omega,\ \hat\omega_{{{name}}})$"
    axes.text(41, middle, symbols + value.replace("-", "−"), va="center", fontsize=9)


def _placed(runs: TokenRuns) -> list[tuple[str, str, float, float, int]]:
    """Return part, text, left end, width and line of each token; a line that is full ends before its next token."""
    placed: list[tuple[str, str, float, float, int]] = []
    left, line = 0.0, 0
    for part, tokens in runs:
        for text in tokens:
            width = 1.55 * len(text) + 1.6
            if left + width > LINE and left:
                left, line = 0.0, line + 1
            placed.append((part, text, left, width, line))
            left += width + 0.6
    return placed


def _box(axes: Any, left: float, middle: float, width: float, text: str, color: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle((left, middle - 0.38), width, 0.76, facecolor=color, edgecolor="#666", linewidth=0.6)
    )
    axes.text(left + width / 2, middle, text, ha="center", va="center", fontsize=7.5, parse_math=False)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "->", "color": "#333", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def _draw_difference(
    axes: Any, names: Sequence[str], middles: Sequence[float], scores: Mapping[str, float] | None
) -> None:
    """Draw arrows from both scores to their difference and its probability."""
    first, second = names
    middle = sum(middles) / 2
    for end in middles:
        axes.plot([82, LINE + 14], [end, end], color="#333", linewidth=0.9)
        _arrow(axes, (LINE + 14, end), (LINE + 14, middle + (0.75 if end > middle else -0.75)))
    lines = [
        rf"$\Delta = Z_{{{first}}} - Z_{{{second}}}$",
        rf"$P({first} \succ {second}) = \sigma(\Delta)$",
    ]
    if scores is not None:
        delta = scores[first] - scores[second]
        lines = [
            f"{lines[0]} = {delta:+.2f}".replace("-", "−"),
            f"{lines[1]} = {float(probability(delta)):.3f}",
        ]
    frame = {"facecolor": "white", "edgecolor": "#333", "linewidth": 0.6, "boxstyle": "round,pad=0.4"}
    axes.text(LINE + 4, middle, "\n".join(lines), va="center", fontsize=8.5, linespacing=1.6, bbox=frame)


def _draw_legend(axes: Any, top: float) -> None:
    left = 0.0
    labels = {
        "query": r"$\omega$: the prompt",
        "response": r"$\hat\omega$: the response",
        "special": "special tokens",
    }
    for part, label in labels.items():
        _box(axes, left, top + 0.2, 4, "", COLORS[part])
        axes.text(left + 5, top + 0.2, label, va="center", fontsize=8.5)
        left += 36
