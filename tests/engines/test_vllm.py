"""vLLM as the suite uses it: nothing is lost, seeds hold, log-probabilities and adapters are the right ones."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.chat.verdict import VerdictTokens
from reasongenrm.config.engines import EngineConfig, ModelConfig
from reasongenrm.demo.world import toy_pairs
from reasongenrm.engines.base import Request
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.errors import EngineError
from reasongenrm.records import Completion

pytestmark = pytest.mark.engine

BATCH_TOLERANCE = 0.02
"""Share of sampled tokens that may change with the batch. float32 on CPU: 0 seen. A padded or differently split
matrix product differs in its last bits, which matters where two tokens are equally likely to seven digits."""


@pytest.fixture(scope="module")
def prompts(encoders: dict[str, ChatEncoder], toy_prompts: PromptFile) -> list[tuple[int, ...]]:
    """Token ids of 24 judge prompts of many lengths."""
    pairs = toy_pairs("test", 6, seed=3)
    conversations = (judge_prompt(pair, "AB", toy_prompts).messages for pair in pairs)
    return [tuple(encoders["reason"].encode(messages, generation=True)) for messages in conversations]


def ask(engine: VLLMEngine, requests: Iterable[Request], **options: Any) -> dict[str, Completion]:
    engine.reset_prefix_cache()
    return {completion.id: completion for completion in engine.complete(requests, **options)}


def changed(ours: dict[str, Completion], theirs: dict[str, Completion]) -> float:
    """Share of sampled tokens that differ, place by place."""
    assert ours.keys() == theirs.keys()
    pairs = [(ours[key].token_ids, theirs[key].token_ids) for key in ours]
    assert all(len(a) == len(b) for a, b in pairs)
    return sum(x != y for a, b in pairs for x, y in zip(a, b, strict=True)) / sum(len(a) for a, _ in pairs)


def requests_of(prompts: Sequence[tuple[int, ...]], **options: Any) -> list[Request]:
    return [
        Request(f"r{n}", ids, seed=n + 1000, ignore_eos=True, **({"max_tokens": 24} | options))
        for n, ids in enumerate(prompts)
    ]


def test_every_request_has_a_completion(engine: VLLMEngine, prompts: list[tuple[int, ...]]) -> None:
    assert len(prompts) == 24 > 8  # more than run at the same time
    done = ask(engine, requests_of(prompts))
    assert done.keys() == {f"r{n}" for n in range(24)}
    for completion in done.values():
        assert completion.finish_reason == "length" and len(completion.token_ids) == 24
        assert completion.logprobs == {} and completion.error is None


def test_greedy_does_not_depend_on_the_batch(engine: VLLMEngine, prompts: list[tuple[int, ...]]) -> None:
    requests = requests_of(prompts)
    first = ask(engine, requests)
    assert ask(engine, requests) == first, "the same batch twice"
    assert changed(first, ask(engine, reversed(requests))) <= BATCH_TOLERANCE
    single: dict[str, Completion] = {}
    for request in requests[:5]:
        single |= ask(engine, [request])
    assert changed(single, {key: first[key] for key in single}) <= BATCH_TOLERANCE


def test_a_sample_depends_on_its_own_seed_alone(engine: VLLMEngine, prompts: list[tuple[int, ...]]) -> None:
    requests = requests_of(prompts, temperature=1.0)
    first = ask(engine, requests)
    assert ask(engine, requests) == first, "the same batch twice"
    assert changed(first, ask(engine, reversed(requests))) <= BATCH_TOLERANCE
    without = ask(engine, requests[1::3])  # the others are not there
    assert changed(without, {key: first[key] for key in without}) <= BATCH_TOLERANCE
    cached = {c.id: c for c in engine.complete(requests[1::3])}  # prompts come from the prefix cache
    assert changed(without, cached) <= BATCH_TOLERANCE
    other = ask(engine, [replace(request, seed=7) for request in requests[:8]])
    assert changed({key: first[key] for key in other}, other) > 0.9


def test_several_samples_of_one_prompt_differ(engine: VLLMEngine, prompts: list[tuple[int, ...]]) -> None:
    same = [
        replace(r, id=f"s{n}", seed=n) for n, r in enumerate(requests_of(prompts[:1] * 16, temperature=1.0))
    ]
    assert len({completion.token_ids for completion in ask(engine, same).values()}) == 16


def test_log_probabilities_of_given_tokens_are_those_of_the_raw_distribution(
    engine: VLLMEngine,
    prompts: list[tuple[int, ...]],
    encoders: dict[str, ChatEncoder],
    plain_logprobs: Callable[..., Any],
) -> None:
    letters = VerdictTokens.from_encoder(encoders["reason"])
    logprob_token_ids = letters.letters
    narrow = requests_of(
        prompts[:6],
        max_tokens=3,
        allowed=logprob_token_ids,
        logprob_token_ids=logprob_token_ids,
        temperature=0.7,
    )
    for request, completion in zip(narrow, ask(engine, narrow).values(), strict=True):
        assert set(completion.token_ids) <= set(logprob_token_ids), "only allowed ids are sampled"
        assert completion.logprobs.keys() == {0, 1, 2}
        expected_logprobs = plain_logprobs((*request.prompt_ids, *completion.token_ids))
        for place, logprobs in completion.logprobs.items():
            expected = expected_logprobs[len(request.prompt_ids) - 1 + place]
            assert logprobs == {t: pytest.approx(float(expected[t]), abs=1e-4) for t in logprob_token_ids}
            assert sum(map(math.exp, logprobs.values())) < 0.5, "not renormalised over the two"


def test_there_are_no_log_probabilities_of_tokens_that_were_not_sampled(
    engine: VLLMEngine, prompts: list[tuple[int, ...]]
) -> None:
    plain = ask(engine, requests_of(prompts[:4]))
    watching = ask(engine, requests_of(prompts[:4], logprob_token_ids=(300, 301)))
    for key, completion in watching.items():
        assert completion.token_ids == plain[key].token_ids
        places = [place for place, token in enumerate(completion.token_ids) if token in (300, 301)]
        assert list(completion.logprobs) == places


def test_a_stop_string_stays_in_the_text(
    engine: VLLMEngine, prompts: list[tuple[int, ...]], toy_tokenizer: Any
) -> None:
    stop = "]]<|im_end|>"
    ids = toy_tokenizer("[[A]]<|im_end|>", add_special_tokens=False)["input_ids"]
    # Sampling among the stop string's own tokens meets it soon.
    capped = requests_of(prompts[:8], max_tokens=200, temperature=2.0, allowed=tuple(set(ids)), stop=(stop,))
    for completion in ask(engine, capped).values():
        assert completion.finish_reason == "stop"
        assert completion.text.endswith(stop) and completion.text.count(stop) == 1
        assert toy_tokenizer.decode(list(completion.token_ids)) == completion.text


@pytest.mark.parametrize(("ignored", "length", "reason"), [(True, 5, "length"), (False, 1, "stop")])
def test_the_end_of_turn_ends_a_completion_unless_ignored(
    engine: VLLMEngine, toy_tokenizer: Any, ignored: bool, length: int, reason: str
) -> None:
    end = toy_tokenizer.eos_token_id
    request = Request("e", (5, 6, 7), max_tokens=5, allowed=(end,), ignore_eos=ignored)
    [completion] = ask(engine, [request]).values()
    assert completion.token_ids == (end,) * length and completion.finish_reason == reason
    assert completion.text == "<|im_end|>" * length


def test_a_prompt_longer_than_the_context_is_the_only_error(
    engine: VLLMEngine, prompts: list[tuple[int, ...]]
) -> None:
    good = requests_of(prompts[:10])
    over = [replace(good[0], id=f"long{n}", prompt_ids=(9,) * n) for n in (512, 513, 5000)]
    full = replace(good[0], id="full", prompt_ids=(9,) * 511, max_tokens=1)
    done = ask(engine, [over[0], *good[:5], over[1], full, *good[5:], over[2]])
    assert done.keys() == {r.id for r in (*good, *over, full)}
    for request in over:
        refused = done[request.id]
        assert refused.finish_reason == "error" and refused.token_ids == () and refused.text == ""
        assert refused.error and "\n" not in refused.error
    assert len(done["full"].token_ids) == 1, "the last token of the context can be used"
    assert changed({r.id: done[r.id] for r in good}, ask(engine, good)) <= BATCH_TOLERANCE


def test_an_urgent_request_is_started_before_waiting_ones(
    engine: VLLMEngine, prompts: list[tuple[int, ...]]
) -> None:
    """Eight run at a time, eight wait: a request that follows from the first completion does not wait for them."""
    order: list[str] = []
    follow_ups: list[Request] = []

    def stream() -> Iterator[Request]:
        for request in requests_of(prompts, max_tokens=8):
            yield from follow_ups
            follow_ups.clear()
            yield request

    for urgent in (True, False):
        order.clear()
        engine.reset_prefix_cache()
        for completion in engine.complete(stream()):
            order.append(completion.id)
            if len(order) == 1:
                prompt_ids = next(r for r in requests_of(prompts) if r.id == completion.id).prompt_ids
                follow_ups.append(
                    Request("next", (*prompt_ids, *completion.token_ids), max_tokens=1, urgent=urgent)
                )
        assert len(order) == len(prompts) + 1
        assert (order.index("next") < 16) == urgent, "else after the eight that wait"


def test_requests_of_an_interrupted_call_are_aborted(
    engine: VLLMEngine, prompts: list[tuple[int, ...]]
) -> None:
    requests = requests_of(prompts)
    first = ask(engine, requests[:6])
    completions = engine.complete(requests[6:])
    assert len(list(islice(completions, 3))) == 3
    completions.close()  # as an exception in the caller does
    assert ask(engine, requests[:6]) == first


def test_an_adapter_is_served_as_peft_computes_it(
    engine: VLLMEngine,
    adapter: Path,
    prompts: list[tuple[int, ...]],
    encoders: dict[str, ChatEncoder],
    plain_logprobs: Callable[..., Any],
) -> None:
    encoder = encoders["reason"]
    letters = VerdictTokens.from_encoder(encoder)
    logprob_token_ids = letters.letters
    prompt_ids = [
        (*ids, *encoder.content("the first one counts right ."), *letters.header, *letters.opening)
        for ids in prompts
    ]
    requests = requests_of(
        prompt_ids, max_tokens=1, allowed=logprob_token_ids, logprob_token_ids=logprob_token_ids
    )
    tuned = ask(engine, requests, adapter=str(adapter))
    base = {c.id: c for c in engine.complete(requests)}  # the adapter's prefix cache must not serve the base
    moved = 0.0
    for request in requests:
        for served, adapted in ((tuned, True), (base, False)):
            expected = plain_logprobs(request.prompt_ids, adapted)[-1]
            assert served[request.id].logprobs[0] == {
                t: pytest.approx(float(expected[t]), abs=1e-3 if adapted else 1e-4) for t in logprob_token_ids
            }
        moved += abs(
            tuned[request.id].logprobs[0][letters.letters[0]]
            - base[request.id].logprobs[0][letters.letters[0]]
        )
    assert moved / len(requests) > 0.1, "the adapter does nothing, so this test shows nothing"


def test_an_unknown_adapter_is_named(engine: VLLMEngine, tmp_path: Path) -> None:
    request = Request("x", (5, 6), max_tokens=1)
    for folder, text in ((tmp_path, "adapter_config.json"), (tmp_path / "none", "directory not found")):
        with pytest.raises(EngineError, match=text) as caught:
            list(engine.complete([request], adapter=str(folder)))
        assert str(caught.value).startswith("adapter: ") and "\n" not in str(caught.value)
    assert len(ask(engine, [request])) == 1, "the engine goes on"


def test_an_adapter_that_cannot_be_served_is_named(engine: VLLMEngine, adapter: Path, tmp_path: Path) -> None:
    high = tmp_path / "high-rank"
    shutil.copytree(adapter, high)
    settings = json.loads((high / "adapter_config.json").read_text(encoding="utf-8"))
    (high / "adapter_config.json").write_text(json.dumps(settings | {"r": 64}), encoding="utf-8")
    request = Request("x", (5, 6), max_tokens=1)
    with pytest.raises(EngineError, match=r"vLLM cannot serve the adapter: .*rank") as caught:
        list(engine.complete([request], adapter=str(high)))
    assert str(high) in str(caught.value) and "\n" not in str(caught.value)
    assert len(ask(engine, [request])) == 1, "the engine goes on"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("{tmp}/none", "directory not found"),
        ("{tmp}", "config.json not found"),
        ("data/none", "directory not found"),
    ],
)
def test_an_unknown_model_is_named(tmp_path: Path, path: str, text: str) -> None:
    with pytest.raises(EngineError, match=text) as caught:
        VLLMEngine(ModelConfig(path=path.format(tmp=tmp_path)), EngineConfig())
    assert str(caught.value).startswith("model.path: ") and "\n" not in str(caught.value)
