"""Four-way mode: a list's verdict as results of comparisons, with upstream's credits; and its checks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from reasongenrm.benchmarks.rewardbench2 import RewardBench2
from reasongenrm.config.evaluate import BenchmarkConfig
from reasongenrm.config.loading import load_recipe
from reasongenrm.config.models import models_recipe
from reasongenrm.errors import ConfigError
from reasongenrm.metrics.scores import OUTCOMES
from reasongenrm.records import ListVerdict, Message, Outcome, Row
from reasongenrm.stages.fourway import check_fourway, list_results
from reasongenrm.stages.models import evaluate_models
from support.judged import lines
from support.servers import ReceivedRequest, Reply, serving

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


def longest(received: ReceivedRequest) -> Reply:
    """A judge that names the longest answer, and rates an answer by its length."""
    text = received.body["messages"][0]["content"]
    answers = re.split(r"\n?\[Answer ([A-H])\]\n", text.rpartition("\n[End]")[0])[1:]
    if answers:
        verdict = max(zip(answers[::2], answers[1::2], strict=True), key=lambda answer: len(answer[1]))[0]
    else:
        verdict = str(min(10, 1 + len(text) // 300))
    message = {"role": "assistant", "content": f"Another one is shorter.\n\n[[{verdict}]]"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 90, "completion_tokens": 12, "total_tokens": 102}
    return 200, {"id": "c", "object": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def test_stage_3_asks_once_per_row_in_a_seeded_order_and_rates_ties(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "id": str(n),
            "prompt": f"q{n}",
            "chosen": ["x" * n],
            "rejected": ["b", "cc", "ddd"],
            "subset": "Math",
        }
        for n in range(1, 9)
    ]
    for kind, right in (("ref", ["y" * 900]), ("tied", ["z" * 900, "w" * 901])):
        rows.append(
            {"id": f"{kind}:1", "prompt": "name one", "chosen": right, "rejected": ["no"], "subset": "Ties"}
        )
    file = lines(tmp_path / "four.jsonl", rows)
    with serving(longest) as server:
        recipe = models_recipe(
            model="org/judge", adapter=None, server=f"{server.url}/v1", api_key_env=None, scalar=None,
            benchmarks=f"rewardbench2:{file}",
            overrides=["name=four", "evaluate.benchmarks.rewardbench2.mode=fourway"],
        )  # fmt: skip
        evaluate_models(recipe)
        texts = [one.body["messages"][0]["content"] for one in server.received]
        evaluate_models(recipe)
        # Two models, with reasons and without; of Ties, the answer that both rows have is rated once.
        assert len(server.received) == len(texts) == 2 * (8 + 4), "nothing is asked twice"
    folder = tmp_path / "runs" / "four"
    found = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["benchmarks"]["rewardbench2"]
    model = found["models"]["judge"]
    score, matrix = model["score"], model["protocols"]
    # Right where the right answer is the longest: n of 4 to 8; of 3, the first of the longest two in the seeded order.
    assert score["subsets"]["Math"]["accuracy"] in (5 / 8, 6 / 8)
    assert score["details"]["Ties tied accuracy"] == score["details"]["Ties ref accuracy"] == 1
    assert score["counts"]["n"] == 8 * 3 + 1 + 2 == sum(score["counts"][outcome] for outcome in OUTCOMES)
    assert matrix["official"]["score"] == score["score"] and matrix["single order"] is None
    assert model["cost"]["requests"] == 12 and found["mode"] == "fourway"
    judged = folder / "evaluate" / "rewardbench2" / "judge"
    verdicts = [json.loads(line) for line in (judged / "list_verdicts.jsonl").read_text().splitlines()]
    assert [one["winner"] for one in verdicts[3:]] == [0] * 5 and {one["outcome"] for one in verdicts} == {
        "ok"
    }
    places = {re.search(r"\[Answer (.)\]\nx+\n", text)[1] for text in texts if "x" * 4 in text}  # type: ignore[index]
    assert len(places) > 1, "the right answer has no fixed place"
    assert len((judged / "ties" / "ratings.jsonl").read_text().splitlines()) == 5
    assert list(judged.glob("leaderboard/eval-set/**/*.json")), "the leaderboard's files are written"
    assert "RewardBench 2, four-way" in (folder / "report.md").read_text(encoding="utf-8")
