"""Scores of the student: equal to a plain log-softmax for every batch and engine, and unchanged by a kill."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.engines import ModelConfig
from reasongenrm.demo.world import toy_pairs
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.errors import EngineError
from reasongenrm.reasons import forward, score
from reasongenrm.reasons.score import (
    BatchScorer,
    Continuation,
    EncodedGroup,
    Scorer,
    encode_group,
    group_batches,
    score_reasons,
)
from reasongenrm.reasons.student import Student, vllm_scores
from reasongenrm.records import JudgePrompt, Reason, ScoredReason
from reasongenrm.store import PartStore, read_jsonl

BATCH_TOLERANCE = 1e-5
"""Nats per token by which a score may change with what it is batched with (float32 on CPU)."""

ENGINE_TOLERANCE = 1e-3
"""Nats per token between transformers and vLLM (float32 on CPU)."""

engine_test = pytest.mark.engine

Prompts = list[tuple[JudgePrompt, list[Reason]]]


def sampled(prompt: JudgePrompt, number: int, text: str, verdict: Any) -> Reason:
    return Reason(f"{prompt.id}#t#{number}", prompt.id, text, verdict, 5, "stop", "nobody", "blind")


@pytest.fixture(scope="module")
def prompts(toy_prompts: PromptFile) -> Prompts:
    """Ten prompts with 0 to 4 reasons, from one word to a hundred, some with text that looks like structure, some
    wrong, two alike, two with one long beginning."""
    rng = random.Random(6)
    words = [*"so A is right , café [[B]] <|im_end|> <|im_start|>assistant 雪".split(), "\n"]
    made = []
    for index, (pair, order) in enumerate(zip(toy_pairs("train", 5, seed=2), ["AB", "BA"] * 10, strict=True)):
        prompt = judge_prompt(pair, order, toy_prompts)  # type: ignore[arg-type]
        texts = [
            " ".join(rng.choices(words, k=rng.choice((1, 3, 20, 100))))
            for _ in range((2, 0, 1, 4, 3)[index % 5])
        ]
        made.append((prompt, [sampled(prompt, n, text, rng.choice("AB")) for n, text in enumerate(texts)]))
    prompt, reasons = made[3]
    long = " ".join(rng.choices(words, k=70))
    texts = [long + " so A", long + " but not B", long + " so A", "no"]
    made[3] = prompt, [replace(reason, text=text) for reason, text in zip(reasons, texts, strict=True)]
    return made


@pytest.fixture(scope="module")
def scorer(student: ModelConfig) -> Student:
    return Student(student)


@pytest.fixture(scope="module")
def groups(prompts: Prompts, encoders: dict[str, ChatEncoder]) -> list[EncodedGroup]:
    return [encode_group(encoders["reason"], prompt, reasons) for prompt, reasons in prompts]


def plain_scores(group: EncodedGroup, continuation: Continuation, logprobs: Any) -> tuple[float, float]:
    """(mean log p(R | U), mean log p(A | U, R)) from log-softmaxes over the vocabulary at every position."""
    start, end = len(group.prompt_ids), len(group.prompt_ids) + len(continuation.ids)

    def mean(first: int, part: Sequence[int]) -> float:
        return math.fsum(float(logprobs[first + n - 1, token]) for n, token in enumerate(part)) / len(part)

    return mean(start, continuation.ids[: continuation.reason_tokens]), mean(
        end - continuation.verdict_tokens, continuation.ids[-continuation.verdict_tokens :]
    )


@pytest.fixture(scope="module")
def expected_scores(groups: list[EncodedGroup], plain_logprobs: Any) -> dict[str, tuple[float, float]]:
    return {
        continuation.reason.id: plain_scores(
            group, continuation, plain_logprobs(group.prompt_ids + continuation.ids)
        )
        for group in groups
        for continuation in group.continuations
    }


def gap(scored: Iterable[ScoredReason], expected: dict[str, tuple[float, float]]) -> float:
    """The largest difference, less the rounding of stored values to six digits after the point."""
    pairs = [((s.reason_logprob, s.verdict_logprob), expected[s.id]) for s in scored]
    return max(abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)) - 1e-6


@engine_test
@pytest.mark.parametrize("method", ["shared", "single"])
@pytest.mark.parametrize("size", [1, 3, 40])
def test_scores_equal_plain_log_softmax_in_any_batch(
    scorer: Student,
    groups: list[EncodedGroup],
    expected_scores: dict[str, tuple[float, float]],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    method: str,
) -> None:
    assert scorer.method == "shared"
    monkeypatch.setattr(scorer, "method", method)
    shuffled = random.Random(size).sample(groups, len(groups))
    for start in range(0, len(shuffled), size):
        batch = shuffled[start : start + size]
        continuations = [continuation for group in batch for continuation in group.continuations]
        scored = scorer.score(batch)
        assert [s.id for s in scored] == [continuation.reason.id for continuation in continuations]
        assert not scored or gap(scored, expected_scores) <= BATCH_TOLERANCE
        for one, continuation in zip(scored, continuations, strict=True):
            assert (one.text, one.verdict, one.mode) == (
                continuation.reason.text,
                continuation.reason.verdict,
                "blind",
            )
            assert one.tokens == continuation.reason_tokens and one.teacher == "nobody"


@engine_test
def test_a_wrong_reason_is_scored_with_the_right_verdict(
    scorer: Student, prompts: Prompts, encoders: dict[str, ChatEncoder]
) -> None:
    prompt, reasons = next((p, r) for p, r in prompts if r)
    for verdict in ("A", "B"):
        group = encode_group(encoders["reason"], prompt, [replace(reasons[0], verdict=verdict)])
        assert (
            encoders["reason"].tokenizer.decode(
                group.continuations[0].ids[-group.continuations[0].verdict_tokens :]
            )
            == f"[[{prompt.winner}]]"
        )
        [scored] = scorer.score([group])
        assert (scored.verdict, scored.winner) == (verdict, prompt.winner)


@engine_test
def test_a_continuation_is_what_the_judge_would_have_to_write(
    prompts: Prompts, encoders: dict[str, ChatEncoder]
) -> None:
    encoder = encoders["reason"]
    for prompt, reasons in prompts:
        group = encode_group(encoder, prompt, reasons)
        end = len(encoder.structure(encoder.end_marker))
        assert list(group.prompt_ids) == encoder.encode(prompt.messages, generation=True)
        for reason, continuation in zip(reasons, group.continuations, strict=True):
            assert (
                list(continuation.ids)
                == encoder.completion(reason.text, encoder.grammar.text(prompt.winner))[:-end]
            )
            assert encoder.tokenizer.decode(continuation.ids[: continuation.reason_tokens]) == reason.text
            assert [continuation.ids[place] for place in continuation.scored_positions] == [
                *continuation.ids[: continuation.reason_tokens],
                *continuation.ids[-continuation.verdict_tokens :],
            ]


def save_model(folder: Path, config: Any) -> ModelConfig:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    return ModelConfig(path=str(folder), dtype="float32")


SIZES = dict(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    initializer_range=0.2,  # so that attention is far from even, and a wrong mask shows
    pad_token_id=0,
    bos_token_id=None,
    eos_token_id=None,
)


def architecture(name: str, vocabulary: int) -> Any:
    import transformers

    special: dict[str, dict[str, Any]] = {
        "Mistral": dict(sliding_window=16),
        "Gemma2": dict(sliding_window=16, query_pre_attn_scalar=16),
        "Gemma3Text": dict(sliding_window=64, layer_types=["sliding_attention", "full_attention"]),
        "Qwen3": dict(attention_bias=True),
        "Bloom": dict(n_layer=2, n_head=4),
    }
    return getattr(transformers, f"{name}Config")(vocab_size=vocabulary, **(SIZES | special.get(name, {})))


@engine_test
@pytest.mark.parametrize(
    ("name", "method", "event"),
    [
        ("Llama", "shared", ""),
        ("Qwen3", "shared", ""),
        ("Mistral", "single", "change a token's log-probability"),  # a sliding window below what is compared
        ("Gemma3Text", "shared", "window of that length"),  # some of the batches outgrow it
        ("Gemma2", "single", "attention with softcap"),  # capped logits
        ("Bloom", "single", "change a token's log-probability"),  # positions that stand in a mask (ALiBi)
    ],
)
def test_scores_of_other_architectures_equal_their_own_logits(
    name: str,
    method: str,
    event: str,
    groups: list[EncodedGroup],
    encoders: dict[str, ChatEncoder],
    tmp_path: Path,
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    groups = groups[2:7]
    events: list[str] = []
    student = Student(
        save_model(tmp_path, architecture(name, len(encoders["reason"].tokenizer))), events.append
    )
    assert student.method == method
    assert len(events) == (method == "single")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    expected = {}
    for group in groups:
        for continuation in group.continuations:
            with torch.inference_mode():
                logits = model(
                    input_ids=torch.tensor([[*group.prompt_ids, *continuation.ids]]), use_cache=False
                ).logits[0]
            expected[continuation.reason.id] = plain_scores(
                group, continuation, torch.log_softmax(logits.double(), dim=-1)
            )
    lengths = [
        len(group.prompt_ids) + len(continuation.ids)
        for group in groups
        for continuation in group.continuations
    ]
    assert name != "Gemma3Text" or min(lengths) < student.window == 64 < max(lengths)
    assert gap(student.score(groups), expected) <= 2e-5
    assert gap([s for group in groups for s in student.score([group])], expected) <= 2e-5
    assert len(events) == bool(event), "said once"
    assert all("one reason at a time" in line and event in line for line in events)


@engine_test
def test_a_kernel_that_is_missing_is_said_aloud(
    student: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "_attend_on_cpu", forward._attend_on_cuda)  # its op has no CPU kernel
    events: list[str] = []
    assert Student(student, events.append).method == "single"
    [line] = events
    assert "one reason at a time" in line and "aten::_flash_attention_forward" in line


@engine_test
def test_a_batch_that_does_not_fit_into_memory_names_a_smaller_one(
    scorer: Student, groups: list[EncodedGroup], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(forward, "shared_logprobs", full)
    tokens = sum(
        len(g.prompt_ids) + sum(len(c.ids) for c in g.continuations) for g in groups if g.continuations
    )
    with pytest.raises(EngineError, match=r"^select\.batch_tokens: ") as caught:
        scorer.score(groups)
    assert f"set select.batch_tokens={tokens // 2};" in caught.value.hint


def dying(scorer: Student, lives: float) -> Scorer:
    """Return the real student's scorer, which dies before its `lives + 1`-th batch."""
    batches = 0

    def score(groups: Sequence[EncodedGroup]) -> list[ScoredReason]:
        nonlocal batches
        if batches == lives:
            raise KeyboardInterrupt
        batches += 1
        return scorer.score(groups)

    return score


