"""The judge of judges: its training pairs, which votes count, and a head that learns right from wrong."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.grammar import DEFAULT_GRAMMAR
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.errors import ConfigError, EngineError
from reasongenrm.judge.ask import VerdictTask
from reasongenrm.judge.listwise import ListTask
from reasongenrm.records import JudgePrompt, Verdict
from reasongenrm.scalar.meta import MetaScores, better_half, judgement_pairs, judgement_text
from reasongenrm.store import PartStore, read_jsonl
from reasongenrm.train.scalar import train_scalar
from support.heads import sentence
from support.judgements import (
    RIGHT,
    WRONG,
    judge_prompts,
    judgements,
    meta_config,
    pair_texts,
    reason,
)

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def head(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head trained on judgements whose reasons hold `good` where they are right."""
    prompts = judge_prompts(150, 0)
    pairs = list(judgement_pairs(judgements(prompts, 1), DEFAULT_GRAMMAR))
    folder = tmp_path_factory.mktemp("run") / "meta"
    train_scalar(pairs, meta_config(base), output_dir=folder, seed=1, key="meta")
    return folder


def votes(prompt: JudgePrompt, rights: Sequence[bool | None], seed: int = 5) -> list[Verdict]:
    """Votes with a right, a wrong or (None) no verdict, P(winner) 0.9."""
    source = random.Random(seed)
    some = []
    for number, right in enumerate(rights):
        winner = None if right is None else prompt.winner if right else "AB".replace(prompt.winner, "")
        text = sentence(source, RIGHT if right else WRONG)
        prob = None if winner is None else 0.9 if winner == "A" else 0.1
        outcome = "unparsed" if winner is None else "ok"
        name = f"{prompt.id}#{number}"
        some.append(Verdict(name, prompt.pair_id, prompt.pair_order, winner, prob, outcome, text, tokens=3))  # type: ignore[arg-type]
    return some


def test_its_card_says_that_it_scores_judgements(head: Path) -> None:
    card = (head / "README.md").read_text(encoding="utf-8")
    assert "# A judge of judges" in card and "A scalar reward model" not in card


# --- training data


def test_a_judgement_is_its_reason_and_its_verdict() -> None:
    assert judgement_text("A is right .", "A", DEFAULT_GRAMMAR) == "A is right .\n[[A]]"
    assert judgement_text("", "B", DEFAULT_GRAMMAR) == "[[B]]"
    assert judgement_text("even .", "tie", DEFAULT_GRAMMAR) == "even ."


def test_every_judgement_is_in_a_pair_with_one_of_the_other_kind() -> None:
    [prompt] = judge_prompts(1, 0)
    source = random.Random(0)
    right = [reason(prompt, n, right=True, source=source) for n in range(3)]
    wrong = [reason(prompt, n, right=False, source=source) for n in range(3, 5)]
    changes: list[dict[str, Any]] = [{"verdict": None}, {"finish_reason": "length"}, {"mode": "hindsight"}]
    unused = [replace(wrong[0], **change) for change in changes]
    pairs = list(judgement_pairs([(prompt, [*wrong, *unused, *right])], DEFAULT_GRAMMAR))
    expected = [
        (f"{r.text}\n[[A]]", f"{w.text}\n[[B]]") for r, w in zip(right, [*wrong, wrong[0]], strict=True)
    ]
    assert pair_texts(iter(pairs)) == expected
    assert all((pair.history, pair.source) == (prompt.messages, "s") for pair in pairs)


def test_a_prompt_with_judgements_of_one_kind_has_no_pair() -> None:
    right_only = [(prompt, reasons[:1]) for prompt, reasons in judgements(judge_prompts(2, 0), 1)]
    assert list(judgement_pairs(right_only, DEFAULT_GRAMMAR)) == []


# --- which votes count


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([1.0], [0]),
        ([1.0, 2.0], [1]),
        ([1, 3, 2], [1, 2]),
        ([5, 5, 5, 5], [0, 1]),
        ([], []),
        ([1, 9, 2, 8, 0], [1, 2, 3]),
    ],
)
def test_the_better_half_is_kept_in_its_order(scores: list[float], kept: list[int]) -> None:
    [prompt] = judge_prompts(1, 0)
    some = votes(prompt, [True] * len(scores))
    assert better_half(some, scores) == [some[place] for place in kept]


def task(head: Path | None, *, combine: str = "meta", scores: PartStore | None = None) -> VerdictTask:
    config = JudgingConfig.model_validate({"combine": combine, "meta": head and str(head)})
    return VerdictTask(config, None, 4096, seed=17, scores=scores)


def test_a_right_minority_wins(head: Path) -> None:
    prompts = judge_prompts(40, 99)
    voted = [(prompt, votes(prompt, [False, True, False, True, False, None])) for prompt in prompts]
    right = dict.fromkeys(("mean", "majority", "meta"), 0)
    for how in right:
        for (prompt, some), total in zip(voted, task(head, combine=how).combine_all(voted), strict=True):
            right[how] += total.winner == prompt.winner
            assert total.votes == tuple(vote.winner for vote in some) and total.tokens == 18
    assert right["mean"] == right["majority"] == 0, "three of five readable votes are wrong"
    assert right["meta"] >= 36


def test_one_prompt_is_combined_as_many_are(head: Path) -> None:
    prompts = judge_prompts(6, 98)
    voted = [(prompt, votes(prompt, [False, True, False, True])) for prompt in prompts]
    together = list(task(head).combine_all(voted))
    assert [task(head).combine(prompt, some).winner for prompt, some in voted] == [t.winner for t in together]
    unread = task(head).combine(prompts[0], votes(prompts[0], [None, None]))
    assert (unread.winner, unread.outcome, unread.tokens) == (None, "unparsed", 6)


def test_scores_are_kept_and_the_head_is_not_needed_again(head: Path, tmp_path: Path) -> None:
    prompts = judge_prompts(5, 97)
    voted = [(prompt, votes(prompt, [True, False, None])) for prompt in prompts]
    moved, file = tmp_path / "meta", tmp_path / "meta_scores.jsonl"
    shutil.copytree(head, moved)
    first = task(moved, scores=PartStore(file))
    list(first.combine_all(voted[:2]))  # killed here
    second = task(moved, scores=PartStore(file))
    before = list(second.combine_all(voted))
    assert second.meta is not None
    second.meta.finish()
    assert [row["id"] for row in read_jsonl(file)] == [f"{p.id}#{n}" for p in prompts for n in (0, 1)]
    shutil.rmtree(moved)
    assert list(task(moved, scores=PartStore(file)).combine_all(voted)) == before
    with pytest.raises(EngineError, match="directory not found"):
        list(task(moved).combine_all(voted))


def test_a_killed_scoring_continues(head: Path, tmp_path: Path) -> None:
    [prompt] = judge_prompts(1, 96)
    some = votes(prompt, [True, False])
    store = PartStore(tmp_path / "scores.jsonl")
    store.append([{"id": some[1].id, "score": 1e9}])  # kept, whatever it is
    assert MetaScores(head, DEFAULT_GRAMMAR, store).better_halves([(prompt, some)]) == [[some[1]]]


# --- errors


def test_a_judge_without_a_head_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"judging.meta: no head is named .*runs/<run>/meta"):
        task(None)


def test_lists_have_no_meta_score(head: Path) -> None:
    prompts = PromptFile.load("configs/prompts/judge.yaml").for_lists()
    config = JudgingConfig(combine="meta", meta=str(head))
    with pytest.raises(ConfigError, match="combine: meta scores votes on two answers"):
        ListTask(config, None, 4096, prompts, seed=17)
