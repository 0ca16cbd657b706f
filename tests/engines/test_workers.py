"""Workers with real vLLM engines give the completions of one engine, adapters and judges' two turns included."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.engines import EngineConfig, ModelConfig
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.demo.world import toy_pairs
from reasongenrm.engines.base import Request
from reasongenrm.engines.loading import load_engine
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.engines.workers import EngineWorkers, needs_workers, worker_count
from reasongenrm.errors import EngineError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.ask import VerdictTask
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.records import Completion

engine_test = pytest.mark.engine


@pytest.mark.unit
def test_one_worker_needs_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert worker_count(EngineConfig(), 1) == 1 and not needs_workers(EngineConfig(), 1)
    assert needs_workers(EngineConfig(workers=2), 1)
    assert needs_workers(EngineConfig(workers=1, ray="head:6379"), 1), "the work goes to the cluster"
    assert worker_count(EngineConfig(ray="head:6379"), 1) is None, "its GPUs are counted when it is reached"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert needs_workers(EngineConfig(), 1)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("gpus", "split", "count"), [(0, 1, 1), (1, 1, 1), (8, 1, 8), (8, 2, 4), (8, 4, 2), (3, 2, 1)]
)
def test_auto_divides_the_visible_gpus(
    gpus: int, split: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert worker_count(EngineConfig(tensor_parallel=split), split) == count


@pytest.fixture(scope="module")
def workers(
    student: ModelConfig, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineWorkers]:
    config = EngineConfig(max_model_len=512, max_num_seqs=8, cpu_kv_gib=1, enforce_eager=True, workers=2)
    running = load_engine(student, config, seed=0, adapters=[adapter], logs=tmp_path_factory.mktemp("logs"))
    assert isinstance(running, EngineWorkers)
    yield running
    running.close()


@pytest.fixture(scope="module")
def prompt_ids(toy_prompts: PromptFile, encoders: dict[str, ChatEncoder]) -> list[tuple[int, ...]]:
    prompts = [judge_prompt(pair, "AB", toy_prompts) for pair in toy_pairs("test", 12, seed=3)]
    return [tuple(encoders["reason"].encode(prompt.messages, generation=True)) for prompt in prompts]


def texts(completions: Sequence[Completion]) -> dict[str, tuple[int, ...]]:
    return {completion.id: completion.token_ids for completion in completions}


@engine_test
@pytest.mark.slow
def test_two_workers_give_the_completions_of_one_engine(
    workers: EngineWorkers,
    engine: VLLMEngine,
    prompt_ids: list[tuple[int, ...]],
    adapter: Path,
    toy_prompts: PromptFile,
    encoders: dict[str, ChatEncoder],
) -> None:
    requests = [
        Request(f"r{n}", ids, 12, temperature=1.0, seed=n, ignore_eos=True)
        for n, ids in enumerate(prompt_ids)
    ]
    assert workers.block == engine.block and workers.max_model_len == 512
    for chosen in (None, str(adapter)):
        engine.reset_prefix_cache()
        assert texts([*workers.complete(requests, adapter=chosen)]) == texts(
            [*engine.complete(requests, adapter=chosen)]
        )
    blocks = [requests[start : start + 3] for start in range(0, len(requests), 3)]
    by_workers = {done[0].id: done for done in workers.complete_blocks(blocks)}
    by_engine = {done[0].id: done for done in engine.complete_blocks(blocks)}
    assert by_workers.keys() == by_engine.keys() == {block[0].id for block in blocks}
    for block in blocks:
        assert [c.id for c in by_workers[block[0].id]] == [request.id for request in block]
        assert texts(by_workers[block[0].id]) == texts(by_engine[block[0].id])

    task = VerdictTask(JudgingConfig(max_tokens=24), encoders["reason"], 512, toy_prompts.verdict, seed=17)
    prompts = [judge_prompt(pair, "AB", toy_prompts) for pair in toy_pairs("test", 12, seed=3)]
    for judge in (workers, engine):
        wrapped = task.engine(judge)
        assert wrapped.block == engine.block
    ours, theirs = (
        {c.id: c for c in task.engine(judge).complete(task.requests(prompts))} for judge in (workers, engine)
    )
    assert ours.keys() == theirs.keys() and len(ours) == len({prompt.id for prompt in prompts})
    for name, one in ours.items():
        two = theirs[name]
        assert (one.text, one.token_ids) == (two.text, two.token_ids)
        assert one.logprobs.keys() == two.logprobs.keys()
        for place, entry in one.logprobs.items():
            assert entry == pytest.approx(two.logprobs[place], abs=1e-4)
    with pytest.raises(EngineError, match="directory not found: /nowhere/adapter"):
        list(workers.complete(requests[:1], adapter="/nowhere/adapter"))
    assert os.environ.get("RAY_AUTH_MODE") == "token"


@engine_test
@pytest.mark.slow
def test_workers_judge_requests_that_come_one_after_the_other(
    workers: EngineWorkers, engine: VLLMEngine, toy_prompts: PromptFile, encoders: dict[str, ChatEncoder]
) -> None:
    rows = [
        (pair.history[0]["content"], pair.chosen, pair.rejected) for pair in toy_pairs("test", 12, seed=3)
    ]
    config = JudgingConfig(max_tokens=12)
    own = list(Judge(engine, encoders["reason"], toy_prompts, config).compare_many(rows))
    with SharedJudge(Judge(workers, encoders["reason"], toy_prompts, config)) as shared:
        futures = [shared.submit([row]) for row in rows]
        results = [future.result(120)[0] for future in futures]
    for joined, alone in zip(results, own, strict=True):
        assert joined.reasons == alone.reasons and joined.outcome == alone.outcome
        assert joined.prob_a == pytest.approx(alone.prob_a, abs=1e-4)