def in_turn(load: Callable[[], Scorer]) -> BatchScorer:
    """Score batches one after the other, by a scorer that is loaded for the first."""

    def score_batches(batches: Iterable[list[EncodedGroup]]) -> Iterator[list[ScoredReason]]:
        scorer: Scorer | None = None
        for batch in batches:
            scorer = scorer or load()
            yield scorer(batch)

    return score_batches


def never() -> Scorer:
    raise AssertionError("nothing is left to score, so no model is loaded")


@engine_test
@pytest.mark.parametrize(("batch_tokens", "lives"), [(1, 15), (400, 0), (400, 5), (4000, 1)])
def test_killed_scoring_ends_with_the_same_bytes(
    scorer: Student,
    prompts: Prompts,
    encoders: dict[str, ChatEncoder],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    batch_tokens: int,
    lives: int,
) -> None:
    monkeypatch.setattr(score, "CHUNK", 4)
    encoder = encoders["reason"]
    reasons = [reason.id for _, reasons in prompts for reason in reasons]

    def run(final: Path, lives: float) -> list[int]:
        progress: list[int] = []
        score_reasons(
            iter(prompts),
            in_turn(lambda: dying(scorer, lives)),
            encoder,
            PartStore(final),
            batch_tokens=batch_tokens,
            progress=progress.append,
        )
        return progress

    calm, killed = tmp_path / "calm.jsonl", tmp_path / "killed.jsonl"
    progress = run(calm, math.inf)
    assert sum(progress) == len(reasons) and (batch_tokens > 1 or set(progress) == {1})
    assert len(progress) > lives, "enough batches to die in"
    with pytest.raises(KeyboardInterrupt):
        run(killed, lives)
    part = PartStore(killed).part
    continuations = part.read_bytes().splitlines(keepends=True)
    assert [json.loads(continuation)["id"] for continuation in continuations] == reasons[
        : sum(progress[:lives])
    ], "kept in order"
    part.write_bytes(b"".join(continuations)[:-50])  # the last line is torn
    assert sum(run(killed, math.inf)) == len(reasons)
    assert killed.read_bytes() == calm.read_bytes()
    assert [row["id"] for row in read_jsonl(calm)] == reasons
    score_reasons(iter(prompts), in_turn(never), encoder, PartStore(calm), batch_tokens=batch_tokens)


