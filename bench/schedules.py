"""Print what each schedule of rewards costs, and how well its rewards order the samples: Kendall's tau with the truth.

    python bench/schedules.py [--groups 100] [--letters] [--figure docs/images/schedules.png]

No model runs. A judge is simulated: it sees the quality of each answer, scaled, plus noise that is drawn anew for each answer of
each request (Gumbel's, so that its comparisons follow Bradley and Terry's model and its choices from lists Luce's, and its
ratings are as accurate as its comparisons). The scale is such that it names the better of two random answers with the stated
accuracy. It states the probability that follows from what it sees; with `--letters` it states only the winner. A biased judge adds
`BIAS` to the answer that it is shown first.

Two worlds: answers whose qualities are normal, and answers to the toy world's sums, where a rule tells the truth (the nearer to the
sum, the better) and samples repeat each other.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.optimize import brentq
from scipy.stats import bootstrap, kendalltau

from reasongenrm.config.rewards import RewardSettings
from reasongenrm.demo.world import draw_task
from reasongenrm.records import Comparison, ListVerdict, Rating
from reasongenrm.rewards.schedule import Group, judge_groups

SIZES = (4, 8, 16, 32, 64)
SCHEDULES: dict[str, dict[str, Any]] = {
    "pointwise": {"schedule": "pointwise"},
    "listwise": {"schedule": "listwise"},
    "reference": {"schedule": "reference"},
    "circular": {"schedule": "circular"},
    "pivot": {"schedule": "pivot"},
    "regular, degree 4": {"schedule": "regular", "degree": 4},
    "regular, degree 8": {"schedule": "regular", "degree": 8},
    "all pairs": {"schedule": "all_pairs"},
}
ACCURACIES = (0.60, 0.75, 0.95)
BIAS = 1.0
"""Nats that a biased judge adds to the first answer: of two equal answers it prefers the first in 73 % of the cases."""

Orders = Literal["random", "alternating", "both"]


@dataclass(frozen=True)
class Sample:
    """A group's texts and their true qualities; the last one is the reference answer."""

    texts: tuple[str, ...]
    qualities: tuple[float, ...]


class SimulatedJudge:
    """A judge of texts whose qualities it knows, with noise.

    Args:
        quality: of each text.
        scale: nats per unit of quality.
        bias: nats for the answer shown first.
        orders: `random`: one order, drawn; `alternating`: that of the row; `both`: the mean of both, two requests.
        letters: it states only the winner.
        seed: of the noise.
    """

    def __init__(
        self,
        quality: dict[str, float],
        scale: float,
        *,
        bias: float,
        orders: Orders,
        letters: bool,
        seed: int,
    ) -> None:
        self.quality, self.scale, self.bias, self.orders, self.letters = quality, scale, bias, orders, letters
        self.draw = np.random.default_rng(seed)
        self.requests = 0

    def _seen(self, texts: Sequence[str]) -> np.ndarray:
        self.requests += 1
        return np.array([self.scale * self.quality[text] for text in texts]) + self.draw.gumbel(
            size=len(texts)
        )

    def _first_wins(self, first: str, second: str) -> float:
        """Return P(the answer shown first is better), or 1 or 0."""
        one, other = self._seen((first, second))
        odds = one + self.bias - other
        return float(odds > 0) if self.letters else (1 + math.tanh(odds / 2)) / 2

    def compare_many(self, rows: Iterable[Any]) -> Iterator[Comparison]:
        """Compare pairs."""
        for _, a, b in rows:
            orders = {"alternating": (True,), "both": (True, False), "random": (self.draw.random() < 0.5,)}
            shares = [
                self._first_wins(a, b) if given else 1 - self._first_wins(b, a)
                for given in orders[self.orders]
            ]
            chance = sum(shares) / len(shares)
            yield Comparison("", "A" if chance > 0.5 else "B" if chance < 0.5 else "tie", chance, "", "ok", (), 0, 0)  # fmt: skip

    def rate_many(self, rows: Iterable[Any]) -> Iterator[Rating]:
        """Rate answers in whole numbers from 1 to 10, two per standard deviation of what it sees."""
        width = math.hypot(self.scale, math.pi / math.sqrt(6))
        for _, answer in rows:
            [seen] = self._seen((answer,))
            yield Rating("", float(min(10, max(1, round(5.5 + 2 * (seen - 0.5772) / width)))), "ok", "")

    def choose_many(self, rows: Iterable[Any]) -> Iterator[ListVerdict]:
        """Choose the best of lists, in a random order."""
        for _, answers in rows:
            seen = self._seen(answers)
            seen[self.draw.integers(len(answers))] += self.bias
            odds = np.exp(seen - seen.max())
            shares = None if self.letters else tuple(odds / odds.sum())
            yield ListVerdict("", "", int(seen.argmax()), shares, "ok", "")


