"""Both turns of a judge's completion: their requests, and both as one completion."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.own_template import own_encoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.base import Engine, Request, Unanswered
from reasongenrm.judge.ask import RESCUE, VerdictTask
from reasongenrm.judge.memory import ask_in_memory
from reasongenrm.judge.turns import VERDICT, JudgingEngine, Turns
from reasongenrm.records import Completion, JudgePrompt, PreferencePair
from support.asked import in_turns

pytestmark = pytest.mark.unit

CONTEXT = 512


@pytest.fixture
def task(judge_encoder: ChatEncoder) -> VerdictTask:
    return VerdictTask(JudgingConfig(max_tokens=64), judge_encoder, CONTEXT, seed=17)


@pytest.fixture
def turns(task: VerdictTask) -> Turns:
    assert task.turns is not None
    return task.turns


@pytest.fixture(scope="module")
def prompts(toy_prompts: PromptFile) -> list[JudgePrompt]:
    pairs = [PreferencePair.make([{"role": "user", "content": f"add {n}"}], "1", "2", "s") for n in range(6)]
    return [judge_prompt(pair, "AB", toy_prompts) for pair in pairs]


class Lazy(Engine):
    """An engine of two slots, as a server or vLLM takes requests; records their order."""

    max_model_len, block = CONTEXT, None

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.request_log: list[Request] = []

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        source, running = iter(requests), list[Request]()
        while True:
            while len(running) < 2 and (request := next(source, None)):
                running.append(request)
                self.request_log.append(request)
            if not running:
                return
            yield self.answer(running.pop(0))


def whole(turns: Turns, request: Request, reason: str = "so A", letter: str = "A") -> Completion:
    """What a judge that follows its format writes in one go."""
    tokens = turns.tokens
    ids = tuple(turns.encoder.completion(reason, f"[[{letter}]]"))
    place = len(ids) - len(tokens.closing) - 2
    return Completion(
        request.id,
        turns.encoder.tokenizer.decode(list(ids)),
        "stop",
        ids,
        {place: {tokens.letters[0]: -0.5, tokens.letters[1]: -1.5}},
        prompt_tokens=len(request.prompt_ids),
    )


def answers(turns: Turns, completion: Completion) -> Callable[[Request], Completion]:
    """Answer with the parts of a whole completion, as a model does that writes it."""
    decode = turns.encoder.tokenizer.decode
    [place] = completion.logprobs

    def answer(request: Request) -> Completion:
        if not request.id.endswith(VERDICT):
            part = in_turns(lambda _: completion, turns.tokens, turns.choice.prompt_ids)(request)
            return replace(part, id=request.id, text=decode(list(part.token_ids)))
        letter = completion.token_ids[place : place + 1]
        return Completion(request.id, decode(list(letter)), "length", letter, {0: completion.logprobs[place]})

    return answer


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the fixtures are constants
@given(reason=st.text(max_size=30), letter=st.sampled_from("AB"))
def test_both_turns_are_the_completion_that_a_judge_writes_in_one_go(
    judge_encoder: ChatEncoder, prompts: list[JudgePrompt], reason: str, letter: str
) -> None:
    task = VerdictTask(JudgingConfig(max_tokens=200), judge_encoder, 1024, seed=17)
    turns = task.turns
    assert turns is not None
    [request] = task.requests(prompts[:1])
    expected = whole(turns, request, reason, letter)
    [completion] = JudgingEngine(Lazy(answers(turns, expected)), [turns]).complete([request])
    assert completion == expected
    verdict = task.read(prompts[0], completion)
    assert (verdict.winner, verdict.outcome) == (letter, "ok")


def test_the_verdict_is_requested_right_after_its_reason(
    task: VerdictTask, turns: Turns, prompts: list[JudgePrompt]
) -> None:
    direct = not turns.encoder.reasons_first
    engine = Lazy(lambda request: answers(turns, whole(turns, request))(request))
    done = list(JudgingEngine(engine, [turns]).complete(task.requests(prompts)))
    ids = [prompt.id for prompt in prompts]
    assert sorted(completion.id for completion in done) == sorted(ids)
    order = [request.id for request in engine.request_log]
    if direct:
        assert order == [name + VERDICT for name in ids]
        return
    assert sorted(order) == sorted([*ids, *(name + VERDICT for name in ids)])
    for number, name in enumerate(ids[:-1]):
        # One other reason is being written when this one is done: the next free slot is the verdict's.
        assert order.index(name + VERDICT) < order.index(ids[min(number + 2, 5)]) or number >= 4


def test_a_verdict_request_samples_as_its_reason_with_a_seed_of_its_own(
    judge_encoder: ChatEncoder, prompts: list[JudgePrompt]
) -> None:
    config = JudgingConfig(max_tokens=64, temperature=0.7, votes=2)
    turns = VerdictTask(config, judge_encoder, CONTEXT, seed=17).turns
    assert turns is not None
    requests = list(VerdictTask(config, judge_encoder, CONTEXT, seed=17).requests(prompts[:2]))
    ids = tuple(judge_encoder.content("so")) + turns.tokens.reason_end if judge_encoder.reasons_first else ()
    verdicts = [turns.verdict(r, Completion(r.id, "", "stop", ids)) for r in requests]
    assert all(verdict is not None and verdict.temperature == 0.7 for verdict in verdicts)
    seeds = {request.seed for request in (*requests, *filter(None, verdicts))}
    assert len(seeds) == 2 * len(requests) and None not in seeds
    greedy = turns.verdict(replace(requests[0], temperature=0), Completion("x", "", "stop", ids))
    assert greedy is not None and greedy.seed is None


def test_an_unfinished_reason_has_no_verdict_request(turns: Turns, prompts: list[JudgePrompt]) -> None:
    request = turns.reason("p", (5, 6, 7), 64, 0.0)
    ids = tuple(turns.encoder.content("so"))
    for finish, end in (("length", ()), ("stop", ()), ("error", ()), ("length", turns.tokens.reason_end)):
        verdict = turns.verdict(request, Completion("p", "", finish, (*ids, *end)))
        assert (verdict is None) == turns.encoder.reasons_first
    long = tuple(ids[:1]) * (CONTEXT - 8) + turns.tokens.reason_end
    no_room = turns.verdict(request, Completion("p", "", "stop", long))
    assert (no_room is None) == turns.encoder.reasons_first, "the rescue cuts the reason"


def test_what_is_no_verdict_is_kept_as_it_was_sampled(
    task: VerdictTask, turns: Turns, prompts: list[JudgePrompt]
) -> None:
    ids = tuple(turns.encoder.content("so")) + turns.tokens.reason_end if turns.encoder.reasons_first else ()
    reason = Completion("p", turns.encoder.tokenizer.decode(list(ids)), "stop", ids, prompt_tokens=9)
    other = turns.encoder.content("x")[0]
    joined = turns.join(reason, Completion("p" + VERDICT, "x", "length", (other,)))
    assert joined.token_ids[-1] == other and joined.finish_reason == "stop"
    verdict = task.read(prompts[0], joined)
    assert (verdict.winner, verdict.outcome) == (None, "unparsed") and task.needs_rescue(verdict)
    assert (
        task.rescue(prompts[0], joined).prompt_ids[-len(turns.choice.prompt_ids) :] == turns.choice.prompt_ids
    )


def test_a_failed_verdict_request_is_an_error(
    task: VerdictTask, turns: Turns, prompts: list[JudgePrompt]
) -> None:
    reason = Completion("p", "so", "stop", tuple(turns.encoder.content("so")), prompt_tokens=9)
    joined = turns.join(reason, Completion("p" + VERDICT, "", "error", error="no server is left"))
    verdict = task.read(prompts[0], joined)
    assert (verdict.outcome, verdict.winner) == ("error", None) and joined.error == "no server is left"
    assert not task.needs_rescue(verdict)
    fault = turns.join(reason, Unanswered("p" + VERDICT, "", "error", error="HTTP 500"))
    assert isinstance(fault, Unanswered) and (fault.id, fault.text) == ("p", reason.text), "asked for again"


OWN = """\
{%- for m in messages %}{% if m.role != 'reason' %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture
def own_task(toy_tokenizer: Any) -> VerdictTask:
    tokenizer = copy.deepcopy(toy_tokenizer)
    tokenizer.chat_template = OWN
    return VerdictTask(JudgingConfig(max_tokens=64), own_encoder(tokenizer), CONTEXT, seed=17)


@pytest.mark.parametrize("text", ["A is right . so A is better . [[A]]", "it is **[[A]]**"])
def test_in_one_turn_the_second_request_is_for_the_letter_alone(
    text: str, own_task: VerdictTask, prompts: list[JudgePrompt]
) -> None:
    turns = own_task.turns
    assert turns is not None
    content = turns.encoder.content(text)
    place = max(at for at, token in enumerate(content) if token == turns.tokens.letters[0])

    def answer(request: Request) -> Completion:
        if not request.id.endswith(VERDICT):
            assert request.logprob_token_ids == () and request.stop_ids == (turns.tokens.end,)
            return Completion(request.id, text, "stop", (*content, turns.tokens.end))
        assert request.prompt_ids[-place:] == tuple(content[:place])
        assert (
            request.allowed == request.logprob_token_ids == turns.tokens.letters and request.max_tokens == 1
        )
        return Completion(
            request.id,
            "A",
            "length",
            turns.tokens.letters[:1],
            {0: dict(zip(turns.tokens.letters, (-0.1, -2.1), strict=True))},
        )

    [(verdict, [completion])] = ask_in_memory(prompts[:1], Lazy(answer), own_task)
    assert completion.text == text and completion.token_ids == (*content, turns.tokens.end)
    assert verdict.winner == "A" and verdict.prob_a == pytest.approx(1 / (1 + math.exp(-2)))
    assert verdict.reason == text[: text.index("[[")].strip()


def test_in_one_turn_a_verdict_that_is_missing_is_requested_in_the_same_turn(
    own_task: VerdictTask, prompts: list[JudgePrompt]
) -> None:
    turns = own_task.turns
    assert turns is not None
    encoder, text = turns.encoder, "first I read .\n\nthen I think"
    log: list[Request] = []

    def answer(request: Request) -> Completion:
        log.append(request)
        if not request.id.endswith(RESCUE):
            return Completion(request.id, text, "length", tuple(encoder.content(text)))
        logprobs = dict(zip(turns.tokens.letters, (-3.0, -1.0), strict=True))
        return Completion(request.id, "B", "length", turns.tokens.letters[1:], {0: logprobs})

    [(verdict, _)] = ask_in_memory(prompts[:1], Lazy(answer), own_task)
    assert (verdict.winner, verdict.rescued, verdict.reason) == ("B", True, text)
    shown = encoder.tokenizer.decode(list(log[-1].prompt_ids))
    assert shown.endswith(f"<|im_start|>assistant\n{text}\n\n[[")
