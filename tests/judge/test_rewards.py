"""Rewards from pairwise comparisons: who is compared with whom, and what it comes to, in each trainer's convention."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.errors import ConfigError, DataError, EngineError, ReasonGenRMError
from reasongenrm.judge.api import ComparisonInput, Judge
from reasongenrm.judge.rewards import GroupReward, Schedule, openrlhf_responses, verl_score
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.records import Comparison

pytestmark = pytest.mark.unit


def longer(row: ComparisonInput) -> Comparison:
    """A comparison by length: the more characters, the better; a text with a question mark cannot be read."""
    _, a, b = row
    if "?" in a + b:
        return Comparison("c", None, None, "", "unparsed", (), 1, 1)
    chance = 1 / (1 + math.exp(len(b) - len(a)))
    return Comparison("c", "A" if chance > 0.5 else "B" if chance < 0.5 else "tie", chance, "", "ok", (), 1, 1)  # fmt: skip


class Scripted(Judge):
    """A judge whose comparisons come from a function; records its batches."""

    def __init__(self, opinion: Callable[[ComparisonInput], Comparison] = longer) -> None:
        engine: Any = SimpleNamespace(max_model_len=512)
        super().__init__(engine, None, PromptFile.load("configs/prompts/toy.yaml"), JudgingConfig())
        self.opinion, self.calls = opinion, list[list[ComparisonInput]]()
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def compare_many(self, rows: Iterable[ComparisonInput]) -> Iterator[Comparison]:
        batch = list(rows)
        self.calls.append(batch)
        self.inside.set()
        assert self.go_on.wait(30)
        for number, (prompt, a, b) in enumerate(batch):
            if a == "bad":
                raise DataError("bad type", location=f"row {number}")
            if a == "dead":
                raise RuntimeError("the engine died")
            yield self.opinion((prompt, a, b))


def beats(a: str, b: str) -> float:
    return 1 / (1 + math.exp(len(b) - len(a)))


def test_a_sample_is_rewarded_by_how_often_it_beats_the_others_of_its_prompt() -> None:
    judge = Scripted()
    prompts = ["p", "q", "p", "q", "p"]
    answers = ["1", "22", "333", "4444", "55555"]
    rewards = GroupReward(judge, against="group")(prompts, answers)
    assert rewards == pytest.approx(
        [
            (beats("1", "333") + beats("1", "55555")) / 2,
            beats("22", "4444"),
            (beats("333", "1") + beats("333", "55555")) / 2,
            beats("4444", "22"),
            (beats("55555", "1") + beats("55555", "333")) / 2,
        ]
    )
    [batch] = judge.calls
    assert len(batch) == 4 and {row[0] for row in batch} == {"p", "q"}, "all at once, each pair once"


def test_equal_texts_are_a_tie_without_a_comparison_and_a_single_sample_gets_a_half() -> None:
    judge = Scripted()
    assert GroupReward(judge, against="group")(["p", "p", "q"], ["x", "x", "alone"]) == [0.5, 0.5, 0.5]
    assert judge.calls == [[]]
    rewards = GroupReward(judge, against="group")(["p"] * 3, ["x", "x", "long"])
    assert rewards == pytest.approx([(0.5 + beats("x", "long")) / 2] * 2 + [beats("long", "x")])
    assert judge.calls[1] == [("p", "x", "long")]


def test_each_sample_is_compared_with_its_reference() -> None:
    judge = Scripted()
    reward = GroupReward(judge, against="reference", reference="gold")
    rewards = reward(
        ["p", "p", "q"], ["1", "22", "same"], gold=["333", "333", "same"], completion_ids=[[1]] * 3
    )
    assert rewards == pytest.approx([beats("1", "333"), beats("22", "333"), 0.5])
    assert judge.calls == [[("p", "1", "333"), ("p", "22", "333")]]


def test_unread_comparisons_give_half_a_point_to_both_answers() -> None:
    reward = GroupReward(Scripted(), against="group")
    assert reward(["p", "p"], ["what?", "that"]) == [0.5, 0.5]
    mixed = reward(["p"] * 3, ["what?", "1", "22"])
    assert mixed == pytest.approx([0.5, (0.5 + beats("1", "22")) / 2, (0.5 + beats("22", "1")) / 2])


TEXTS = st.text("ab?", max_size=4)


@given(st.lists(st.tuples(st.sampled_from("pqr"), TEXTS), max_size=12), st.randoms())
def test_the_mean_reward_of_a_group_is_a_half_in_any_order(samples: list[tuple[str, str]], draw: Any) -> None:
    reward = GroupReward(Scripted(), against="group")

    def rewarded(group: list[tuple[str, str]]) -> list[float]:
        return reward([prompt for prompt, _ in group], [answer for _, answer in group])

    values = rewarded(samples)
    for prompt in "pqr":
        group = [value for (of, _), value in zip(samples, values, strict=True) if of == prompt]
        assert not group or math.fsum(group) / len(group) == pytest.approx(0.5)
        assert all(0 <= value <= 1 for value in group)
    order = list(range(len(samples)))
    draw.shuffle(order)
    assert rewarded([samples[i] for i in order]) == pytest.approx([values[i] for i in order])


@given(st.lists(st.tuples(st.sampled_from("pq"), TEXTS), max_size=10))
def test_no_pair_is_compared_twice(samples: list[tuple[str, str]]) -> None:
    schedule = Schedule.from_samples([p for p, _ in samples], [a for _, a in samples], [None] * len(samples))
    pairs = [(prompt, frozenset((a, b))) for prompt, a, b in schedule.rows]
    assert len(pairs) == len(set(pairs)) and all(len(texts) == 2 for _, texts in pairs)
    of = {p: {a for q, a in samples if q == p} for p, _ in samples}
    assert len(pairs) == sum(len(texts) * (len(texts) - 1) // 2 for texts in of.values())


def test_messages_are_read_in_the_form_of_trl() -> None:
    judge = Scripted()
    prompt = [{"role": "user", "content": "what"}]
    multimodal = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what"}]}]
    answer = [{"role": "assistant", "content": "one"}]
    tools = [
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "7", "name": "t"},
        {"role": "assistant", "content": [{"type": "text", "text": "seven"}]},
        {"role": "tool", "content": "8", "name": "t"},
    ]
    rewards = GroupReward(judge, against="group")(
        prompts=[prompt, multimodal],
        completions=[answer, tools],
        completion_ids=[[1], [2]],
        trainer_state=object(),
    )
    assert rewards == pytest.approx([beats("one", "seven"), beats("seven", "one")])
    assert judge.calls == [[(prompt, "one", "seven")]]
    silent = [{"role": "assistant", "content": None, "tool_calls": []}]
    assert GroupReward(judge, against="reference", reference="gold")(
        [prompt], [silent], gold=[answer]
    ) == pytest.approx([beats("", "one")])


def test_the_name_of_a_reward_is_the_one_that_trl_logs() -> None:
    assert GroupReward(Scripted(), against="group").__name__ == "judge_group"
    assert GroupReward(Scripted(), against="reference", reference="g").__name__ == "judge_reference"


@pytest.mark.parametrize(
    "options", [{"against": "reference"}, {"against": "group", "reference": "gold"}, {"against": "mean"}]
)
def test_contradicting_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        GroupReward(Scripted(), **options)
    assert caught.value.location == "against" and caught.value.hint


@pytest.mark.parametrize(
    ("columns", "location"),
    [({"silver": ["x"]}, "gold"), ({"gold": [None]}, "gold[0]"), ({"gold": [[]]}, "gold[0]")],
)
def test_a_missing_reference_is_named_in_the_error(columns: dict[str, Any], location: str) -> None:
    with pytest.raises(DataError) as caught:
        GroupReward(Scripted(), against="reference", reference="gold")(["p"], ["a"], **columns)
    assert caught.value.location == location


def test_verl_calls_with_one_solution_or_a_batch() -> None:
    judge = Scripted()
    score = verl_score(judge)
    info = {"question": "q", "index": 3}
    one = score(
        data_source="s", solution_str="22", ground_truth="1", extra_info=info, reward_router_address=None
    )
    assert one == pytest.approx(beats("22", "1"))
    turns = np.array([{"role": "user", "content": "p"}], dtype=object)  # as a Parquet file gives a list
    infos = np.array([info, {"prompt": turns}, {"prompt": "r", "question": None}], dtype=object)
    many = score(
        data_sources=np.array(["s"] * 3, dtype=object),
        solution_strs=["22", "1", "what?"],
        ground_truths=["1", "22", "4"],
        extra_infos=infos,
    )
    assert many == pytest.approx([beats("22", "1"), beats("1", "22"), 0.5])
    assert all(type(value) is float for value in [one, *many])
    assert judge.calls[1] == [
        ("q", "22", "1"),
        ([{"role": "user", "content": "p"}], "1", "22"),
        ("r", "what?", "4"),
    ]
    assert verl_score(judge)("s", "what?", "4", info) == 0.5


@pytest.mark.parametrize(
    ("arguments", "location"),
    [
        (("s", "a", "b", None), "extra_info[0]"),
        (("s", "a", "b", {"index": 1}), "extra_info[0]"),
        (("s", "a", None, {"question": "q"}), "ground_truth[0]"),
        (("s", "a", 42, {"question": "q"}), "ground_truth[0]"),
    ],
)
def test_an_incomplete_row_of_verl_is_named_in_the_error(arguments: tuple[Any, ...], location: str) -> None:
    with pytest.raises(DataError) as caught:
        verl_score(Scripted())(*arguments)
    assert caught.value.location == location and caught.value.hint


def test_the_prompt_is_removed_from_the_query_of_openrlhf() -> None:
    assert openrlhf_responses(["pa", "p"], ["p", "p"]) == ["a", ""]
    ends = ("<|im_end|>", "</s>")
    assert openrlhf_responses(["p one<|im_end|>", "p two</s>", "p</s> cut"], ["p"] * 3, ends) == [
        " one",
        " two",
        "</s> cut",
    ]
    with pytest.raises(DataError) as caught:
        openrlhf_responses(["pa", "qa"], ["p", "p"])
    assert caught.value.location == "query[1]" and caught.value.hint


def wait_until(done: Callable[[], bool]) -> None:
    for _ in range(3000):
        if done():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come to be")


def held(
    judge: Scripted, shared: SharedJudge, batches: list[list[ComparisonInput]]
) -> list[Future[list[Comparison]]]:
    """Block the thread in a first batch, submit other batches, and return all futures."""
    judge.go_on.clear()
    judge.inside.clear()
    first = shared.submit([("p", "1", "22")])
    assert judge.inside.wait(30)
    later = [shared.submit(rows) for rows in batches]
    return [first, *later]


def test_waiting_requests_are_judged_together() -> None:
    judge = Scripted()
    with SharedJudge(judge) as shared:
        rows: list[list[ComparisonInput]] = [
            [(f"p{n}", "a" * n, "b"), ("q", "a" * n, "bb")] for n in range(5)
        ]
        futures = held(judge, shared, rows)
        assert shared.waiting == 5
        judge.go_on.set()
        assert [future.result(30) for future in futures[1:]] == [[longer(row) for row in job] for job in rows]
        assert judge.calls == [[("p", "1", "22")], [row for job in rows for row in job]]
        assert shared.counts == {"requests": 6, "comparisons": 11, "batches": 2}


def test_a_bad_row_fails_only_its_own_request() -> None:
    judge = Scripted()
    with SharedJudge(judge) as shared:
        good: list[ComparisonInput] = [("p", "1", "22")]
        futures = held(judge, shared, [good, [("p", "1", "2"), ("p", "bad", "2")], good, []])
        judge.go_on.set()
        assert futures[1].result(30) == futures[3].result(30) == [longer(good[0])]
        assert futures[4].result(30) == []
        with pytest.raises(DataError) as caught:
            futures[2].result(30)
        assert caught.value.location == "row 1", "counted among its own rows"


def test_an_engine_failure_fails_only_the_current_requests() -> None:
    judge = Scripted()
    with SharedJudge(judge) as shared:
        futures = held(judge, shared, [[("p", "1", "2")], [("p", "dead", "2")], [("p", "3", "4")]])
        judge.go_on.set()
        assert futures[1].result(30), "it was answered before"
        for future in futures[2:]:
            with pytest.raises(RuntimeError, match="died"):
                future.result(30)
        assert list(shared.compare_many([("p", "1", "22")])) == [longer(("p", "1", "22"))]


def test_a_cancelled_request_is_not_judged() -> None:
    judge = Scripted()
    with SharedJudge(judge) as shared:
        futures = held(judge, shared, [[("p", "gone", "2")], [("p", "stays", "2")]])
        assert futures[1].cancel()
        judge.go_on.set()
        assert futures[2].result(30)
        assert judge.calls[1] == [("p", "stays", "2")]


def test_closing_stops_the_thread_and_cancels_waiting_requests() -> None:
    judge = Scripted()
    shared = SharedJudge(judge)
    futures = held(judge, shared, [[("p", "1", "2")]])
    closing = threading.Thread(target=shared.close)
    closing.start()
    wait_until(lambda: shared.waiting == 2)
    judge.go_on.set()
    closing.join(30)
    assert not closing.is_alive() and futures[0].result(30)
    with pytest.raises(CancelledError):
        futures[1].result(30)
    with pytest.raises(EngineError):
        shared.submit([])


def test_many_threads_get_their_own_results() -> None:
    judge = Scripted()
    rankings: dict[int, Any] = {}
    with SharedJudge(judge) as shared:

        def rank(number: int) -> None:
            answers = ["x" * (1 + (number * 7 + n * 3) % 11) for n in range(5)]
            rankings[number] = (
                shared.rank(f"p{number}", answers, method="knockout"),
                Scripted().rank(f"p{number}", answers, method="knockout"),
            )

        threads = [threading.Thread(target=rank, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(rankings) == 16
    for shared_ranking, own in rankings.values():
        assert replace(shared_ranking, games=()) == replace(own, games=())


def test_the_reward_file_for_verl_names_a_missing_environment_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from importlib.util import module_from_spec, spec_from_file_location

    for name in ("REASONGENRM_URL", "REASONGENRM_RECIPE", "REASONGENRM_JUDGE"):
        monkeypatch.delenv(name, raising=False)
    spec = spec_from_file_location("custom_module", "src/reasongenrm/judge/verl.py")  # as verl does
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments = dict(data_source="s", solution_str="a", ground_truth="b", extra_info={"question": "q"})
    with pytest.raises(ConfigError) as caught:
        module.compute_score(**arguments)
    assert "REASONGENRM_URL" in caught.value.hint
    monkeypatch.setenv("REASONGENRM_RECIPE", "configs/none.yaml")
    with pytest.raises(
        ReasonGenRMError
    ) as missing:  # a failure is not kept: the next call sees the new environment
        module.compute_score(**arguments)
    assert "none.yaml" in str(missing.value)
