"""Plain transformers as an engine: samples by their own seeds, ends of completions, and no vLLM."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.engines import ModelConfig
from reasongenrm.config.scalar import TransformersConfig
from reasongenrm.engines.base import Request
from reasongenrm.engines.transformers import TransformersEngine
from reasongenrm.errors import EngineError

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def model(_one_thread: None, student: ModelConfig) -> Iterator[TransformersEngine]:
    """One answer at a time, on the tiny model."""
    running = TransformersEngine(student, TransformersConfig(kind="transformers"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def batched(model: TransformersEngine, student: ModelConfig) -> TransformersEngine:
    return TransformersEngine(student, TransformersConfig(kind="transformers", batch_size=4))


PROMPT = (40, 41, 42, 43, 44)


def sampled(count: int, **changes: Any) -> list[Request]:
    """Requests of several lengths, limits and temperatures."""
    return [
        Request(f"{n}", PROMPT[: 1 + n % 5], **{"max_tokens": 6 + n, "temperature": 0.5 + n / 8, "seed": n, "top_p": 0.9} | changes)
        for n in range(count)
    ]  # fmt: skip


def test_a_sample_depends_on_its_seed_and_not_on_its_batch(
    model: TransformersEngine, batched: TransformersEngine
) -> None:
    import torch

    requests = sampled(8)
    alone = list(model.complete(requests))
    assert [one.id for one in alone] == [one.id for one in requests]
    assert all(0 < one.tokens <= request.max_tokens for one, request in zip(alone, requests, strict=True))
    torch.manual_seed(5)  # no global state is read
    assert list(model.complete(requests[::-1])) == alone[::-1]
    assert list(batched.complete(requests)) == alone, "in float32 these samples survive the padding"
    other = list(model.complete(sampled(8, seed=99)))
    assert sum(a.token_ids == b.token_ids for a, b in zip(alone, other, strict=True)) <= 1


def test_without_temperature_it_is_the_greedy_choice_of_generate(
    model: TransformersEngine, student: ModelConfig
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(student.path, dtype=torch.float32)
    ids = plain.generate(torch.tensor([PROMPT]), do_sample=False, max_new_tokens=12)[
        0, len(PROMPT) :
    ].tolist()
    [own] = model.complete([Request("a", PROMPT, max_tokens=12, temperature=0)])
    assert list(own.token_ids) == ids and own.prompt_tokens == len(PROMPT)


def test_the_first_token_has_the_probabilities_of_temperature_and_nucleus(
    batched: TransformersEngine, student: ModelConfig
) -> None:
    """A chi-squared test against softmax(logits / T), cut at top_p."""
    import torch
    from scipy.stats import chisquare
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(student.path, dtype=torch.float32)
    with torch.inference_mode():
        logits = plain(torch.tensor([PROMPT])).logits[0, -1]
    top_p, count = 0.6, 400
    for temperature in (n / 100 for n in range(40, 5, -1)):  # the highest one with few tokens in the nucleus
        probabilities, order = torch.sort((logits.double() / temperature).softmax(0), descending=True)
        kept = int((probabilities.cumsum(0) < top_p).sum()) + 1
        if kept <= 40:
            break
    assert 3 <= kept <= 40
    expected = {
        int(t): float(p / probabilities[:kept].sum())
        for t, p in zip(order[:kept], probabilities, strict=False)
    }
    settings: dict[str, Any] = {"max_tokens": 1, "temperature": temperature, "top_p": top_p}
    requests = [Request(f"{seed}", PROMPT, seed=seed, **settings) for seed in range(count)]
    counts = Counter(one.token_ids[0] for one in batched.complete(requests))
    assert set(counts) <= set(expected)
    common = [token for token, p in expected.items() if p * count >= 8]
    observed = [counts[token] for token in common]
    rest = count - sum(observed)
    share = [expected[token] * count for token in common]
    if rest_share := count - sum(share):
        observed.append(rest)
        share.append(rest_share)
    assert chisquare(observed, share).pvalue > 1e-3


def test_where_a_completion_ends(model: TransformersEngine, batched: TransformersEngine) -> None:
    [whole] = model.complete([Request("a", PROMPT, max_tokens=12)])
    assert whole.finish_reason == "length" and whole.tokens == 12
    decode = model._tokenizer.decode
    stop = decode(whole.token_ids[3:4])
    first = next(n for n in range(12) if stop in decode(whole.token_ids[: n + 1]))
    requests = [
        Request("text", PROMPT, max_tokens=12, stop=(stop,)),
        Request("token", PROMPT, max_tokens=12, stop_ids=(whole.token_ids[5],)),
        Request("limit", PROMPT, max_tokens=2),
        Request("whole", PROMPT, max_tokens=12),
    ]
    text, token, limit, again = batched.complete(requests)
    assert (text.finish_reason, text.token_ids) == ("stop", whole.token_ids[: first + 1])
    assert text.text.endswith(stop) and text.text == decode(text.token_ids)
    place = whole.token_ids.index(whole.token_ids[5])
    assert (token.finish_reason, token.token_ids) == ("stop", whole.token_ids[: place + 1])
    assert (limit.finish_reason, limit.token_ids) == ("length", whole.token_ids[:2])
    assert again.token_ids == whole.token_ids


def test_the_end_token_of_the_model_ends_it_and_its_recommended_samplers_do_not_count(
    student: ModelConfig, model: TransformersEngine, tmp_path: Path
) -> None:
    import json
    import shutil

    [whole] = model.complete([Request("a", PROMPT, max_tokens=12)])
    folder = tmp_path / "model"
    shutil.copytree(student.path, folder)
    settings = {
        "eos_token_id": [whole.token_ids[4], 1],
        "repetition_penalty": 9.0,
        "top_k": 1,
        "do_sample": True,
    }
    (folder / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    other = TransformersEngine(
        ModelConfig(path=str(folder), dtype="float32"), TransformersConfig(kind="transformers")
    )
    [ended] = other.complete([Request("a", PROMPT, max_tokens=12)])
    place = whole.token_ids.index(whole.token_ids[4])
    assert (ended.finish_reason, ended.token_ids) == ("stop", whole.token_ids[: place + 1])


def test_it_needs_no_vllm(monkeypatch: pytest.MonkeyPatch, student: ModelConfig) -> None:
    from reasongenrm.answers.model import AnswerEngine

    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it is an error
    settings = {"model": student.model_dump(), "engine": {"kind": "transformers"}, "max_tokens": 5}
    with AnswerEngine(settings) as engine:
        answers = engine.candidates("name a lamp", 3)
        assert len(answers) == 3 and answers == engine.candidates("name a lamp", 3)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = TransformersConfig(kind="transformers")
    with pytest.raises(EngineError, match=r"model\.path: directory not found"):
        TransformersEngine(ModelConfig(path=str(tmp_path / "none")), config)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(EngineError, match=r"transformers cannot load .*check model\.path"):
        TransformersEngine(ModelConfig(path=str(tmp_path)), config)