def scale_of(accuracy: float, differences: np.ndarray) -> float:
    """Return the scale with which a judge names the better of two answers with this accuracy."""
    gaps = np.abs(differences[differences != 0])
    return float(brentq(lambda scale: np.mean(1 / (1 + np.exp(-scale * gaps))) - accuracy, 1e-6, 1e3))


def normal_group(n: int, draw: random.Random) -> Sample:
    """Return answers with normal qualities, and a reference of median quality."""
    qualities = [draw.gauss(0, 1) for _ in range(n)] + [0.0]
    return Sample(tuple(f"{i} {quality}" for i, quality in enumerate(qualities)), tuple(qualities))


def toy_group(n: int, draw: random.Random) -> Sample:
    """Return answers to a sum of the toy world, of which a third is right, and the right answer as reference."""
    good = int(draw_task(draw, "train", "toy-reasoning").good)
    errors = [
        0 if draw.random() < 1 / 3 else draw.choice((-1, 1)) * int(1 + draw.expovariate(0.1))
        for _ in range(n)
    ]
    errors.append(0)
    return Sample(
        tuple(str(good + error) for error in errors), tuple(-math.log1p(abs(error)) for error in errors)
    )


@dataclass(frozen=True)
class Setting:
    """A column of the table: a world and a judge."""

    name: str
    world: Callable[[int, random.Random], Sample]
    accuracy: float
    bias: float = 0.0
    orders: Orders = "alternating"


@dataclass(frozen=True)
class Cell:
    """Mean tau with its 95 % interval, and requests per group."""

    tau: float
    low: float
    high: float
    requests: float


def measure(setting: Setting, schedule: str, n: int, *, groups: int, letters: bool) -> Cell:
    """Judge groups of n samples by a schedule."""
    draw = random.Random(f"{setting.name} {n}")
    samples = [setting.world(n, draw) for _ in range(groups)]
    pairs = [draw.sample(setting.world(64, draw).qualities[:-1], 2) for _ in range(2000)]
    scale = scale_of(setting.accuracy, np.array([one - other for one, other in pairs]))
    # The prompt is a part of each text, so that one judge may judge all groups.
    quality = {
        f"{g}:{t}": q for g, s in enumerate(samples) for t, q in zip(s.texts, s.qualities, strict=True)
    }
    judge = SimulatedJudge(quality, scale, bias=setting.bias, orders=setting.orders, letters=letters, seed=n)
    asked = [
        Group(str(g), [f"{g}:{text}" for text in s.texts[:-1]], [f"{g}:{s.texts[-1]}"] * n)
        for g, s in enumerate(samples)
    ]
    results = judge_groups(judge, asked, RewardSettings(**SCHEDULES[schedule]))
    taus = [
        kendalltau(result.rewards, sample.qualities[:-1]).statistic
        for result, sample in zip(results, samples, strict=True)
        if len(set(sample.qualities[:-1])) > 1
    ]
    taus = [0.0 if math.isnan(tau) else tau for tau in taus]  # all rewards are equal: no order
    interval = bootstrap((taus,), np.mean, method="percentile", n_resamples=999, rng=17).confidence_interval
    return Cell(float(np.mean(taus)), interval.low, interval.high, judge.requests / groups)


