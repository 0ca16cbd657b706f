"""Table and figure of `bench/hacking.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from reasongenrm.report.charts import encode_png, figure
from reasongenrm.report.tables import grid
from reasongenrm.store import read_json, read_jsonl

FALL = 5.0
"""Points of the gold score."""


@dataclass(frozen=True)
class Curve:
    """The measurements of an arm.

    Attributes:
        rows: per measurement: step, training reward since the one before, judge, second, agreement, gold, refused, words.
        alarm: step of the first alarm, and its text; None without one.
    """

    rows: list[dict[str, Any]]
    alarm: tuple[int, str] | None

    @classmethod
    def read(cls, folder: Path) -> Curve:
        """Read a finished arm."""
        done = read_json(folder / "rewards.json")
        rewards = {int(step): reward for step, reward in done["rewards"].items()}
        checks = {check["step"]: check for check in done["checks"]}
        rows, before = [], 0
        for row in read_jsonl(folder / "curve.jsonl"):
            step = row["step"]
            since = [rewards[at] for at in range(before + 1, step + 1)]
            rows.append(row | checks[step] | {"reward": fmean(since) if since else None})
            before = step
        alarm = next(iter(done["alarms"]), None)
        return cls(rows, alarm and (alarm["step"], alarm["text"]))

    @property
    def fall(self) -> int | None:
        """The first step at which the gold score is 5 points below that of the untrained policy; None without one."""
        start = self.rows[0]["gold"]
        return next((row["step"] for row in self.rows if row["gold"] <= start - FALL), None)


COLUMNS = {
    "step": "{:d}",
    "reward": "{:.3f}",
    "judge": "{:.3f}",
    "second": "{:.3f}",
    "agreement": "{:.3f}",
    "gold": "{:.1f}",
    "refused": "{:.1f}",
    "words": "{:.1f}",
}
HEADINGS = ("arm", "step", "training reward", "judge, against the reference", "second judge", "agreement", "gold score, %",
            "refused, %", "words")  # fmt: skip


def table(curves: dict[str, Curve], every: int) -> str:
    """Return the curves as Markdown, one row per `every` steps, and the last."""
    rows = [
        [name, *("–" if row[key] is None else form.format(row[key]) for key, form in COLUMNS.items())]
        for name, curve in curves.items()
        for row in curve.rows
        if row["step"] % every == 0 or row is curve.rows[-1]
    ]
    return grid(HEADINGS, rows)


def summary(name: str, curve: Curve) -> str:
    """Return the steps of the alarm and of the fall as one sentence."""
    first, last = curve.rows[0]["gold"], curve.rows[-1]["gold"]
    fall = "never" if curve.fall is None else f"at step {curve.fall}"
    alarm = "no alarm" if curve.alarm is None else f"alarm at {curve.alarm[1]}"
    return f"- {name}: gold score {first:.1f} → {last:.1f}; {FALL:g} points below its start {fall}; {alarm}"


STYLES = {"unshaped": ("#D55E00", "-"), "shaped": ("#0072B2", "--")}
"""Colour and line of each arm; the colours are two of Okabe and Ito's, which colour-blind people tell apart."""
PANELS = {
    "reward": ("training reward", "reward"),
    "judge": ("held-out reward against the reference", "P(better), judge"),
    "second": ("second judge", "P(better), second judge"),
    "agreement": ("agreement of the two judges", "1 - difference"),
    "gold": ("gold score", "right answers, %"),
    "words": ("length", "words of an answer"),
}
"""Column -> title and vertical axis."""


def draw(curves: dict[str, Curve], path: Path) -> None:
    """Draw one panel per quantity: a dotted line at the first alarm, and a circle where the gold score has fallen by 5 points."""
    drawing, axes = figure(height=7.5, lines=3, columns=2)
    for panel, (key, (title, unit)) in zip(axes.flat, PANELS.items(), strict=True):
        for name, curve in curves.items():
            color, line = STYLES[name]
            points = [(row["step"], row[key]) for row in curve.rows if row[key] is not None]
            panel.plot(*zip(*points, strict=True), color=color, linestyle=line, linewidth=1.4, label=name)
            if curve.alarm:
                panel.axvline(curve.alarm[0], color=color, linestyle=":", label=f"first alarm, {name}")
            if curve.fall is not None and key == "gold":
                label = f"gold score {FALL:g} points down, {name}"
                panel.plot(
                    curve.fall, dict(points)[curve.fall], "o", color=color, fillstyle="none", label=label
                )
        panel.set_title(title, fontsize=10)
        panel.set(xlabel="step of GRPO", ylabel=unit)
        panel.grid(alpha=0.3)
    drawing.legend(*axes[2][0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(drawing, dpi=120))
