"""Sampling and judging by vLLM, killed and resumed: the same bytes; and the counts of an untrained judge add up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from reasongenrm.benchmarks.base import judge_result
from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.chat.verdict import VerdictTokens
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.config.prepare import TeacherConfig
from reasongenrm.demo.world import toy_pairs
from reasongenrm.engines.base import Request, complete_missing
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.judge.ask import RESCUE, VerdictTask
from reasongenrm.metrics.scores import Counts
from reasongenrm.reasons.sample import sample_reasons
from reasongenrm.records import Completion, JudgePrompt, PreferencePair, Verdict
from reasongenrm.store import PartStore, completion_from_json, read_jsonl
from support.asked import judge
from support.dying import IMMORTAL, DyingEngine, Killed, tear

pytestmark = pytest.mark.engine


def kill_and_resume(
    work: Callable[[DyingEngine, PartStore], object], engine: VLLMEngine, final: Path, deaths: Sequence[int]
) -> DyingEngine:
    """Run the work once for every number of lives, each time from what the last run left; then to the end."""
    rng = random.Random(3)
    for lives in deaths:
        with pytest.raises(Killed):
            work(DyingEngine(engine, lives), PartStore(final))
        assert not final.exists()
        tear(PartStore(final).part, rng)
    last = DyingEngine(engine, IMMORTAL)
    work(last, PartStore(final))
    assert not PartStore(final).part.exists()
    return last


@pytest.fixture(scope="module")
def work(toy_prompts: PromptFile) -> list[tuple[PreferencePair, JudgePrompt]]:
    return [(pair, judge_prompt(pair, "AB", toy_prompts)) for pair in toy_pairs("train", 4, seed=9)]


@pytest.mark.parametrize("deaths", [(0,), (5,), (13, 3, 20)])
def test_killed_sampling_ends_with_the_same_bytes(
    engine: VLLMEngine,
    encoders: dict[str, ChatEncoder],
    toy_prompts: PromptFile,
    work: list[tuple[PreferencePair, JudgePrompt]],
    tmp_path: Path,
    deaths: tuple[int, ...],
) -> None:
    teacher = TeacherConfig(samples=3, max_tokens=12)

    def sample(dying: DyingEngine, store: PartStore) -> None:
        sample_reasons(
            work, dying, encoders["reason"], toy_prompts, teacher, seed=17, name="tiny", store=store
        )

    calm, killed = tmp_path / "calm.jsonl", tmp_path / "killed.jsonl"
    sample(DyingEngine(engine, IMMORTAL), PartStore(calm))
    last = kill_and_resume(sample, engine, killed, deaths)
    assert killed.read_bytes() == calm.read_bytes()
    rows = list(read_jsonl(calm))
    assert [row["id"] for row in rows] == [f"{prompt.id}#tiny#{n}" for _, prompt in work for n in range(3)]
    assert len({row["text"] for row in rows}) == len(rows) == 48
    assert len(last.requested_ids) == len(set(last.requested_ids)), "one run has no request twice"
    if sum(deaths) >= 16:
        assert len(last.requested_ids) < 48, "finished blocks are kept"


def test_a_finished_store_starts_no_request(engine: VLLMEngine, tmp_path: Path) -> None:
    requests = [Request(f"q{n}", (5, 6, 7 + n), max_tokens=3) for n in range(10)]
    ids = [request.id for request in requests]
    store = PartStore(tmp_path / "x.jsonl")
    seen: list[int] = []
    complete_missing(DyingEngine(engine, IMMORTAL), requests, store, progress=seen.append)
    store.finish(ids)
    assert seen == [8, 2]
    complete_missing(DyingEngine(engine, 0), requests, PartStore(tmp_path / "x.jsonl"), progress=seen.append)
    assert seen == [8, 2, 8, 2], "stored rows count as progress too"
    assert [completion_from_json(row).id for row in read_jsonl(tmp_path / "x.jsonl")] == ids


def test_without_blocks_completions_are_stored_one_by_one(engine: VLLMEngine, tmp_path: Path) -> None:
    requests = [Request(f"q{n}", (5, 6, 7 + n), max_tokens=3 + n) for n in range(12)]
    final = tmp_path / "x.jsonl"
    for lives in (4, 3):
        before = set(PartStore(final))
        dying = DyingEngine(engine, lives, block=None)
        with pytest.raises(Killed):
            complete_missing(dying, requests, PartStore(final))
        assert before.isdisjoint(dying.requested_ids) and len(PartStore(final)) == len(before) + lives
    last = DyingEngine(engine, IMMORTAL, block=None)
    seen: list[int] = []
    store = PartStore(final)
    missing = [request.id for request in requests if request.id not in store]
    complete_missing(last, requests, store, progress=seen.append)
    assert last.requested_ids == missing and len(missing) == 5 and seen == [1] * 12
    assert {len(completion_from_json(store[r.id]).token_ids) - r.max_tokens for r in requests} == {0}


def test_an_error_of_the_caller_closes_the_engine(engine: VLLMEngine, tmp_path: Path) -> None:
    requests = [Request(f"q{n}", (5, 6, 7 + n), max_tokens=3) for n in range(12)]
    stopped: list[bool] = []

    class ClosingEngine(DyingEngine):
        def complete(
            self, requests: Iterable[Request], *, adapter: str | None = None
        ) -> Iterator[Completion]:
            try:
                yield from super().complete(requests, adapter=adapter)
            finally:
                stopped.append(True)

    def refuse(completion: Completion) -> dict[str, object]:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full") as caught:
        complete_missing(
            ClosingEngine(engine, IMMORTAL, block=None),
            requests,
            PartStore(tmp_path / "x.jsonl"),
            convert=refuse,
        )
    assert stopped == [True] and caught.traceback, "while the error still holds what it went through"


@pytest.fixture(scope="module")
def judged(toy_prompts: PromptFile) -> list[JudgePrompt]:
    """Twelve pairs in both orders."""
    pairs = toy_pairs("test", 3, seed=4)
    return [judge_prompt(pair, order, toy_prompts) for pair in pairs for order in ("AB", "BA")]  # type: ignore[arg-type]


def counts(prompts: Sequence[JudgePrompt], verdicts: Sequence[Verdict]) -> Counts:
    """Counts that raise unless they add up."""
    assert [verdict.id for verdict in verdicts] == [prompt.id for prompt in prompts]
    by_pair: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_pair.setdefault(verdict.pair_id, []).append(verdict)
    return Counts.from_results(judge_result(pair, "toy-chat", found) for pair, found in by_pair.items())


@pytest.mark.parametrize("template", ["reason", "direct"])
def test_an_untrained_judge_is_rescued_or_unread_and_its_counts_add_up(
    engine: VLLMEngine,
    encoders: dict[str, ChatEncoder],
    judged: list[JudgePrompt],
    tmp_path: Path,
    template: str,
) -> None:
    by_rescue = {}
    for rescue in (True, False):
        config = JudgingConfig(max_tokens=16, rescue=rescue)
        store = PartStore(tmp_path / f"{rescue}.jsonl")
        by_rescue[rescue] = judge(
            judged, engine, VerdictTask(config, encoders[template], engine.max_model_len, seed=17), store
        )
        total = counts(judged, by_rescue[rescue])
        assert total.n == 24 and total.error == 0
        assert total.rescued == (24 if rescue else 0)
        assert total.unparsed + total.truncated == (0 if rescue else 24)
    for verdict in by_rescue[True]:
        assert verdict.rescued and verdict.outcome == "ok" and verdict.prob_a is not None
        assert verdict.winner == ("A" if verdict.prob_a > 0.5 else "B")
        assert verdict.tokens == (17 if template == "reason" else 3), "a verdict-only judge samples one token"
    for verdict in by_rescue[False]:
        assert verdict.winner is None and verdict.prob_a is None
        assert verdict.tokens == (16 if template == "reason" else 2)
        assert verdict.outcome == ("truncated" if template == "reason" else "unparsed")


@pytest.mark.parametrize("deaths", [(3,), (10, 4), (23, 0), (27, 5), (47,)])
def test_a_killed_judge_ends_with_the_same_bytes(
    engine: VLLMEngine,
    encoders: dict[str, ChatEncoder],
    judged: list[JudgePrompt],
    adapter: Path,
    tmp_path: Path,
    deaths: tuple[int, ...],
) -> None:
    config = JudgingConfig(max_tokens=10, temperature=1.0)
    found: list[list[Verdict]] = []

    def ask(dying: DyingEngine, store: PartStore) -> None:
        found.append(
            judge(
                judged,
                dying,
                VerdictTask(config, encoders["reason"], dying.max_model_len, seed=17),
                store,
                adapter=str(adapter),
            )
        )

    calm, killed = tmp_path / "calm.jsonl", tmp_path / "killed.jsonl"
    ask(DyingEngine(engine, IMMORTAL), PartStore(calm))
    kill_and_resume(ask, engine, killed, deaths)
    assert killed.read_bytes() == calm.read_bytes()
    assert found[0] == found[-1]
    ids = [row["id"] for row in read_jsonl(calm)]
    assert ids == [p.id for p in judged] + [p.id + RESCUE for p in judged]


def test_the_context_is_used_up_to_its_last_token(
    engine: VLLMEngine, encoders: dict[str, ChatEncoder], toy_prompts: PromptFile, tmp_path: Path
) -> None:
    """One prompt for every length around the limit: each is judged, rescued, or counted; none is lost."""
    encoder = encoders["reason"]
    limit = engine.max_model_len
    letters = VerdictTokens.from_encoder(encoder)
    by_length: dict[int, JudgePrompt] = {}
    for words in range(20, 600):
        pair = PreferencePair.make([{"role": "user", "content": "say hi"}], "," * words, "no", "toy-chat")
        prompt = judge_prompt(pair, "AB", toy_prompts)
        length = len(encoder.encode(prompt.messages, generation=True))
        if length >= limit - 20:
            by_length.setdefault(length, prompt)
        if length > limit + 5:
            break
    assert set(range(limit - 15, limit + 3)) <= by_length.keys()
    prompts = list(by_length.values())
    config = JudgingConfig(max_tokens=16)
    verdicts = judge(
        prompts,
        engine,
        VerdictTask(config, encoder, engine.max_model_len, seed=17),
        PartStore(tmp_path / "completions.jsonl"),
    )
    needed = len(letters.header) + len(letters.opening) + 1  # of the rescue, beside the prompt
    after = needed - len(letters.reason_end)  # of the verdict, beside the prompt and its reason
    outcomes: Counter[str] = Counter()
    for length, verdict in zip(by_length, verdicts, strict=True):
        outcomes[verdict.outcome] += 1
        if length >= limit:
            assert verdict.outcome == "error" and verdict.winner is None
        elif length + needed <= limit:
            assert verdict.outcome == "ok" and verdict.rescued
        else:
            assert verdict.outcome == "truncated" and not verdict.rescued
            assert verdict.tokens == max(1, min(16, limit - length - after))
    assert outcomes["truncated"] == needed - 1 and len(outcomes) == 3
    assert counts(prompts, verdicts).n == len(prompts)
