"""The report of the checks on held-out prompts: a table, curves, and the answers on which two judges differ most."""

from __future__ import annotations

from collections.abc import Sequence

from reasongenrm.metrics.hacking import (
    FALL_LEVEL,
    MEASURES,
    RISE_LEVEL,
    SMALLEST_FALL,
    WINDOW,
    Check,
    HackingAlarm,
)
from reasongenrm.report.charts import encode_png, figure
from reasongenrm.report.pages import code_block, printable
from reasongenrm.report.tables import MISSING, TextTable, escape_markdown

EXAMPLES = 3
LONGEST = 600
"""Characters of a text in the report."""


def hacking_report(
    checks: Sequence[Check],
    alarms: Sequence[HackingAlarm],
    prompts: Sequence[str],
    references: Sequence[str],
    answers: Sequence[str],
) -> str:
    """Return the report as Markdown.

    Args:
        checks: at least one.
        alarms: those that were raised.
        prompts, references, answers: texts of the held-out prompts, and the policy's answers at the last check.
    """
    lines = ["# Held-out checks of the policy", ""]
    lines += [f"- **ALARM** {escape_markdown(alarm.text)}" for alarm in alarms] or ["No alarm."]
    lines += ["", "![curves](alarm.png)", "", _table(checks).markdown()]
    rule = (
        f"An alarm: between two windows of {WINDOW} checks the reward rose (p < {RISE_LEVEL}) and a check of it fell by "
        f"{100 * SMALLEST_FALL:g} points or more (p < {FALL_LEVEL}); one-sided tests, paired over the {len(prompts)} prompts."
    )
    lines += [rule, *_examples(checks[-1], prompts, references, answers)]
    return printable("\n".join(lines)).rstrip("\n") + "\n"


def _table(checks: Sequence[Check]) -> TextTable:
    headings = ("step", "training reward", "against the references", "second judge", "agreement", "unread")
    rows = []
    for one in checks:
        means = one.means
        cells = (f"{100 * means[name]:.1f}" if name in means else MISSING for name in MEASURES)
        unread = one.judge.count(None) + one.second.count(None)
        rows.append((str(one.step), *cells, str(unread)))
    return TextTable(headings, tuple(rows), text_columns=0, notes=("Means in points (hundredths).",))


def _examples(
    check: Check, prompts: Sequence[str], references: Sequence[str], answers: Sequence[str]
) -> list[str]:
    """Return the answers that please the first judge and not the second, the widest gap first."""
    gaps = [
        (ours - theirs, i)
        for i, (ours, theirs) in enumerate(zip(check.judge, check.second, strict=False))
        if ours is not None and theirs is not None and ours > theirs
    ]
    lines = []
    for gap, i in sorted(gaps, key=lambda one: (-one[0], one[1]))[:EXAMPLES]:
        lines += ["", f"## {100 * gap:.0f} points more by the judge than by the second", ""]
        for name, text in (("prompt", prompts[i]), ("answer", answers[i]), ("reference", references[i])):
            lines += [f"{name}:", "", code_block(text[:LONGEST], "text"), ""]
    return lines


def hacking_curves(checks: Sequence[Check], alarms: Sequence[HackingAlarm]) -> bytes:
    """Draw the means over the steps, with a line at each alarm, and return a PNG.

    Args:
        checks: at least one.
        alarms: those that were raised.
    """
    drawing, [[axes]] = figure(height=4)
    for number, (name, label) in enumerate(MEASURES.items()):
        points = [(one.step, one.means[name]) for one in checks if name in one.means]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o", markersize=3, color=f"C{number}")
    for number, step in enumerate(sorted({alarm.step for alarm in alarms})):
        label = "" if number else "alarm"
        axes.axvline(step, color="#c03030", linestyle="--", linewidth=1, label=label)
    axes.legend(fontsize=7)
    axes.set(xlabel="step", ylabel="mean over the held-out prompts")
    axes.set_title("Held-out checks")
    axes.grid(alpha=0.3)
    return encode_png(drawing, dpi=120)
