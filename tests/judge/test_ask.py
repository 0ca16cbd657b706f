"""Asking an engine: what is requested, what is asked again, and that a killed run asks nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.chat.verdict import VerdictTokens
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.base import Request, request_seed
from reasongenrm.judge.ask import RESCUE, read_all
from reasongenrm.judge.verdicts import VerdictTask
from reasongenrm.records import Completion, JudgePrompt, PreferencePair
from reasongenrm.store import PartStore
from support.asked import judge

pytestmark = pytest.mark.unit

CONFIG = JudgingConfig(max_tokens=64)


class Killed(Exception):
    """Stands for a SIGKILL."""


class Scripted:
    """An engine that answers by a function of the request; keeps what it was asked."""

    def __init__(
        self, answer: Callable[[Request], Completion], *, block: int = 3, max_model_len: int = 512
    ) -> None:
        self.answer, self.block, self.max_model_len = answer, block, max_model_len
        self.asked: list[Request] = []
        self.adapters: set[str | None] = set()
        self.die_after: int | None = None

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        self.adapters.add(adapter)
        done = [self.answer(request) for request in requests]
        for request in requests:
            if self.die_after is not None and len(self.asked) >= self.die_after:
                raise Killed
            self.asked.append(request)
        yield from reversed(done)  # engines answer in any order

    def reset_prefix_cache(self) -> None:
        pass


def task_for(engine: Scripted, encoder: ChatEncoder, config: JudgingConfig = CONFIG) -> VerdictTask:
    return VerdictTask(config, encoder, engine.max_model_len, seed=17)


@pytest.fixture(scope="module")
def prompts(toy_prompts: PromptFile) -> list[JudgePrompt]:
    pairs = [
        PreferencePair.make([{"role": "user", "content": f"add {n} and 1"}], str(n + 1), str(n), "s")
        for n in range(8)
    ]
    return [judge_prompt(pair, "AB" if n % 2 else "BA", toy_prompts) for n, pair in enumerate(pairs)]


def answers(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens
) -> Callable[[Request], Completion]:
    """Every third prompt is read, every third runs out of tokens, every third says nothing; the rescue says B."""
    number = {prompt.id: n for n, prompt in enumerate(prompts)}

    def answer(request: Request) -> Completion:
        if request.id.endswith(RESCUE):
            return Completion(
                request.id, "", "length", (tokens.b,), -0.1, {0: {tokens.a: -2.0, tokens.b: -1.0}}
            )
        kind = number[request.id] % 3
        ids = encoder.completion("so A", "[[A]]") if kind == 0 else encoder.content("so on and on")
        if kind == 2:
            ids += encoder.structure("<|im_end|>")
        place = ids.index(tokens.a, ids.index(tokens.header[0])) if kind == 0 else -1
        logprobs = {place: {tokens.a: -0.5, tokens.b: -1.5}} if kind == 0 else {}
        return Completion(request.id, "", ("stop", "length", "stop")[kind], tuple(ids), -1.0, logprobs)

    return answer


def test_requests_carry_what_the_judge_needs(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens
) -> None:
    for request, prompt in zip(
        VerdictTask(CONFIG, encoder, 4096, seed=17).requests(prompts), prompts, strict=True
    ):
        assert request.id == prompt.id
        assert request.prompt_ids == tuple(encoder.encode(prompt.messages, generation=True))
        assert request.stop == ("]]<|im_end|>",) and request.ignore_eos
        assert request.logprob_token_ids == (tokens.a, tokens.b) and request.allowed == ()
        assert (request.max_tokens, request.temperature, request.seed) == (64, 0, None)


def test_a_sampled_request_has_a_seed_of_its_own(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens
) -> None:
    def seeds(asked: list[JudgePrompt], seed: int) -> dict[str, int | None]:
        warm = JudgingConfig(max_tokens=64, temperature=0.7)
        return {r.id: r.seed for r in VerdictTask(warm, encoder, 4096, seed=seed).requests(asked)}

    assert len(set(seeds(prompts, 1).values())) == len(prompts)
    assert seeds(prompts[::-1], 1) == seeds(prompts, 1)  # not of the order
    assert not set(seeds(prompts, 1).values()) & set(seeds(prompts, 2).values())
    assert all(0 <= request_seed(1, str(n)) < 2**31 for n in range(1000))


def test_a_long_prompt_leaves_less_room_but_never_none(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens
) -> None:
    length = len(encoder.encode(prompts[0].messages, generation=True))
    for room, expected in ((1000, 64), (64, 64), (63, 63), (1, 1), (0, 1), (-5, 1)):
        [request] = VerdictTask(CONFIG, encoder, length + room, seed=17).requests(prompts[:1])
        assert request.max_tokens == expected


def test_what_cannot_be_read_is_asked_for_the_verdict_alone(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens, tmp_path: Path
) -> None:
    engine = Scripted(answers(prompts, encoder, tokens))
    found = judge(prompts, engine, task_for(engine, encoder), PartStore(tmp_path / "c.jsonl"), adapter="lora")
    assert [verdict.id for verdict in found] == [prompt.id for prompt in prompts]
    assert [verdict.winner for verdict in found] == ["A", "B", "B"] * 2 + ["A", "B"]
    assert [verdict.rescued for verdict in found] == [False, True, True] * 2 + [False, True]
    assert {verdict.outcome for verdict in found} == {"ok"} and engine.adapters == {"lora"}
    rescues = [request for request in engine.asked if request.id.endswith(RESCUE)]
    assert [request.id for request in rescues] == [p.id + RESCUE for n, p in enumerate(prompts) if n % 3]
    for request, prompt in zip(rescues, [p for n, p in enumerate(prompts) if n % 3], strict=True):
        reason = encoder.content("so on and on")
        asked = encoder.encode(prompt.messages, generation=True)
        assert request.prompt_ids == (*asked, *reason, *tokens.header, *tokens.opening)
        assert request.max_tokens == 1 and request.allowed == request.logprob_token_ids == (
            tokens.a,
            tokens.b,
        )


def test_a_rescue_behind_a_long_reason_cuts_the_reason(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens, tmp_path: Path
) -> None:
    asked = encoder.encode(prompts[1].messages, generation=True)
    tail = [*tokens.header, *tokens.opening]
    for room in (0, 2):
        engine = Scripted(answers(prompts, encoder, tokens), max_model_len=len(asked) + room + len(tail) + 1)
        judge(prompts[1:2], engine, task_for(engine, encoder), PartStore(tmp_path / f"{room}.jsonl"))
        ids = engine.asked[-1].prompt_ids
        assert ids == (*asked, *encoder.content("so on and on")[:room], *tail)
        assert len(ids) + 1 == engine.max_model_len


def test_a_verdict_only_judge_is_rescued_right_behind_its_prompt(
    prompts: list[JudgePrompt], direct: ChatEncoder, tokens: VerdictTokens, tmp_path: Path
) -> None:
    engine = Scripted(
        lambda r: Completion(r.id, "", "length", (tokens.b,), 0.0, {0: {tokens.a: -1.0, tokens.b: -2.0}})
    )
    [verdict] = judge(prompts[:1], engine, task_for(engine, direct), PartStore(tmp_path / "c.jsonl"))
    opening = VerdictTokens.from_encoder(direct).opening
    assert engine.asked[1].prompt_ids == (*direct.encode(prompts[0].messages, generation=True), *opening)
    assert (verdict.winner, verdict.rescued, verdict.reason) == ("A", True, "")


def test_without_rescue_nothing_is_asked_again(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens, tmp_path: Path
) -> None:
    engine = Scripted(answers(prompts, encoder, tokens))
    config = JudgingConfig(max_tokens=64, rescue=False)
    found = judge(prompts, engine, task_for(engine, encoder, config), PartStore(tmp_path / "c.jsonl"))
    assert [verdict.outcome for verdict in found] == ["ok", "truncated", "unparsed"] * 2 + ["ok", "truncated"]
    assert len(engine.asked) == len(prompts)


def test_a_refused_request_is_an_error_and_not_rescued(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tmp_path: Path
) -> None:
    engine = Scripted(lambda request: Completion(request.id, "", "error", error="too long"))
    found = judge(prompts, engine, task_for(engine, encoder), PartStore(tmp_path / "c.jsonl"))
    assert {verdict.outcome for verdict in found} == {"error"} and len(engine.asked) == len(prompts)


def test_a_kill_at_any_request_costs_at_most_its_block(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens, tmp_path: Path
) -> None:
    answer = answers(prompts, encoder, tokens)
    calm = Scripted(answer)
    expected = judge(prompts, calm, task_for(calm, encoder), PartStore(tmp_path / "calm.jsonl"))
    for kill in range(len(calm.asked)):
        path = tmp_path / f"{kill}.jsonl"
        engine = Scripted(answer)
        engine.die_after = kill
        with pytest.raises(Killed):
            judge(prompts, engine, task_for(engine, encoder), PartStore(path))
        engine.die_after = None
        assert judge(prompts, engine, task_for(engine, encoder), PartStore(path)) == expected
        assert path.read_bytes() == (tmp_path / "calm.jsonl").read_bytes()
        again = [request.id for request in engine.asked]
        assert len(again) - len(set(again)) < engine.block
        assert list(dict.fromkeys(again)) == [request.id for request in calm.asked]


def test_finished_work_is_read_and_not_asked(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens, tmp_path: Path
) -> None:
    engine = Scripted(answers(prompts, encoder, tokens))
    expected = judge(prompts, engine, task_for(engine, encoder), PartStore(tmp_path / "c.jsonl"))
    engine.asked.clear()
    assert judge(prompts, engine, task_for(engine, encoder), PartStore(tmp_path / "c.jsonl")) == expected
    assert (
        read_all(prompts, VerdictTask(CONFIG, encoder, 512, seed=17), PartStore(tmp_path / "c.jsonl"))
        == expected
    )
    assert engine.asked == []