SETTINGS = (
    *(Setting(f"{accuracy:.0%}", normal_group, accuracy) for accuracy in ACCURACIES),
    Setting("75%, biased", normal_group, 0.75, BIAS),
    Setting("toy, 75%", toy_group, 0.75),
)

Results = dict[tuple[str, int, str], Cell]


def table(results: Results) -> str:
    """Return all cells as Markdown: tau ± half of its interval."""
    names = [setting.name for setting in SETTINGS]
    lines = [
        f"| n | schedule | requests | {' | '.join(names)} | requests, toy |",
        "| ---: | --- | ---: |" + " ---: |" * (len(names) + 1),
    ]
    for n in SIZES:
        for schedule in SCHEDULES:
            cells = [results[name, n, schedule] for name in names]
            taus = " | ".join(f"{cell.tau:.2f} ± {(cell.high - cell.low) / 2:.2f}" for cell in cells)
            lines.append(
                f"| {n} | {schedule} | {cells[0].requests:.0f} | {taus} | {cells[-1].requests:.1f} |"
            )
    return "\n".join(lines)


def orders_table(groups: int, letters: bool, n: int = 16) -> str:
    """Return what the orders of a biased judge cost and give, as Markdown."""
    orders: tuple[Orders, ...] = ("random", "alternating", "both")
    lines = ["| n = 16, 75%, biased | requests | tau |", "| --- | ---: | ---: |"]
    for schedule in ("circular", "regular, degree 4", "all pairs"):
        for order in orders:
            setting = Setting("orders", normal_group, 0.75, BIAS, order)
            cell = measure(setting, schedule, n, groups=groups, letters=letters)
            half = (cell.high - cell.low) / 2
            lines.append(f"| {schedule}, {order} | {cell.requests:.0f} | {cell.tau:.2f} ± {half:.2f} |")
    return "\n".join(lines)


def draw(results: Results, path: Path) -> None:
    """Draw tau against the requests per sample, a panel per accuracy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(ACCURACIES), figsize=(11, 3.8), sharey=True, layout="constrained")
    colours = dict(zip(SCHEDULES, pyplot.get_cmap("tab10").colors, strict=False))  # type: ignore[attr-defined]
    for panel, setting in zip(panels, SETTINGS, strict=False):
        for schedule in SCHEDULES:
            for n, marker, size in ((8, "o", 30), (32, "s", 30)):
                cell = results[setting.name, n, schedule]
                x = cell.requests / n
                panel.errorbar(x, cell.tau, [[cell.tau - cell.low], [cell.high - cell.tau]], color=colours[schedule], lw=1)  # fmt: skip
                label = schedule if n == 8 else None
                panel.scatter(x, cell.tau, size, color=[colours[schedule]], marker=marker, label=label)
        panel.set(xscale="log", title=f"a judge of {setting.name}", xlabel="requests per sample")
        panel.set_xticks([0.125, 0.25, 0.5, 1, 2, 4, 8, 16], ["⅛", "¼", "½", "1", "2", "4", "8", "16"])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("Kendall's tau with the truth")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle("● 8 samples of a prompt   ■ 32 samples", fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--groups", type=int, default=200, help="groups of up to 8 samples; fewer of larger ones"
    )
    parser.add_argument("--letters", action="store_true", help="the judge states no probabilities")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    results: Results = {}
    for n in SIZES:
        groups = max(10, min(options.groups, 8 * options.groups // n))
        for setting in SETTINGS:
            for schedule in SCHEDULES:
                results[setting.name, n, schedule] = measure(
                    setting, schedule, n, groups=groups, letters=options.letters
                )
    print(table(results), orders_table(options.groups, options.letters), sep="\n\n")
    if options.figure:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
