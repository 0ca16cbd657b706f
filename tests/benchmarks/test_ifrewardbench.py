"""IF-RewardBench: graphs of answers, the share of right edges and Kendall's tau-b by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from reasongenrm.benchmarks.base import scalar_result
from reasongenrm.benchmarks.ifrewardbench import IFRewardBench, kendall_tau
from reasongenrm.records import Drop
from support.judged import good, judge_all, lines, score_all

pytestmark = pytest.mark.unit
BENCH = IFRewardBench()


def row(kind: str, edges: list[tuple[int, int]], answers: int = 3, **columns: Any) -> dict[str, Any]:
    graph = [{"chosen": {"response_id": a}, "rejected": {"response_id": b}} for a, b in edges]
    responses = [{"response": f"answer {n}", "judgements": [1, 0]} for n in range(answers)]
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": f"{kind} {edges}"}]
    made = {
        "id": 1,
        "instruction_type": kind,
        "messages": messages,
        "checklist": ["short"],
        "responses": responses,
    }
    return made | {"preference_graph": graph, **columns}


def test_an_answer_may_be_better_and_worse(tmp_path: Path) -> None:
    [one] = good(
        BENCH.rows(lines(tmp_path / "x.jsonl", [row("Single_Turn", [(0, 1), (1, 2), (0, 2), (0, 1)])]))
    )
    assert [(pair.chosen, pair.rejected) for pair in one.pairs] == [
        ("answer 0", "answer 1"), ("answer 1", "answer 2"), ("answer 0", "answer 2"),
    ]  # fmt: skip
    assert one.subset == "Single_Turn" and len({pair.id for pair in one.pairs}) == 3


def test_edges_by_hand(tmp_path: Path) -> None:
    raw = [
        row("Single_Turn", [(0, 1), (1, 2), (0, 2), (2, 3)], 4),
        row("Single_Turn", [(0, 1)]),
        row("Multi_Turn", [(0, 1)]),
    ]
    rows = good(BENCH.rows(lines(tmp_path / "x.jsonl", raw)))
    kinds = iter(
        [("right", "right"), ("right", "wrong"), ("wrong", "wrong"), ("right", "tie"), ("right", "right"), ("wrong", "wrong")]
    )  # fmt: skip
    scored = BENCH.score(rows, judge_all(rows, lambda *_: next(kinds)))
    # Right, undecided, wrong, right: 2 of 4 edges; C - D = 1, sqrt((C + D)(C + D + T)) = sqrt(3 * 4).
    assert scored.sections["Single_Turn"] == pytest.approx((0.5 + 1) / 2)
    assert scored.details["tau-b Single_Turn"] == pytest.approx((1 / 12**0.5 + 1) / 2)
    assert scored.sections["Multi_Turn"] == 0 and scored.details["tau-b Multi_Turn"] == -1
    assert scored.score == pytest.approx((0.75 + 0) / 2) and scored.missing == ("System_Prompt",)
    assert scored.details["Kendall tau-b"] == pytest.approx(((1 / 12**0.5 + 1) / 2 - 1) / 2)


def test_scores_of_a_head_decide_edges(tmp_path: Path) -> None:
    rows = good(BENCH.rows(lines(tmp_path / "x.jsonl", [row("System_Prompt", [(0, 1), (1, 2), (0, 2)])])))
    scores = {"answer 0": 3.0, "answer 1": 1.0, "answer 2": 1.0}
    scored = BENCH.score(rows, score_all(rows, lambda r, place: scores[r.answers[place]]))
    assert scored.score == pytest.approx(2 / 3) and scored.details["tau-b System_Prompt"] == pytest.approx(
        2 / 6**0.5
    )


@given(st.lists(st.integers(0, 3), min_size=2, max_size=6))
def test_tau_b_of_a_full_order_is_scipys(scores: list[int]) -> None:
    count = len(scores)
    results = [
        scalar_result(f"{a}-{b}", "s", scores[a], scores[b])
        for a in range(count)
        for b in range(a + 1, count)
    ]
    if len(set(scores)) == 1:
        assert kendall_tau(results) == 0
    else:
        assert kendall_tau(results) == pytest.approx(kendalltau(range(count, 0, -1), scores).statistic)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"preference_graph": []}, "no_edges"),
        ({"preference_graph": [{"chosen": {"response_id": 9}, "rejected": {"response_id": 0}}]}, "bad_edge"),
        ({"preference_graph": [{"chosen": {"response_id": 1}, "rejected": {"response_id": 1}}]}, "bad_edge"),
        ({"responses": "x"}, "bad_type"),
        ({"instruction_type": "Other"}, "bad_instruction_type"),
    ],
)
def test_what_is_no_graph_is_a_drop(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    raw = [row("Single_Turn", [(0, 1)]) | change, row("Single_Turn", [(0, 1)])]
    items = list(BENCH.rows(lines(tmp_path / "x.jsonl", raw)))
    assert [item.reason for item in items if isinstance(item, Drop)] == [reason]
