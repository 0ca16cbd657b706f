"""The thoughts of a served reasoning model arrive with its answer, whether or not the server's parser cuts them out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.thoughts import split_thoughts
from reasongenrm.config.engines import OpenAIConfig
from reasongenrm.engines.base import Request
from reasongenrm.engines.openai import OpenAIEngine
from reasongenrm.records import Message
from support.vllm_server import vllm_server

pytestmark = [pytest.mark.engine, pytest.mark.slow]

KEY = "not-a-secret-of-anyone"
TAGS = ("<think>", "</think>")


@pytest.fixture(scope="module")
def thinker(toy_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An untrained model whose tokenizer has think tags, as those of reasoning models: added, but not special."""
    from reasongenrm.demo.base import untrained_model

    tokenizer = copy.deepcopy(toy_tokenizer)
    assert tokenizer.add_tokens(list(TAGS)) == 2
    folder = tmp_path_factory.mktemp("thinker")
    untrained_model(
        tokenizer, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder, tokenizer


@pytest.fixture(scope="module")
def url(thinker: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    options = (
        "--served-model-name",
        "thinker",
        "--max-model-len",
        "512",
        "--reasoning-parser",
        "deepseek_r1",
    )
    with vllm_server(thinker[0], KEY, tmp_path_factory.mktemp("server") / "log", options) as address:
        yield address


@pytest.fixture
def requests(thinker: tuple[Path, Any]) -> list[Request]:
    """Samples of words and closing tags: some close their thoughts, and one has no closing tag to sample."""
    tokenizer = thinker[1]
    words = tokenizer(" the better answer is", add_special_tokens=False)["input_ids"]
    [close] = tokenizer("</think>", add_special_tokens=False)["input_ids"]
    messages: tuple[Message, ...] = ({"role": "user", "content": "which ?"},)
    ids = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
    base = Request("", tuple(ids), 8, temperature=2.0, ignore_eos=True, messages=messages, thoughts=True)
    closing = [replace(base, id=f"r{n}", seed=n, allowed=(*words, close, close)) for n in range(12)]
    return [*closing, replace(base, id="open", seed=1, allowed=tuple(words))]


def served(url: str, api: Any, monkeypatch: pytest.MonkeyPatch) -> OpenAIEngine:
    monkeypatch.setenv("FLEET_KEY", KEY)
    config = OpenAIConfig(
        kind="openai", urls=[url], model="thinker", api=api, api_key_env="FLEET_KEY", timeout=120
    )
    return OpenAIEngine(config, max_model_len=512, key="teachers.fleet.server")


def test_thoughts_arrive_by_both_apis(
    url: str, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = {c.id: c.text for c in served(url, "chat", monkeypatch).complete(requests)}
    raw = {c.id: c.text for c in served(url, "completions", monkeypatch).complete(requests)}
    cut = [replace(request, thoughts=False) for request in requests]
    answers = {c.id: c.text for c in served(url, "chat", monkeypatch).complete(cut)}
    closed = 0
    for name, text in raw.items():
        thoughts, answer = split_thoughts(chat[name])
        if TAGS[1] not in text:
            assert (thoughts, answer) == (text.strip(), None) and answers[name] == ""
            continue
        closed += 1
        # The parser cuts at the first closing tag, and a text is cut at the last: where there is one, they agree.
        # An answer without text arrives like none.
        if text.count(TAGS[1]) == 1:
            assert (thoughts, answer or "") == split_thoughts(text)
        assert answers[name].strip() == text.partition(TAGS[1])[2].strip()
    assert closed >= 6 and TAGS[1] not in raw["open"], "else this shows little"
