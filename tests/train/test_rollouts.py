"""Completions of two turns: which ids they have, and that a sample depends on weights, prompt and key alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from reasongenrm.chat.encoder import ChatEncoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.chat.verdict import read_completion
from reasongenrm.config.engines import ModelConfig
from reasongenrm.records import JudgePrompt, PreferencePair
from reasongenrm.train.rollouts import GenerateSampler, Rollout, TwoTurns, _draw, merged_weights

ROOT = Path(__file__).resolve().parents[2]
TOY_BASE = ROOT / "data" / "toy-base"
LIMIT = 40


@pytest.fixture(scope="module")
def toy_encoder() -> ChatEncoder:
    tokenizer = load_tokenizer(ModelConfig(path=str(TOY_BASE)))
    return ChatEncoder(tokenizer, (ROOT / "configs/prompts/reason.jinja").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def policy() -> Any:
    """The toy base with an adapter that has an effect."""
    base = AutoModelForCausalLM.from_pretrained(TOY_BASE, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.copy_(torch.randn(weights.shape, generator=generator) * 0.01)
    return model


@pytest.fixture(scope="module")
def prompts(toy_prompts: PromptFile) -> list[JudgePrompt]:
    pairs = [
        PreferencePair.make(
            [{"role": "user", "content": f"say {word} {times} times"}], f"{word} " * times, word, "toy-chat"
        )
        for times, word in enumerate(("apple", "bell", "coin"), 2)
    ]
    return [judge_prompt(pair, order, toy_prompts) for pair in pairs for order in ("AB", "BA")]


def sampled(
    policy: Any, encoder: ChatEncoder, prompts: list[JudgePrompt], keys: list[str], temperature: float = 1.0
) -> list[Rollout]:
    sampler = GenerateSampler(TwoTurns.from_encoder(encoder, LIMIT), temperature)
    ids = [encoder.encode(prompt.messages, generation=True) for prompt in prompts]
    return sampler.complete(policy, ids, keys, pad=encoder.tokenizer.pad_token_id)


@pytest.mark.unit
def test_join_gives_the_ids_of_a_record(judge_encoder: ChatEncoder) -> None:
    if not judge_encoder.reasons_first:
        pytest.skip("a judge without reasons is not trained by GRPO")
    turns = TwoTurns.from_encoder(judge_encoder, LIMIT)
    reason = [*judge_encoder.content("A is better ."), *turns.tokens.reason_end]
    logprobs = dict.fromkeys(turns.tokens.letters, -0.7)
    rollout = turns.join("x", reason, turns.tokens.letters[1], logprobs)
    ids = rollout.completion.token_ids
    assert list(ids) == judge_encoder.completion("A is better .", "[[B]]")
    written = [one for one, own in zip(ids, rollout.written, strict=True) if own]
    assert written == [*reason, turns.tokens.letters[1]]
    verdict = read_completion(
        JudgePrompt("x", "p", "AB", (), "A", "toy"), rollout.completion, judge_encoder, turns.tokens
    )
    assert (verdict.winner, verdict.prob_a, verdict.reason) == ("B", 0.5, "A is better .")
    assert len(ids) <= turns.longest


@pytest.mark.unit
def test_without_a_letter_nothing_follows(encoder: ChatEncoder) -> None:
    turns = TwoTurns.from_encoder(encoder, LIMIT)
    cut = turns.join("x", [5, 6], None, {})
    assert cut.completion.finish_reason == "length" and cut.written == (1, 1)
    [other] = encoder.content("x")
    junk = turns.join("x", [5, *turns.tokens.reason_end], other, {})
    assert junk.completion.token_ids[-1] == other
    for rollout in (cut, junk):
        prompt = JudgePrompt("x", "p", "AB", (), "A", "toy")
        assert read_completion(prompt, rollout.completion, encoder, turns.tokens).winner is None


@pytest.mark.unit
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_have_the_distribution_of_the_scores(temperature: float) -> None:
    scores = torch.tensor([[1.0, -2.0, 0.5, -torch.inf, 3.0]])
    count = 10_000
    uniform = ((torch.arange(count, dtype=torch.float64) + 0.5) / count)[:, None]
    chosen = _draw(scores.expand(count, -1), uniform, temperature)
    shares = torch.bincount(chosen, minlength=5) / count
    torch.testing.assert_close(
        shares.double(), torch.softmax(scores[0].double() / temperature, 0), atol=2e-4, rtol=0
    )


@pytest.mark.unit
def test_the_largest_uniform_number_stays_in_the_vocabulary() -> None:
    scores = torch.randn(4, 1000)
    last = torch.full((4, 1), 1 - 2**-53, dtype=torch.float64)
    assert int(_draw(scores, last, 1.0).max()) < 1000
    assert _draw(scores, last, 0.0).tolist() == scores.argmax(-1).tolist()


@pytest.mark.unit
def test_merged_weights_compute_the_same_and_are_restored(policy: Any) -> None:
    ids = torch.arange(20)[None] + 300
    before = {name: weights.clone() for name, weights in policy.named_parameters()}
    with torch.no_grad():
        expected = policy(input_ids=ids).logits
        with policy.disable_adapter():
            base = policy(input_ids=ids).logits
        with merged_weights(policy):
            merged = policy(input_ids=ids).logits
            assert not any(module.disable_adapters is False for module in _lora_layers(policy))
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-4)
    assert float((base - expected).abs().max()) > 0.01
    for name, weights in policy.named_parameters():
        assert torch.equal(weights, before[name])
        assert weights.requires_grad == ("lora_" in name)


def _lora_layers(model: Any) -> Iterator[Any]:
    from peft.tuners.lora import LoraLayer

    return (module for module in model.modules() if isinstance(module, LoraLayer))


@pytest.mark.engine
def test_a_sample_depends_on_its_key_and_not_on_its_batch(
    policy: Any, toy_encoder: ChatEncoder, prompts: list[JudgePrompt]
) -> None:
    repeated = [prompt for prompt in prompts for _ in range(4)]
    keys = [f"17 0 {number}" for number in range(len(repeated))]
    whole = sampled(policy, toy_encoder, repeated, keys)
    parts = [
        rollout
        for at in range(0, len(repeated), 6)
        for rollout in sampled(policy, toy_encoder, repeated[at : at + 6], keys[at : at + 6])
    ]
    texts = [rollout.completion.token_ids for rollout in whole]
    assert texts == [rollout.completion.token_ids for rollout in parts]
    others = sampled(policy, toy_encoder, repeated, [f"17 1 {number}" for number in range(len(repeated))])
    assert texts != [rollout.completion.token_ids for rollout in others]
    assert len(set(texts)) > len(prompts)  # samples of a prompt differ


@pytest.mark.engine
def test_every_written_id_is_the_likeliest_at_temperature_0(
    policy: Any, toy_encoder: ChatEncoder, prompts: list[JudgePrompt]
) -> None:
    """The weights W + BA, the padding, the shared prefix and the cache change no choice of plain forward passes."""
    rollouts = sampled(policy, toy_encoder, prompts, [prompt.id for prompt in prompts], 0.0)
    turns = TwoTurns.from_encoder(toy_encoder, LIMIT)
    ended = 0
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        ids = toy_encoder.encode(prompt.messages, generation=True)
        with torch.no_grad():
            logits = policy(input_ids=torch.tensor([[*ids, *rollout.completion.token_ids]])).logits[0]
        likeliest = logits.argmax(-1)[len(ids) - 1 : -1].tolist()
        for place, own in enumerate(rollout.written):
            assert not own or likeliest[place] == rollout.completion.token_ids[place]
        for place, values in rollout.completion.logprobs.items():
            ended += 1
            expected = torch.log_softmax(logits[len(ids) - 1 + place], -1)
            for letter, value in values.items():
                assert value == pytest.approx(float(expected[letter]), abs=1e-3)
        assert sum(rollout.written) <= turns.max_tokens + 1
    assert ended >= 4


class _Bias:
    """Makes an id follow two others: adds 1000 to its logit where these were read last."""

    def __init__(self, model: Any, followers: dict[tuple[int, int], int]) -> None:
        self.followers = followers
        self.before = self.last = torch.zeros(0)
        model.register_forward_pre_hook(self.read, with_kwargs=True)
        model.register_forward_hook(self.change)

    def read(self, model: Any, args: Any, kwargs: Any) -> None:
        self.before, self.last = self.last, kwargs["input_ids"][:, -1]

    def change(self, model: Any, args: Any, output: Any) -> None:
        for (one, other), after in self.followers.items():
            if len(self.before) == len(self.last):
                output.logits[(self.before == one) & (self.last == other), -1, after] += 1000


@pytest.mark.engine
def test_the_template_think(policy: Any, prompts: list[JudgePrompt], think: ChatEncoder) -> None:
    """The base knows no think tags: it is made to write one word between them, and to name A."""
    model = copy.deepcopy(policy)
    model.get_base_model().resize_token_embeddings(len(think.tokenizer))
    turns = TwoTurns.from_encoder(think, LIMIT)
    [word] = think.content("apple")
    chain = [*think.encode(prompts[0].messages, generation=True)[-2:], word, *turns.tokens.reason_end]
    chain = [*chain, *turns.before[-2:], turns.tokens.letters[0]]
    _Bias(model.get_base_model(), {(a, b): c for a, b, c in zip(chain, chain[1:], chain[2:], strict=False)})
    for prompt, rollout in zip(prompts, sampled(model, think, prompts, list("abcdef")), strict=True):
        assert list(rollout.completion.token_ids) == think.completion("apple", "[[A]]")
        assert sum(rollout.written) == 1 + len(turns.tokens.reason_end) + 1
        verdict = read_completion(prompt, rollout.completion, think, turns.tokens)
        assert verdict.winner == "A" and verdict.prob_a == pytest.approx(1)
