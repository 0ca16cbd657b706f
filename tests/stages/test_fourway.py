"""Four-way mode: a list's verdict as results of comparisons, with upstream's credits; and its checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasongenrm.benchmarks.rewardbench2 import RewardBench2
from reasongenrm.config.evaluate import BenchmarkConfig
from reasongenrm.config.loading import load_recipe
from reasongenrm.errors import ConfigError
from reasongenrm.records import ListVerdict, Message, Outcome, Row
from reasongenrm.stages.fourway import check_fourway, list_results

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
TURNS = (Message(role="user", content="q"),)


def verdict(
    winner: int | None,
    outcome: Outcome = "ok",
    probs: tuple[float, ...] | None = None,
    *,
    rescued: bool = False,
) -> ListVerdict:
    return ListVerdict("v", "r", winner, probs, outcome, "", rescued)


# `process_shuffled` of upstream's run_generative_v2.py: 1 for the right letter, 0 for another one, 0.25 for neither.
@pytest.mark.parametrize(
    ("judged", "credit", "outcome"),
    [
        (verdict(0, probs=(0.7, 0.1, 0.1, 0.1)), 1.0, "correct"),
        (verdict(2), 0.0, "wrong"),
        (verdict(None, "unparsed"), 0.25, "unparsed"),
        (verdict(None, "truncated"), 0.25, "truncated"),
        (verdict(None, "error"), 0.25, "error"),
        (verdict(None, "tie", (0.4, 0.4, 0.1, 0.1)), 0.5, "tie"),
        (verdict(None, "tie", (0.1, 0.4, 0.4, 0.1)), 0.0, "tie"),
        (verdict(3, rescued=True), 0.0, "wrong"),
    ],
)
def test_credits_are_upstreams(judged: ListVerdict, credit: float, outcome: str) -> None:
    row = Row.make("Math", TURNS, ["a"], ["b", "c", "d"])
    results = list_results(row, judged)
    assert results.keys() == {pair.id for pair in row.pairs}
    scored = RewardBench2().score([row], results)
    assert scored.score == credit
    assert getattr(scored.counts, outcome) == scored.counts.n == 3
    assert scored.counts.rescued == 3 * judged.rescued and scored.position_bias is None


def test_only_rewardbench_2_has_the_mode() -> None:
    assert BenchmarkConfig(kind="rewardbench2", mode="fourway").mode == "fourway"
    with pytest.raises(ValueError, match="only the kind rewardbench2 has mode: fourway"):
        BenchmarkConfig(kind="rewardbench", mode="fourway")


@pytest.mark.parametrize("key", ["listwise", "rating"])
def test_a_prompt_file_without_the_wording_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.chdir(ROOT)
    text = Path("configs/prompts/judge.yaml").read_text(encoding="utf-8")
    own = tmp_path / "judge.yaml"
    mode = "evaluate.benchmarks={v2: {kind: rewardbench2, mode: fourway}}"
    check_fourway(load_recipe("configs/demo.yaml", [mode, "prompts=configs/prompts/judge.yaml"]))
    lines = text.splitlines(keepends=True)
    start = next(n for n, line in enumerate(lines) if line.startswith(f"{key}: |-"))
    end = next(
        (n for n in range(start + 1, len(lines)) if lines[n].strip() and not lines[n].startswith(" ")),
        len(lines),
    )
    own.write_text("".join(lines[:start] + lines[end:]), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"no key `{key}`") as refused:
        check_fourway(load_recipe("configs/demo.yaml", [mode, f"prompts={own}"]))
    assert refused.value.location == "evaluate.benchmarks.v2.mode"