@engine_test
def test_another_batch_size_continues_what_was_interrupted(
    scorer: Student, prompts: Prompts, encoders: dict[str, ChatEncoder], tmp_path: Path
) -> None:
    def run(final: Path, lives: float, batch_tokens: int) -> dict[str, ScoredReason]:
        store = PartStore(final)
        load = lambda: dying(scorer, lives)  # noqa: E731
        score_reasons(iter(prompts), in_turn(load), encoders["reason"], store, batch_tokens=batch_tokens)
        return {row["id"]: ScoredReason(**row) for row in read_jsonl(final)}

    calm = run(tmp_path / "calm.jsonl", math.inf, 300)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "other.jsonl", 4, 300)
    other = run(tmp_path / "other.jsonl", math.inf, 2000)
    assert list(other) == list(calm), "every reason once, in order"
    expected = {s.id: (s.reason_logprob, s.verdict_logprob) for s in calm.values()}
    assert gap(other.values(), expected) <= BATCH_TOLERANCE


@engine_test
def test_the_letter_alone_is_scored_at_the_token_in_which_the_verdicts_differ(
    scorer: Student, prompts: Prompts, encoders: dict[str, ChatEncoder], plain_logprobs: Any, tmp_path: Path
) -> None:
    encoder = encoders["reason"]
    store = PartStore(tmp_path / "scored.jsonl")
    score_reasons(prompts, in_turn(lambda: scorer.score), encoder, store, batch_tokens=400, letter_only=True)
    scored = {row["id"]: row for row in read_jsonl(tmp_path / "scored.jsonl")}
    assert len(scored) == sum(len(reasons) for _, reasons in prompts)
    for prompt, reasons in prompts:
        asked = encoder.encode(prompt.messages, generation=True)
        for reason in reasons:
            opening = encoder.structure(encoder.reason_verdict_separator) + encoder.content("[[")
            [letter] = encoder.content(prompt.winner)
            before = [*asked, *encoder.content(reason.text), *opening]
            logprobs = plain_logprobs((*before, letter))
            assert scored[reason.id]["verdict_logprob"] == pytest.approx(
                float(logprobs[len(before) - 1, letter]), abs=2e-5
            )


