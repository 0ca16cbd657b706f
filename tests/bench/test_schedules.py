"""`bench/schedules.py`: the simulated judges are as accurate and as biased as they say, and every cell is measured."""

from __future__ import annotations

import random
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def bench() -> Any:
    path = Path(__file__).resolve().parents[2] / "bench" / "schedules.py"
    spec = spec_from_file_location("bench_schedules", path)
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("accuracy", [0.6, 0.95])
def test_a_simulated_judge_has_the_stated_accuracy(bench: Any, accuracy: float) -> None:
    draw = random.Random(1)
    quality = {f"{n}": draw.gauss(0, 1) for n in range(2000)}
    pairs = [(f"{n}", f"{n + 1}") for n in range(0, 2000, 2)] * 4
    scale = bench.scale_of(accuracy, np.array([quality[a] - quality[b] for a, b in pairs]))
    judge = bench.SimulatedJudge(quality, scale, bias=0.0, orders="random", letters=True, seed=1)
    rows = [("p", a, b) for a, b in pairs]
    right = [
        (one.winner == "A") == (quality[a] > quality[b])
        for one, (_, a, b) in zip(judge.compare_many(rows), rows, strict=True)
    ]
    assert np.mean(right) == pytest.approx(accuracy, abs=0.03)


def test_a_biased_judge_prefers_the_first_of_equal_answers(bench: Any) -> None:
    rows = [("p", "a", "b")] * 4000
    first: dict[str, float] = {}
    for orders in ("alternating", "random", "both"):
        judge = bench.SimulatedJudge({"a": 0.0, "b": 0.0}, 1.0, bias=bench.BIAS, orders=orders, letters=True, seed=1)  # fmt: skip
        first[orders] = float(np.mean([one.prob_a for one in judge.compare_many(rows)]))
        assert judge.requests == 4000 * (2 if orders == "both" else 1)
    assert first == {
        "alternating": pytest.approx(0.73, abs=0.03),
        "random": pytest.approx(0.5, abs=0.03),
        "both": pytest.approx(0.5, abs=0.03),
    }


def test_every_schedule_is_measured(bench: Any) -> None:
    perfect = bench.Setting("perfect", bench.normal_group, 0.999)
    cells = {name: bench.measure(perfect, name, 8, groups=10, letters=False) for name in bench.SCHEDULES}
    assert {name: cell.requests for name, cell in cells.items()} == {
        "pointwise": 8, "listwise": 1, "reference": 8, "circular": 8, "pivot": 13,
        "regular, degree 4": 16, "regular, degree 8": 28, "all pairs": 28,
    }  # fmt: skip
    assert all(cell.low <= cell.tau <= cell.high for cell in cells.values())
    assert cells["all pairs"].tau > 0.97 > cells["circular"].tau > 0.5
    toy = bench.measure(bench.Setting("toy", bench.toy_group, 0.75), "all pairs", 8, groups=10, letters=True)
    assert toy.requests < 28, "equal answers are judged once"
