"""The way from preference pairs to a report: every box is a file or a folder of a run."""

from __future__ import annotations

from drawing import Drawing

TITLE = (
    "Stage 1 turns preference pairs into prompts, sampled reasons, scored reasons and training records; stage 2 trains judges on "
    "the records and a scalar head on the pairs; stage 3 turns benchmark rows into completions, verdicts, scores and a report"
)
WIDTH, HEIGHT = 900, 452
BOX, GAP, LEFT = 136, 35, 40
LANES = {"1_prepare.sh": 16, "2_train.sh": 156, "3_eval_reward_bench.sh": 286}
"""Script -> top of its lane."""
FIRST = (
    ("pairs.jsonl", "chosen and rejected,", "cleaned"),
    ("prompts.jsonl", "A and B placed", "by a seed"),
    ("reasons/*.jsonl", "teachers explain", "or judge blind"),
    ("scored.jsonl", "R*: how well a reason", "leads to the verdict"),
    ("sft.jsonl", "the best reasons;", "also dpo, grpo, genrm"),
)
THIRD = (
    ("benchmark", "pairs with", "a right answer"),
    ("completions.jsonl", "every pair", "in both orders"),
    ("verdicts.jsonl", "letter, P(A),", "outcome"),
    ("scores.json", "official metrics,", "intervals"),
    ("report.html", "tables, charts,", "every row"),
)
FILES = [name for name, *_ in (*FIRST, *THIRD) if "." in name]


def _left(column: int) -> float:
    return LEFT + column * (BOX + GAP)


def _box(figure: Drawing, x: float, y: float, width: float, texts: tuple[str, ...]) -> None:
    name, *captions = texts
    figure.rect(x, y, width, 66, "box", border=True)
    file = "." in name or "/" in name
    figure.text(x + width / 2, y + 21, name, size=12 if file else 13, anchor="middle", mono=file, bold=True)
    for line, caption in enumerate(captions):
        figure.text(x + width / 2, y + 39 + 15 * line, caption, size=11.5, color="soft", anchor="middle")


def _row(
    figure: Drawing, top: float, boxes: tuple[tuple[str, str, str], ...], costs: tuple[int, ...]
) -> None:
    """Draw boxes in a row, with a dot on the arrows into those that cost GPU time or money."""
    for column, texts in enumerate(boxes):
        _box(figure, _left(column), top, BOX, texts)
        if column:
            figure.arrow([(_left(column) - GAP, top + 33), (_left(column), top + 33)])
            if column in costs:
                figure.dot(_left(column) - GAP / 2 - 3, top + 33)


def draw() -> Drawing:
    """Return the figure."""
    figure = Drawing(WIDTH, HEIGHT, TITLE)
    for (name, top), height in zip(LANES.items(), (116, 106, 132), strict=True):
        figure.rect(20, top, WIDTH - 40, height, "lane")
        figure.text(LEFT, top + 21, name, size=13, mono=True, bold=True)
    first, second, third = (top + 34 for top in LANES.values())
    second -= 6
    _row(figure, first, FIRST, costs=(2, 3))
    _row(figure, third, THIRD, costs=(1,))
    _box(figure, _left(0), second, BOX, ("scalar/", "a number per answer", "(Bradley-Terry)"))
    wide = 2 * BOX + GAP
    _box(
        figure,
        _left(1),
        second,
        wide,
        ("judges/<name>/", "SFT on reasons and verdicts;", "then a round, DPO or GRPO"),
    )
    _box(
        figure,
        _left(3),
        second,
        wide,
        ("use it", "Python, shell, web page, HTTP,", "a reward for GRPO, best of N"),
    )
    figure.arrow([(_left(3) - GAP, second + 33), (_left(3), second + 33)])
    # pairs -> scalar, and records -> judges
    beside = _left(0) + BOX - 20  # of the script's name
    figure.arrow([(beside, first + 66), (beside, second)])
    figure.dot(beside, LANES["2_train.sh"] - 12)
    bend, middle = LANES["2_train.sh"] - 12, _left(1) + wide / 2
    figure.arrow(
        [(_left(4) + BOX / 2, first + 66), (_left(4) + BOX / 2, bend), (middle, bend), (middle, second)]
    )
    figure.dot(_left(3), bend)
    # judges -> completions, and scalar -> scores around the row
    figure.arrow([(_left(1) + BOX / 2, second + 66), (_left(1) + BOX / 2, third)])
    edge, below = 30, third + 80
    figure.arrow(
        [
            (_left(0), second + 33),
            (edge, second + 33),
            (edge, below),
            (_left(3) + BOX / 2, below),
            (_left(3) + BOX / 2, third + 66),
        ]
    )
    figure.dot(_left(1) - GAP / 2 - 3, below)
    figure.dot(LEFT + 24, HEIGHT - 17)
    legend = "uses a GPU or an API. All other steps are pure: they can be repeated at no cost. Every step resumes after a kill."
    figure.text(LEFT + 36, HEIGHT - 12.5, legend, size=12, color="soft")
    return figure
