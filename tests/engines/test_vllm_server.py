"""A real vLLM server gives the completions of vLLM in this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.engines import OpenAIConfig
from reasongenrm.demo.world import toy_pairs
from reasongenrm.engines.base import Request
from reasongenrm.engines.openai import OpenAIEngine
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.errors import EngineError
from reasongenrm.records import Message
from support.vllm_server import vllm_server

pytestmark = pytest.mark.engine

KEY = "not-a-secret-of-anyone"
CONTEXT = 512


@pytest.fixture(scope="module")
def url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a vLLM server over the tiny model."""
    options = ("--served-model-name", "tiny", "--max-model-len", str(CONTEXT))
    with vllm_server(tiny_model, KEY, tmp_path_factory.mktemp("server") / "log", options) as address:
        yield address


@pytest.fixture
def fleet(url: str, monkeypatch: pytest.MonkeyPatch) -> OpenAIEngine:
    monkeypatch.setenv("FLEET_KEY", KEY)
    return served(url)


def served(url: str, **options: Any) -> OpenAIEngine:
    config = OpenAIConfig(
        kind="openai", urls=[url], **({"model": "tiny", "api_key_env": "FLEET_KEY", "timeout": 120} | options)
    )
    return OpenAIEngine(config, max_model_len=CONTEXT, key="teachers.fleet.server")


@pytest.fixture(scope="module")
def conversations(toy_prompts: PromptFile) -> list[tuple[Message, ...]]:
    return [judge_prompt(pair, "AB", toy_prompts).messages for pair in toy_pairs("test", 2, seed=3)]


@pytest.fixture(scope="module")
def requests(
    conversations: list[tuple[Message, ...]], encoders: dict[str, ChatEncoder], toy_tokenizer: Any
) -> list[Request]:
    """Greedy ones of every kind that the suite sends, and those around the end of the context."""
    ids = [tuple(encoders["reason"].encode(messages, generation=True)) for messages in conversations]
    plain = [Request(f"plain{n}", prompt, 12, seed=n) for n, prompt in enumerate(ids)]
    stop = tuple(set(toy_tokenizer("[[A]]<|im_end|>", add_special_tokens=False)["input_ids"]))
    base = Request("base", ids[0], 12, ignore_eos=True)
    return [
        *plain,
        replace(base, id="logprobs", logprob_token_ids=(300, 301), allowed=(300, 301), max_tokens=3),
        replace(base, id="logprobs of frequent tokens", logprob_token_ids=(198, 300, 301)),
        replace(
            base, id="stop", stop=("]]<|im_end|>",), allowed=stop, temperature=2.0, seed=5, max_tokens=200
        ),
        replace(
            base,
            id="stop token",
            stop_ids=(300,),
            allowed=(300, 301),
            temperature=2.0,
            seed=5,
            max_tokens=200,
        ),
        replace(base, id="end", allowed=(toy_tokenizer.eos_token_id,), ignore_eos=False),
        replace(base, id="full", prompt_ids=(9,) * (CONTEXT - 1)),
        replace(base, id="nearly full", prompt_ids=(9,) * (CONTEXT - 5)),
        replace(base, id="too long", prompt_ids=(9,) * CONTEXT),
    ]


def test_the_same_requests_get_the_same_completions(
    engine: VLLMEngine, fleet: OpenAIEngine, requests: list[Request]
) -> None:
    engine.reset_prefix_cache()
    ours = {c.id: c for c in engine.complete(requests)}
    theirs = {c.id: c for c in fleet.complete(requests)}
    assert ours.keys() == theirs.keys() == {r.id for r in requests}
    for request in requests:
        here, there = ours[request.id], theirs[request.id]
        if request.temperature:  # another seed stream would be no fault; the shape is what counts
            assert there.finish_reason == "stop"
            assert there.token_ids[-1] == 300 if request.stop_ids else there.text.endswith("]]<|im_end|>")
            continue
        assert (there.text, there.token_ids) == (here.text, here.token_ids), request.id
        assert there.finish_reason == here.finish_reason and bool(there.error) == bool(here.error)
        if here.error:
            continue
        assert there.logprobs.keys() == here.logprobs.keys()
        for place, entry in here.logprobs.items():
            assert there.logprobs[place] == {t: pytest.approx(v, abs=1e-3) for t, v in entry.items()}
    assert ours["logprobs"].logprobs.keys() == {0, 1, 2}, "else this shows little"
    assert ours["logprobs of frequent tokens"].logprobs
    assert [c.id for c in ours.values() if c.error] == ["too long"]


def test_a_sample_depends_on_its_own_seed_as_in_process(
    engine: VLLMEngine, fleet: OpenAIEngine, requests: list[Request]
) -> None:
    requests_by_seed = [
        replace(requests[0], id=f"s{n}", seed=n, temperature=1.0, top_p=0.95, ignore_eos=True)
        for n in range(8)
    ]
    here = {c.id: c.token_ids for c in engine.complete(requests_by_seed)}
    there = {c.id: c.token_ids for c in fleet.complete(reversed(requests_by_seed))}
    assert len(set(there.values())) == 8
    # All are equal here; a batch of another size may move the last bits, and a sample with them.
    assert sum(here[key] == there[key] for key in here) >= 7


def test_messages_are_rendered_by_the_server(
    url: str, fleet: OpenAIEngine, conversations: list[tuple[Message, ...]]
) -> None:
    done = {
        c.id: c
        for c in served(url, api="chat").complete(
            Request(str(n), (), 6, ignore_eos=True, messages=messages)
            for n, messages in enumerate(conversations)
        )
    }
    assert len(done) == len(conversations)
    for completion in done.values():
        assert completion.finish_reason == "length" and not completion.token_ids


def test_a_real_server_refuses_key_and_model(
    url: str, fleet: OpenAIEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request("x", (5, 6), 2)
    with pytest.raises(EngineError, match=r"server\.model: .* knows no model 'other'"):
        list(served(url, model="other").complete([request]))
    monkeypatch.setenv("FLEET_KEY", "wrong")
    with pytest.raises(EngineError, match=r"api_key_env: .* refuses the key \(HTTP 401\)"):
        list(served(url).complete([request]))
    assert [c.error for c in fleet.complete([request])] == [None]
