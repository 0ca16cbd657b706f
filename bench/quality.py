"""Time, recall and precision of near-duplicate removal and decontamination.

    python bench/quality.py [--rows 10000 20000 40000 80000] [--seed 17]

Rows are made of words drawn by Zipf's law: prompts of about 60 words, answers of about 220. One in twenty is a near
copy of an earlier one (1 % of its words changed, which leaves a Jaccard similarity of about
0.9; in half of the copies the answers are swapped), and one in a
hundred holds 13 to 40 words of a benchmark's prompt or answer. The benchmark has RewardBench's 2,985 rows. Each
search is timed alone, in one process; the time to make the rows does not count.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from reasongenrm.config.prepare import DecontaminateConfig, NearDuplicateConfig
from reasongenrm.data.clean import NearDuplicates, filter_pairs
from reasongenrm.data.decontaminate import BenchmarkText, Decontaminator
from reasongenrm.records import Drop, Message, PreferencePair

BENCHMARK_ROWS = 2985
VOCABULARY = 50_000
COPIES, CHANGED = 0.05, 0.01
CONTAMINATED = 0.01


class Words:
    """Texts of words w1, w2, … by Zipf's law."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._weights = list(accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
        self._vocabulary = [f"{'bcdfghklmnprst'[i % 14]}{'aeiou'[i % 5]}{i:x}" for i in range(VOCABULARY)]

    def draw(self, mean: int) -> list[str]:
        """Return between half and one and a half times `mean` words."""
        count = self._rng.randint(mean // 2, mean + mean // 2)
        return self._rng.choices(self._vocabulary, cum_weights=self._weights, k=count)

    def changed(self, text: str) -> str:
        """Return the text with CHANGED of its words drawn again."""
        words = text.split()
        for at in range(len(words)):
            if self._rng.random() < CHANGED:
                words[at] = self._rng.choice(self._vocabulary)
        return " ".join(words)


@dataclass(frozen=True)
class Planted:
    """Rows, and the ids of those that were planted."""

    pairs: list[PreferencePair]
    copies: set[str]
    contaminated: set[str]


def make_benchmark(words: Words) -> list[BenchmarkText]:
    return [
        BenchmarkText(
            f"benchmark[{number}]",
            " ".join(words.draw(60)),
            (" ".join(words.draw(220)), " ".join(words.draw(220))),
        )
        for number in range(BENCHMARK_ROWS)
    ]


def make_pairs(count: int, words: Words, benchmark: list[BenchmarkText], rng: random.Random) -> Planted:
    pairs: list[PreferencePair] = []
    fresh: list[PreferencePair] = []
    copies: set[str] = set()
    contaminated: set[str] = set()
    for _ in range(count):
        fate = rng.random()
        if fresh and fate < COPIES:
            model = rng.choice(fresh)
            chosen, rejected = words.changed(model.chosen), words.changed(model.rejected)
            if rng.random() < 0.5:
                chosen, rejected = rejected, chosen
            pair = make_pair(words.changed(model.history[-1]["content"]), chosen, rejected)
            copies.add(pair.id)
        else:
            texts = [words.draw(60), words.draw(220), words.draw(220)]
            holds = fate > 1 - CONTAMINATED
            if holds:
                part = rng.randrange(3)
                row = rng.choice(benchmark)
                source = (row.prompt, *row.answers)[part].split()
                length = min(len(source), rng.randint(13, 40))
                start = rng.randint(0, len(source) - length)
                at = rng.randint(0, len(texts[part]))
                texts[part][at:at] = source[start : start + length]
            pair = make_pair(*map(" ".join, texts))
            if holds:
                contaminated.add(pair.id)
            else:
                fresh.append(pair)
        pairs.append(pair)
    return Planted(pairs, copies, contaminated)


def make_pair(prompt: str, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair.make([Message(role="user", content=prompt)], chosen, rejected, "made")


def timed(search: Callable[[], Iterator[PreferencePair]]) -> float:
    """Run a search to its end and return the seconds it took."""
    begin = time.perf_counter()
    for _ in search():
        pass
    return time.perf_counter() - begin


def line(name: str, rows: int, seconds: float, dropped_ids: set[str], planted: set[str]) -> str:
    recall = len(dropped_ids & planted) / max(1, len(planted))
    precision = len(dropped_ids & planted) / max(1, len(dropped_ids))
    per = seconds / rows * 10_000
    return (
        f"{name:<16} {rows:>7,} rows {seconds:>8.1f} s {per:>7.2f} s per 10,000 rows"
        f"   recall {recall:.4f}   precision {precision:.4f}"
    )


def machine() -> str:
    cpu = next(
        (
            text.partition(":")[2].strip()
            for text in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if text.startswith("model name")
        ),
        platform.processor(),
    )
    return f"{os.cpu_count()} × {cpu}, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 20_000, 40_000, 80_000])
    parser.add_argument("--seed", type=int, default=17)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    words = Words(rng)
    benchmark = make_benchmark(words)
    print(machine())
    begin = time.perf_counter()
    index = Decontaminator(DecontaminateConfig(), [("made", benchmark)])
    print(f"index of {BENCHMARK_ROWS:,} benchmark rows: {time.perf_counter() - begin:.1f} s")
    warm = make_pairs(100, words, benchmark, rng).pairs  # the first call imports and compiles
    list(NearDuplicates(NearDuplicateConfig()).problems(warm))
    for rows in arguments.rows:
        planted = make_pairs(rows, words, benchmark, rng)
        drops: list[Drop] = []
        near_duplicates = NearDuplicates(NearDuplicateConfig())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = timed(lambda: filter_pairs(planted.pairs, near_duplicates.problems, drops.append))  # noqa: B023
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        dropped_ids = {drop.location for drop in drops}
        print(
            line("near duplicates", rows, seconds, dropped_ids, planted.copies), f"  +{grown / 1024:.0f} MiB"
        )
        drops = []
        seconds = timed(lambda: filter_pairs(planted.pairs, index.problems, drops.append))  # noqa: B023
        dropped_ids = {drop.location for drop in drops}
        print(line("decontamination", rows, seconds, dropped_ids, planted.contaminated), flush=True)


if __name__ == "__main__":
    main()