@engine_test
def test_completed_chunks_are_not_encoded_again(
    scorer: Student,
    prompts: Prompts,
    encoders: dict[str, ChatEncoder],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(score, "CHUNK", 2)
    encoder, store = encoders["reason"], PartStore(tmp_path / "s.jsonl")
    with pytest.raises(KeyboardInterrupt):
        score_reasons(
            _dies_after(prompts, 6), in_turn(lambda: scorer.score), encoder, store, batch_tokens=10**6
        )
    seen: list[str] = []

    def noting(encoder: ChatEncoder, prompt: JudgePrompt, *rest: Any) -> EncodedGroup:
        seen.append(prompt.id)
        return encode_group(encoder, prompt, *rest)

    monkeypatch.setattr(score, "encode_group", noting)
    store = PartStore(tmp_path / "s.jsonl")
    score_reasons(iter(prompts), in_turn(lambda: scorer.score), encoder, store, batch_tokens=10**6)
    assert seen == [prompt.id for prompt, reasons in prompts[6:] if reasons] and store.finished


def _dies_after(prompts: Prompts, count: int) -> Any:
    yield from prompts[:count]
    raise KeyboardInterrupt


@pytest.mark.unit
@pytest.mark.parametrize("without_reasons", [0, 3])
def test_nothing_to_score_is_an_empty_file(
    encoders: dict[str, ChatEncoder], tmp_path: Path, without_reasons: int
) -> None:
    prompt = JudgePrompt("p", "pair", "AB", ({"role": "user", "content": "?"},), "A", "source")
    store = PartStore(tmp_path / "scored.jsonl")
    score_reasons(
        [(prompt, [])] * without_reasons, in_turn(never), encoders["reason"], store, batch_tokens=100
    )
    assert (tmp_path / "scored.jsonl").read_bytes() == b""


def made_group(number: int, prompt_ids: int, continuations: Sequence[int]) -> EncodedGroup:
    prompt = JudgePrompt(f"p{number}", "pair", "AB", (), "A", "source")
    made = tuple(
        Continuation(sampled(prompt, n, "x", "A"), (n,) * length, length - 1, 1)
        for n, length in enumerate(continuations)
    )
    return EncodedGroup(prompt, (0,) * prompt_ids, made)


@pytest.mark.unit
@given(
    st.lists(st.tuples(st.integers(1, 60), st.lists(st.integers(2, 40), max_size=5)), max_size=12),
    st.integers(1, 200),
)
def test_batches_hold_every_reason_once_in_order_and_stay_below_the_limit(
    sizes: list[tuple[int, list[int]]], batch_tokens: int
) -> None:
    groups = [
        made_group(number, prompt_ids, continuations)
        for number, (prompt_ids, continuations) in enumerate(sizes)
    ]
    made = list(group_batches(groups, batch_tokens))

    def tokens(batch: Iterable[EncodedGroup]) -> int:
        return sum(
            len(group.prompt_ids) + sum(len(continuation.ids) for continuation in group.continuations)
            for group in batch
        )

    assert [
        (part.prompt.id, continuation)
        for batch in made
        for part in batch
        for continuation in part.continuations
    ] == [(group.prompt.id, continuation) for group in groups for continuation in group.continuations]
    assert all(part.continuations for batch in made for part in batch), (
        "a prompt without reasons is not computed"
    )
    for batch in made:
        assert tokens(batch) <= batch_tokens or (len(batch) == 1 and len(batch[0].continuations) == 1)
    for batch, following in pairwise(made):
        first = replace(following[0], continuations=following[0].continuations[:1])
        assert tokens([*batch, first]) > batch_tokens or len(following[0].continuations) > 1, (
            "batches are filled"
        )


@engine_test
def test_an_unknown_student_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    with pytest.raises(EngineError, match=r"^model\.path: cannot load") as caught:
        Student(ModelConfig(path=str(tmp_path)))
    assert "\n" not in str(caught.value)


@engine_test
def test_vllm_gives_the_same_scores(
    engine: VLLMEngine,
    groups: list[EncodedGroup],
    expected_scores: dict[str, tuple[float, float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert gap(vllm_scores(engine, groups), expected_scores) <= ENGINE_TOLERANCE
    # Prompts of several cache blocks: one that ends with a block, reasons that share blocks beyond it.
    block = engine.cached_tokens
    source = groups[3]
    tokens = [token for group in groups for continuation in group.continuations for token in continuation.ids]
    reason = source.continuations[0]
    tail = reason.ids[reason.reason_tokens :]
    longer = []
    for number, length in enumerate((block - 1, block, 2 * block, 2 * block + 7)):
        reason_tokens = tokens[: block + 5]
        texts = [reason_tokens, [*reason_tokens[:-3], *tokens[9:12]], tokens[3:20], reason_tokens]
        continuations = [
            replace(
                reason,
                reason=replace(reason.reason, id=f"{number}#{n}"),
                ids=(*text, *tail),
                reason_tokens=len(text),
            )
            for n, text in enumerate(texts)
        ]
        prompt_ids = tuple(tokens[50 + number : 50 + number + length])
        longer.append(EncodedGroup(source.prompt, prompt_ids, tuple(continuations)))
    firsts: list[list[int]] = []
    real = engine.prompt_logprobs

    def logprobs(sequences: Sequence[Sequence[int]]) -> Any:
        firsts.append([])
        for number, first, values in real(sequences):
            firsts[-1].append(first)
            yield number, first, values

    monkeypatch.setattr(engine, "prompt_logprobs", logprobs)
    scored = vllm_scores(engine, longer)
    assert len(firsts) > 1, (
        "reasons that begin alike read each other from the cache, and the rest was asked for"
    )
    assert max(firsts[0]) > 2 * block, "prompts are read from the cache"
    again = Student(ModelConfig(path=engine._llm.model_config.model, dtype="float32")).score(longer)
    assert gap(scored, {s.id: (s.reason_logprob, s.verdict_logprob) for s in again}) <= ENGINE_TOLERANCE
    assert vllm_scores(engine, longer) == scored, "a batch's scores do not depend on what was scored before"
    too_long = replace(longer[0], prompt_ids=tuple(tokens[:600]))
    with pytest.raises(EngineError, match=r"^engine\.max_model_len: "):
        vllm_scores(engine, [too_long])
