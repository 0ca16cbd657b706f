"""Requests, rescues, and killed runs that repeat no finished request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.chat.verdict import VerdictTokens
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.base import Engine, Request, request_seed
from reasongenrm.judge.ask import RESCUE, VerdictTask, read_all
from reasongenrm.judge.turns import VERDICT
from reasongenrm.records import Completion, JudgePrompt, PreferencePair
from reasongenrm.store import PartStore
from support.asked import in_turns, judge

pytestmark = pytest.mark.unit

CONFIG = JudgingConfig(max_tokens=64)


class Killed(Exception):
    """Represents a SIGKILL."""


class Scripted(Engine):
    """An engine whose completions are a function of the request; records its requests."""

    def __init__(
        self, answer: Callable[[Request], Completion], *, block: int = 3, max_model_len: int = 512
    ) -> None:
        self.answer, self.block, self.max_model_len = answer, block, max_model_len
        self.request_log: list[Request] = []
        self.adapters: set[str | None] = set()
        self.die_after: int | None = None

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        self.adapters.add(adapter)
        requests = list(requests)
        done = [self.answer(request) for request in requests]
        for request in requests:
            if self.die_after is not None and len(self.request_log) >= self.die_after:
                raise Killed
            self.request_log.append(request)
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
    """Of three prompts one is read, one is truncated, one ends without its marker; the rescue gives B."""
    number = {prompt.id: n for n, prompt in enumerate(prompts)}

    def answer(request: Request) -> Completion:
        if request.id.endswith(RESCUE):
            return Completion(
                request.id,
                "",
                "length",
                (tokens.letters[1],),
                {0: {tokens.letters[0]: -2.0, tokens.letters[1]: -1.0}},
            )
        kind = number[request.id] % 3
        ids = encoder.completion("so A", "[[A]]") if kind == 0 else encoder.content("so on and on")
        place = ids.index(tokens.letters[0], ids.index(tokens.header[0])) if kind == 0 else -1
        logprobs = {place: {tokens.letters[0]: -0.5, tokens.letters[1]: -1.5}} if kind == 0 else {}
        return Completion(request.id, "", ("stop", "length", "stop")[kind], tuple(ids), logprobs)

    return in_turns(answer, tokens, tokens.opening)


def test_requests_carry_what_the_judge_needs(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens
) -> None:
    for request, prompt in zip(
        VerdictTask(CONFIG, encoder, 4096, seed=17).requests(prompts), prompts, strict=True
    ):
        assert request.id == prompt.id
        assert request.prompt_ids == tuple(encoder.encode(prompt.messages, generation=True))
        assert request.stop_ids == (tokens.end,) == tokens.reason_end and request.stop == ()
        assert request.logprob_token_ids == request.allowed == () and not request.ignore_eos
        assert (request.max_tokens, request.temperature, request.seed) == (64, 0, None)


def test_sampled_requests_have_distinct_seeds(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens
) -> None:
    def seeds(some_prompts: list[JudgePrompt], seed: int) -> dict[str, int | None]:
        warm = JudgingConfig(max_tokens=64, temperature=0.7)
        return {r.id: r.seed for r in VerdictTask(warm, encoder, 4096, seed=seed).requests(some_prompts)}

    assert len(set(seeds(prompts, 1).values())) == len(prompts)
    assert seeds(prompts[::-1], 1) == seeds(prompts, 1)  # not of the order
    assert not set(seeds(prompts, 1).values()) & set(seeds(prompts, 2).values())
    assert all(0 <= request_seed(1, str(n)) < 2**31 for n in range(1000))


def test_a_long_prompt_leaves_room_for_at_least_one_token(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens
) -> None:
    length = len(encoder.encode(prompts[0].messages, generation=True))
    length += len(tokens.header[1:]) + len(tokens.opening) + 1  # the verdict's own
    for room, expected in ((1000, 64), (64, 64), (63, 63), (1, 1), (0, 1), (-5, 1)):
        [request] = VerdictTask(CONFIG, encoder, length + room, seed=17).requests(prompts[:1])
        assert request.max_tokens == expected


def test_unread_completions_are_rescued(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens, tmp_path: Path
) -> None:
    engine = Scripted(answers(prompts, encoder, tokens))
    verdicts = judge(
        prompts, engine, task_for(engine, encoder), PartStore(tmp_path / "c.jsonl"), adapter="lora"
    )
    assert [verdict.id for verdict in verdicts] == [prompt.id for prompt in prompts]
    assert [verdict.winner for verdict in verdicts] == ["A", "B", "B"] * 2 + ["A", "B"]
    assert [verdict.rescued for verdict in verdicts] == [False, True, True] * 2 + [False, True]
    assert {verdict.outcome for verdict in verdicts} == {"ok"} and engine.adapters == {"lora"}
    read, asked = prompts[::3], [r for r in engine.request_log if r.id.endswith(VERDICT)]
    assert sorted(request.id for request in asked) == sorted(prompt.id + VERDICT for prompt in read)
    for request in asked:
        [prompt] = [prompt for prompt in read if request.id == prompt.id + VERDICT]
        ids = (*encoder.encode(prompt.messages, generation=True), *encoder.content("so A"))
        assert request.prompt_ids == (*ids, *tokens.header, *tokens.opening) and request.urgent
        assert (request.max_tokens, request.allowed) == (1, ())
        assert request.logprob_token_ids == tokens.letters
    rescues = [request for request in engine.request_log if request.id.endswith(RESCUE)]
    assert [request.id for request in rescues] == [p.id + RESCUE for n, p in enumerate(prompts) if n % 3]
    for request, prompt in zip(rescues, [p for n, p in enumerate(prompts) if n % 3], strict=True):
        reason = encoder.content("so on and on")
        prompt_ids = encoder.encode(prompt.messages, generation=True)
        assert request.prompt_ids == (*prompt_ids, *reason, *tokens.header, *tokens.opening)
        assert request.max_tokens == 1 and request.allowed == request.logprob_token_ids == (
            tokens.letters[0],
            tokens.letters[1],
        )


def test_a_rescue_after_a_long_reason_cuts_the_reason(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens, tmp_path: Path
) -> None:
    prompt_ids = encoder.encode(prompts[1].messages, generation=True)
    tail = [*tokens.header, *tokens.opening]
    for room in (0, 2):
        engine = Scripted(
            answers(prompts, encoder, tokens), max_model_len=len(prompt_ids) + room + len(tail) + 1
        )
        judge(prompts[1:2], engine, task_for(engine, encoder), PartStore(tmp_path / f"{room}.jsonl"))
        ids = engine.request_log[-1].prompt_ids
        assert ids == (*prompt_ids, *encoder.content("so on and on")[:room], *tail)
        assert len(ids) + 1 == engine.max_model_len


def test_the_rescue_of_a_verdict_only_judge_follows_its_prompt(
    prompts: list[JudgePrompt], direct: ChatEncoder, tokens: VerdictTokens, tmp_path: Path
) -> None:
    neither = tokens.closing[0]

    def answer(request: Request) -> Completion:
        sampled, logprobs = (tokens.letters[1], {0: {tokens.letters[0]: -1.0, tokens.letters[1]: -2.0}})
        if request.id.endswith(RESCUE):
            return Completion(request.id, "", "length", (sampled,), logprobs)
        return Completion(request.id, "", "length", (neither,))

    engine = Scripted(answer)
    [verdict] = judge(prompts[:1], engine, task_for(engine, direct), PartStore(tmp_path / "c.jsonl"))
    opening = VerdictTokens.from_encoder(direct).opening
    ids = (*direct.encode(prompts[0].messages, generation=True), *opening)
    assert [request.prompt_ids for request in engine.request_log] == [ids, ids]
    assert [request.allowed for request in engine.request_log] == [(), tokens.letters]
    assert (verdict.winner, verdict.rescued, verdict.reason) == ("A", True, "")


def test_without_rescue_there_are_no_further_requests(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens, tmp_path: Path
) -> None:
    engine = Scripted(answers(prompts, encoder, tokens))
    config = JudgingConfig(max_tokens=64, rescue=False)
    verdicts = judge(prompts, engine, task_for(engine, encoder, config), PartStore(tmp_path / "c.jsonl"))
    assert [verdict.outcome for verdict in verdicts] == ["ok", "truncated", "unparsed"] * 2 + [
        "ok",
        "truncated",
    ]
    assert not [request for request in engine.request_log if request.id.endswith(RESCUE)]


def test_a_refused_request_is_an_error_and_not_rescued(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tmp_path: Path
) -> None:
    engine = Scripted(lambda request: Completion(request.id, "", "error", error="too long"))
    verdicts = judge(prompts, engine, task_for(engine, encoder), PartStore(tmp_path / "c.jsonl"))
    assert {verdict.outcome for verdict in verdicts} == {"error"} and len(engine.request_log) == len(prompts)


def test_a_kill_at_any_request_loses_at_most_its_block(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens, tmp_path: Path
) -> None:
    answer = answers(prompts, encoder, tokens)
    calm = Scripted(answer)
    expected = judge(prompts, calm, task_for(calm, encoder), PartStore(tmp_path / "calm.jsonl"))
    for kill in range(len(calm.request_log)):
        path = tmp_path / f"{kill}.jsonl"
        engine = Scripted(answer)
        engine.die_after = kill
        with pytest.raises(Killed):
            judge(prompts, engine, task_for(engine, encoder), PartStore(path))
        engine.die_after = None
        assert judge(prompts, engine, task_for(engine, encoder), PartStore(path)) == expected
        assert path.read_bytes() == (tmp_path / "calm.jsonl").read_bytes()
        again = [request.id for request in engine.request_log]
        reasons = [name for name in again if "#" not in name]
        assert len(reasons) - len(set(reasons)) <= engine.block
        assert len(again) - len(set(again)) < 2 * engine.block, "reasons and verdicts of one block"
        assert sorted(set(again)) == sorted(request.id for request in calm.request_log)


def test_a_finished_store_is_read_without_requests(
    prompts: list[JudgePrompt], encoder: ChatEncoder, tokens: VerdictTokens, tmp_path: Path
) -> None:
    engine = Scripted(answers(prompts, encoder, tokens))
    expected = judge(prompts, engine, task_for(engine, encoder), PartStore(tmp_path / "c.jsonl"))
    engine.request_log.clear()
    assert judge(prompts, engine, task_for(engine, encoder), PartStore(tmp_path / "c.jsonl")) == expected
    assert (
        read_all(prompts, VerdictTask(CONFIG, encoder, 512, seed=17), PartStore(tmp_path / "c.jsonl"))
        == expected
    )
    assert engine.request_log == []
