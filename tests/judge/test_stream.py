"""A streamed comparison is that of `Judge.compare`: on vLLM in this process, and on a chat server."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.config.rubric import Rubric
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.errors import DataError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.judge.stream import StreamedTexts, stream_comparison
from reasongenrm.records import Comparison
from support.servers import ReceivedRequest, Reply, event_stream, serving

ROW = ("say fan 2 times", "fan fan", "fan")
RUBRIC = Rubric.model_validate({"criteria": [{"name": "correct", "weight": 3}, {"name": "brief"}]})


@pytest.fixture
def judge(
    request: pytest.FixtureRequest,
    engine: VLLMEngine,
    encoders: dict[str, ChatEncoder],
    toy_prompts: PromptFile,
    adapter: Path,
) -> Judge:
    template, options = request.param
    config = JudgingConfig.model_validate({"max_tokens": 24} | options)
    wording = "{% if criteria %}{{ criteria }}\n{% endif %}" + toy_prompts.judge
    prompts = toy_prompts.model_copy(update={"judge": wording})
    return Judge(engine, encoders[template], prompts, config, adapter=adapter)


def states_of(judge: Judge, rubric: Rubric | None = None) -> tuple[list[StreamedTexts], Comparison]:
    """Stream the comparison of ROW; check that all but the last of what comes are texts."""
    judge.engine.reset_prefix_cache()
    *states, comparison = stream_comparison(judge, *ROW, rubric=rubric)
    assert isinstance(comparison, Comparison)
    return [state for state in states if isinstance(state, tuple)], comparison


def compare(judge: Judge, rubric: Rubric | None = None) -> Comparison:
    judge.engine.reset_prefix_cache()
    return judge.compare(*ROW, rubric=rubric)


def check_growth(states: list[StreamedTexts]) -> None:
    """Check that every text begins with the one before, and that every request ends with its verdict."""
    assert not any(text.text or text.verdict for text in states[0])
    for before, after in pairwise(states):
        assert [(t.order, t.vote, t.criterion) for t in before] == [
            (t.order, t.vote, t.criterion) for t in after
        ]
        assert all(new.text.startswith(old.text) for old, new in zip(before, after, strict=True))
        assert before != after
    for text in states[-1]:
        assert text.verdict and text.verdict.order == text.order and text.verdict.reason == text.text


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("reason", {}),
    ("reason", {"votes": 3, "temperature": 0.8}),
    ("reason", {"both_orders": False}),
    ("reason", {"max_tokens": 4}),
    ("direct", {}),
]


@pytest.mark.engine
@pytest.mark.parametrize("judge", SETTINGS, indirect=True, ids=lambda setting: f"{setting}")
def test_the_stream_ends_with_the_comparison_of_the_judge(judge: Judge) -> None:
    states, comparison = states_of(judge)
    assert comparison == compare(judge)
    check_growth(states)
    config = judge.config
    orders = ["AB", "BA"] if config.both_orders else [comparison.verdicts[0].order]
    keys = [(order, vote) for order in orders for vote in range(1, config.votes + 1)]
    assert [(text.order, text.vote) for text in states[-1]] == keys
    if judge.encoder and judge.encoder.reasons_first:
        # The requests run side by side: in some state all have text, and none is done.
        assert any(all(text.text and not text.verdict for text in state) for state in states)


@pytest.mark.engine
@pytest.mark.parametrize("judge", [("reason", {"max_tokens": 4})], indirect=True)
def test_a_rescue_changes_the_verdict_of_its_text(judge: Judge) -> None:
    states, comparison = states_of(judge)
    outcomes = [text.verdict.outcome for state in states for text in state if text.verdict]
    assert "truncated" in outcomes and all(text.verdict and text.verdict.rescued for text in states[-1])
    assert all(verdict.rescued for verdict in comparison.verdicts)


@pytest.mark.engine
@pytest.mark.parametrize("judge", [("reason", {})], indirect=True)
def test_each_criterion_of_a_rubric_has_its_texts(judge: Judge) -> None:
    states, comparison = states_of(judge, RUBRIC)
    assert comparison == compare(judge, RUBRIC)
    check_growth(states)
    keys = [(text.criterion, text.order) for text in states[-1]]
    assert keys == [("correct", "AB"), ("correct", "BA"), ("brief", "AB"), ("brief", "BA")]


@pytest.mark.engine
@pytest.mark.parametrize("judge", [("reason", {})], indirect=True)
def test_a_consumer_that_stops_early_ends_the_requests(judge: Judge, engine: VLLMEngine) -> None:
    expected = compare(judge)
    stream = stream_comparison(judge, *ROW)
    while not all(text.text for text in next(stream)):  # type: ignore[union-attr]
        pass
    assert engine._engine.has_unfinished_requests()
    stream.close()
    assert not engine._engine.has_unfinished_requests()
    assert compare(judge) == expected


@pytest.mark.engine
@pytest.mark.parametrize("judge", [("reason", {})], indirect=True)
def test_a_shared_judge_gives_the_comparison_alone(judge: Judge) -> None:
    expected = compare(judge)
    judge.engine.reset_prefix_cache()
    shared = SharedJudge(judge)
    try:
        assert list(stream_comparison(shared, *ROW)) == [expected]
    finally:
        shared.close()


@pytest.mark.unit
def test_a_chat_server_streams_both_orders() -> None:
    answers: dict[bool, str] = {True: "The first is longer. [[A]]", False: "no verdict"}

    def reply(received: ReceivedRequest) -> Reply:
        body = received.body
        rescue = len(body["messages"]) > 2
        text = (
            "[[B]]"
            if rescue
            else answers["fan fan" in body["messages"][-1]["content"].split("[Answer B]")[0]]
        )
        usage = {"prompt_tokens": 7, "completion_tokens": 5}
        if not body.get("stream"):
            return 200, {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}
        words = [{"choices": [{"delta": {"content": word + " "}}]} for word in text.split()]
        end = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}
        return event_stream([*words, end])

    with serving(reply) as server:
        options = {
            "kind": "openai",
            "urls": [f"{server.url}/v1"],
            "model": "m",
            "api": "chat",
            "max_retries": 0,
        }
        judge = Judge.from_server(options)
        *states, comparison = stream_comparison(judge, *ROW)
        assert comparison == judge.compare(*ROW)
        streamed = [bool(received.body.get("stream")) for received in server.received]
    assert streamed.count(True) == 2, "both orders, and no rescue, are streamed"
    texts: list[list[str]] = [[], []]
    for state in states:
        assert isinstance(state, tuple)
        for seen, text in zip(texts, state, strict=True):
            seen.append(text.text)
    assert list(dict.fromkeys(texts[0]))[:5] == [
        "",
        "The",
        "The first",
        "The first is",
        "The first is longer.",
    ]
    assert list(dict.fromkeys(texts[1])) == ["", "no", "no verdict"]
    assert isinstance(comparison, Comparison) and comparison.reasons == {
        "AB": texts[0][-1],
        "BA": "no verdict",
    }


@pytest.mark.unit
def test_bad_input_is_refused_before_anything_is_sent() -> None:
    with serving(lambda received: None) as server:
        judge = Judge.from_server({"kind": "openai", "urls": [server.url], "model": "m", "api": "chat"})
        with pytest.raises(DataError):
            next(stream_comparison(judge, [], "a", "b"))
        assert not server.received
