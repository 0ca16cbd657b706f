"""A shared judge on a real engine: requests that join it one after the other get the verdicts of one batch."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.judge.api import Judge
from reasongenrm.judge.inputs import ComparisonInput
from reasongenrm.judge.sharing import SharedJudge
from support.app import wait_until

pytestmark = pytest.mark.engine

ROWS: list[ComparisonInput] = [(f"count to {n}", "1 2 3 " * n, "no " * (13 - n)) for n in range(1, 13)]
CLOSE = 1e-3
"""What the composition of a batch does to a probability of the tiny model, and more."""


@pytest.fixture(scope="module", params=["reason", "direct"])
def judge(
    request: pytest.FixtureRequest,
    engine: VLLMEngine,
    encoders: dict[str, ChatEncoder],
    toy_prompts: PromptFile,
    adapter: Path,
) -> Judge:
    config = JudgingConfig(max_tokens=12, votes=2, temperature=0.8)
    return Judge(engine, encoders[request.param], toy_prompts, config, adapter=adapter)


def test_requests_that_join_get_the_verdicts_of_one_batch(judge: Judge) -> None:
    own = list(judge.compare_many(ROWS))
    choices = list(judge.choose_many([("p", ["a", "b", "c"])]))
    with SharedJudge(judge) as shared:
        futures = []
        chosen = shared.submit_choices([("p", ["a", "b", "c"])])
        for row in ROWS:
            futures.append(shared.submit([row]))
            threading.Event().wait(0.02)
        results = [future.result(120)[0] for future in futures]
        assert chosen.result(120)[0].reason == choices[0].reason
    for joined, alone in zip(results, own, strict=True):
        assert joined.prob_a == pytest.approx(alone.prob_a, abs=CLOSE)
        assert [v.reason for v in joined.verdicts] == [v.reason for v in alone.verdicts]
        assert joined.tokens == alone.tokens and joined.prompt_tokens == alone.prompt_tokens


def test_cancelled_requests_leave_the_engine(judge: Judge, engine: VLLMEngine) -> None:
    with SharedJudge(judge) as shared:
        running = shared.submit(ROWS)
        wait_until(lambda: shared.running == 1)
        assert running.cancel()
        assert shared.submit(ROWS[:1]).result(120)
        wait_until(lambda: shared.running == 0)
    assert not engine._engine.has_unfinished_requests()
