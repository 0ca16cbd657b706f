"""The student's log-probabilities: equal to the plain way, whatever the batch and the engine; a kill changes nothing."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import verdict_text
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.engines import ModelConfig
from reasongenrm.demo.world import toy_pairs
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.errors import EngineError
from reasongenrm.reasons import forward as score_shared
from reasongenrm.reasons import score
from reasongenrm.reasons.score import Group, Line, Scorer, lay_out, packs, score_reasons
from reasongenrm.reasons.score_transformers import Student
from reasongenrm.reasons.score_vllm import VLLMStudent
from reasongenrm.records import JudgePrompt, Reason, ScoredReason
from reasongenrm.store import PartStore, read_jsonl

BATCH_TOLERANCE = 1e-5
"""Nats per token by which a score may change with what it is batched with (float32 on CPU)."""

ENGINE_TOLERANCE = 1e-3
"""Nats per token between transformers and vLLM (float32 on CPU)."""

engine_test = pytest.mark.engine

Prompts = list[tuple[JudgePrompt, list[Reason]]]


def sampled(prompt: JudgePrompt, number: int, text: str, verdict: Any) -> Reason:
    return Reason(f"{prompt.id}#t#{number}", prompt.id, text, verdict, -1.0, 5, "stop", "nobody", "blind")


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
def scorer(student: ModelConfig, encoders: dict[str, ChatEncoder]) -> Student:
    return Student(student, encoders["reason"])


@pytest.fixture(scope="module")
def groups(prompts: Prompts, encoders: dict[str, ChatEncoder]) -> list[Group]:
    return [lay_out(encoders["reason"], prompt, reasons) for prompt, reasons in prompts]


def plain_scores(group: Group, line: Line, logprobs: Any) -> tuple[float, float]:
    """(mean log p(R | U), mean log p(A | U, R)) from log-softmaxes over the vocabulary at every position."""
    start, end = len(group.asked), len(group.asked) + len(line.ids)

    def mean(first: int, part: Sequence[int]) -> float:
        return math.fsum(float(logprobs[first + n - 1, token]) for n, token in enumerate(part)) / len(part)

    return mean(start, line.ids[: line.said]), mean(end - line.verdict, line.ids[-line.verdict :])


@pytest.fixture(scope="module")
def plainly(groups: list[Group], plain_logprobs: Any) -> dict[str, tuple[float, float]]:
    return {
        line.reason.id: plain_scores(group, line, plain_logprobs(group.asked + line.ids))
        for group in groups
        for line in group.lines
    }


def gap(scored: Iterable[ScoredReason], expected: dict[str, tuple[float, float]]) -> float:
    """The largest difference, less the rounding of stored values to six digits after the point."""
    pairs = [((s.reason_logprob, s.verdict_logprob), expected[s.id]) for s in scored]
    return max(abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)) - 1e-6


@engine_test
@pytest.mark.parametrize("way", ["shared", "padded", "single"])
@pytest.mark.parametrize("size", [1, 3, 40])
def test_scores_are_those_of_the_plain_way_in_any_batch(
    scorer: Student,
    groups: list[Group],
    plainly: dict[str, tuple[float, float]],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    way: str,
) -> None:
    assert scorer.way == "shared"
    monkeypatch.setattr(scorer, "way", way)
    shuffled = random.Random(size).sample(groups, len(groups))
    for start in range(0, len(shuffled), size):
        batch = shuffled[start : start + size]
        lines = [line for group in batch for line in group.lines]
        scored = scorer.score(batch)
        assert [s.id for s in scored] == [line.reason.id for line in lines]
        assert not scored or gap(scored, plainly) <= BATCH_TOLERANCE
        for one, line in zip(scored, lines, strict=True):
            assert (one.text, one.verdict, one.mode) == (line.reason.text, line.reason.verdict, "blind")
            assert one.tokens == line.said and one.teacher == "nobody"


@engine_test
def test_a_wrong_reason_is_scored_with_the_right_verdict(
    scorer: Student, prompts: Prompts, encoders: dict[str, ChatEncoder]
) -> None:
    prompt, reasons = next((p, r) for p, r in prompts if r)
    for verdict in ("A", "B"):
        group = lay_out(encoders["reason"], prompt, [replace(reasons[0], verdict=verdict)])
        assert (
            encoders["reason"].tokenizer.decode(group.lines[0].ids[-group.lines[0].verdict :])
            == f"[[{prompt.winner}]]"
        )
        [scored] = scorer.score([group])
        assert (scored.verdict, scored.winner) == (verdict, prompt.winner)


@engine_test
def test_the_line_is_what_the_judge_would_have_to_write(
    prompts: Prompts, encoders: dict[str, ChatEncoder]
) -> None:
    encoder = encoders["reason"]
    for prompt, reasons in prompts:
        group = lay_out(encoder, prompt, reasons)
        end = len(encoder.structure(encoder.end))
        assert list(group.asked) == encoder.encode(prompt.messages, generation=True)
        for reason, line in zip(reasons, group.lines, strict=True):
            assert list(line.ids) == encoder.completion(reason.text, verdict_text(prompt.winner))[:-end]
            assert encoder.tokenizer.decode(line.ids[: line.said]) == reason.text
            assert [line.ids[place] for place in line.scored] == [
                *line.ids[: line.said],
                *line.ids[-line.verdict :],
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
    ("name", "way"),
    [
        ("Llama", "shared"),
        ("Qwen3", "shared"),
        ("Mistral", "padded"),  # a sliding window that is shorter than what it is tried out with
        ("Gemma3Text", "shared"),  # a sliding window that some of the batches outgrow
        ("Gemma2", "single"),  # capped logits
        ("Bloom", "padded"),  # positions that stand in a mask (ALiBi)
    ],
)
def test_other_architectures_give_their_own_numbers(
    name: str, way: str, groups: list[Group], encoders: dict[str, ChatEncoder], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    groups = groups[2:7]
    student = Student(
        save_model(tmp_path, architecture(name, len(encoders["reason"].tokenizer))), encoders["reason"]
    )
    assert student.way == way
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    expected = {}
    for group in groups:
        for line in group.lines:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([[*group.asked, *line.ids]]), use_cache=False).logits[0]
            expected[line.reason.id] = plain_scores(group, line, torch.log_softmax(logits.double(), dim=-1))
    lengths = [len(group.asked) + len(line.ids) for group in groups for line in group.lines]
    assert name != "Gemma3Text" or min(lengths) < student.reach == 64 < max(lengths)
    assert gap(student.score(groups), expected) <= 2e-5
    assert gap([s for group in groups for s in student.score([group])], expected) <= 2e-5


class Dying:
    """The real student, which dies before its `lives + 1`-th batch."""

    def __init__(self, scorer: Scorer, lives: float) -> None:
        self.encoder, self._scorer, self._lives = scorer.encoder, scorer, lives

    def score(self, groups: Sequence[Group]) -> list[ScoredReason]:
        if self._lives == 0:
            raise KeyboardInterrupt
        self._lives -= 1
        return self._scorer.score(groups)


def never() -> Scorer:
    raise AssertionError("nothing is left to score, so no model is loaded")


@engine_test
@pytest.mark.parametrize(("batch_tokens", "lives"), [(1, 15), (400, 0), (400, 5), (4000, 1)])
def test_killed_scoring_ends_with_the_same_bytes(
    scorer: Student,
    prompts: Prompts,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    batch_tokens: int,
    lives: int,
) -> None:
    monkeypatch.setattr(score, "CHUNK", 4)
    reasons = [reason.id for _, reasons in prompts for reason in reasons]

    def run(final: Path, lives: float) -> list[int]:
        progress: list[int] = []
        score_reasons(
            iter(prompts),
            lambda: Dying(scorer, lives),
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
    lines = part.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == reasons[: sum(progress[:lives])], "kept in order"
    part.write_bytes(b"".join(lines)[:-50])  # the last line is torn
    assert sum(run(killed, math.inf)) == len(reasons)
    assert killed.read_bytes() == calm.read_bytes()
    assert [row["id"] for row in read_jsonl(calm)] == reasons
    score_reasons(iter(prompts), never, PartStore(calm), batch_tokens=batch_tokens)


@engine_test
def test_whole_chunks_that_are_done_are_not_laid_out_again(
    scorer: Student, prompts: Prompts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(score, "CHUNK", 2)
    with pytest.raises(KeyboardInterrupt):
        score_reasons(
            _dies_after(prompts, 6), lambda: scorer, PartStore(tmp_path / "s.jsonl"), batch_tokens=10**6
        )
    seen = []
    monkeypatch.setattr(score, "lay_out", lambda *asked: seen.append(asked[1].id) or lay_out(*asked))
    store = PartStore(tmp_path / "s.jsonl")
    score_reasons(iter(prompts), lambda: scorer, store, batch_tokens=10**6)
    assert seen == [prompt.id for prompt, _ in prompts[6:]] and store.finished


def _dies_after(prompts: Prompts, count: int) -> Any:
    yield from prompts[:count]
    raise KeyboardInterrupt


@pytest.mark.unit
@pytest.mark.parametrize("without_reasons", [0, 3])
def test_nothing_to_score_is_an_empty_file(tmp_path: Path, without_reasons: int) -> None:
    prompt = JudgePrompt("p", "pair", "AB", ({"role": "user", "content": "?"},), "A", "source")
    score_reasons(
        [(prompt, [])] * without_reasons, never, PartStore(tmp_path / "scored.jsonl"), batch_tokens=100
    )
    assert (tmp_path / "scored.jsonl").read_bytes() == b""


def made_group(number: int, asked: int, lines: Sequence[int]) -> Group:
    prompt = JudgePrompt(f"p{number}", "pair", "AB", (), "A", "source")
    made = tuple(
        Line(sampled(prompt, n, "x", "A"), (n,) * length, length - 1, 1) for n, length in enumerate(lines)
    )
    return Group(prompt, (0,) * asked, made)


@pytest.mark.unit
@given(
    st.lists(st.tuples(st.integers(1, 60), st.lists(st.integers(2, 40), max_size=5)), max_size=12),
    st.integers(1, 200),
)
def test_packs_hold_every_reason_once_in_order_and_stay_below_the_limit(
    sizes: list[tuple[int, list[int]]], batch_tokens: int
) -> None:
    groups = [made_group(number, asked, lines) for number, (asked, lines) in enumerate(sizes)]
    made = list(packs(groups, batch_tokens))

    def tokens(batch: Iterable[Group]) -> int:
        return sum(len(group.asked) + sum(len(line.ids) for line in group.lines) for group in batch)

    assert [(part.prompt.id, line) for batch in made for part in batch for line in part.lines] == [
        (group.prompt.id, line) for group in groups for line in group.lines
    ]
    assert all(part.lines for batch in made for part in batch), "a prompt without reasons is not computed"
    for batch in made:
        assert tokens(batch) <= batch_tokens or (len(batch) == 1 and len(batch[0].lines) == 1)
    for batch, following in pairwise(made):
        first = replace(following[0], lines=following[0].lines[:1])
        assert tokens([*batch, first]) > batch_tokens or len(following[0].lines) > 1, "batches are filled"


@pytest.mark.unit
@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.lists(st.integers(1, 60), min_size=1, max_size=6)),
        min_size=1,
        max_size=8,
    )
)
def test_a_plan_covers_the_packed_sequence_and_pads_little(sizes: list[tuple[int, list[int]]]) -> None:
    plan = score_shared.plan([asked for asked, _ in sizes], [lines for _, lines in sizes], "cpu")
    covered = [place for start, length in plan.segments for place in range(start, start + length)]
    assert covered == list(range(sum(asked + sum(lines) for asked, lines in sizes)))
    assert sorted(i for bucket in plan.buckets for i in bucket) == list(range(len(plan.segments)))
    for bucket in plan.buckets:
        lengths = [plan.segments[i][1] for i in bucket]
        assert lengths == sorted(lengths) and len(lengths) * lengths[-1] <= score_shared.PADDED * sum(lengths)
    crossed = [(own[1], prompt) for own, prompt in plan.crossings]
    assert crossed == [(sum(lines), plan.segments[i]) for i, (_, lines) in enumerate(sizes)]


@engine_test
def test_an_unknown_student_is_named(encoders: dict[str, ChatEncoder], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    with pytest.raises(EngineError, match=r"^model\.path: cannot load") as caught:
        Student(ModelConfig(path=str(tmp_path)), encoders["reason"])
    assert "\n" not in str(caught.value)


@engine_test
def test_vllm_gives_the_same_scores(
    engine: VLLMEngine,
    groups: list[Group],
    encoders: dict[str, ChatEncoder],
    plainly: dict[str, tuple[float, float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = VLLMStudent(engine, encoders["reason"])
    assert gap(judge.score(groups), plainly) <= ENGINE_TOLERANCE
    # Prompts of several cache blocks: one that ends with a block, reasons that share blocks beyond it.
    block = engine.cached_tokens
    source = groups[3]
    tokens = [token for group in groups for line in group.lines for token in line.ids]
    reason = source.lines[0]
    tail = reason.ids[reason.said :]
    longer = []
    for number, length in enumerate((block - 1, block, 2 * block, 2 * block + 7)):
        said = tokens[: block + 5]
        texts = [said, [*said[:-3], *tokens[9:12]], tokens[3:20], said]
        lines = [
            replace(
                reason, reason=replace(reason.reason, id=f"{number}#{n}"), ids=(*text, *tail), said=len(text)
            )
            for n, text in enumerate(texts)
        ]
        asked = tuple(tokens[50 + number : 50 + number + length])
        longer.append(Group(source.prompt, asked, tuple(lines)))
    firsts: list[list[int]] = []
    real = engine.prompt_logprobs

    def logprobs(sequences: Sequence[Sequence[int]]) -> Any:
        firsts.append([])
        for number, first, values in real(sequences):
            firsts[-1].append(first)
            yield number, first, values

    monkeypatch.setattr(engine, "prompt_logprobs", logprobs)
    scored = judge.score(longer)
    assert len(firsts) > 1, (
        "reasons that begin alike read each other from the cache, and the rest was asked for"
    )
    assert max(firsts[0]) > 2 * block, "prompts are read from the cache"
    again = Student(
        ModelConfig(path=engine._llm.model_config.model, dtype="float32"), encoders["reason"]
    ).score(longer)
    assert gap(scored, {s.id: (s.reason_logprob, s.verdict_logprob) for s in again}) <= ENGINE_TOLERANCE
    assert judge.score(longer) == scored, "a batch's scores do not depend on what was scored before"
    too_long = replace(longer[0], asked=tuple(tokens[:600]))
    with pytest.raises(EngineError, match=r"^engine\.max_model_len: "):
        judge.score([too_long])
