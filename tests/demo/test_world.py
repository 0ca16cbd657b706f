"""Toy answers and explanations are right, splits share no question, and the corpus never asks the base to judge."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from reasongenrm.chat.grammar import stated_verdicts
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.steps import RewardWeights
from reasongenrm.data.ranked import load_ranked
from reasongenrm.demo import world
from reasongenrm.demo.base import PHASES
from reasongenrm.demo.build import skywork_row, toy_ranked
from reasongenrm.demo.corpus import CONTRADICTING, WRONG_HINT, ChatMixture, chats
from reasongenrm.demo.world import (
    FAMILIES,
    Split,
    draw_task,
    explain,
    reference_points,
    split_of,
    toy_pairs,
)
from reasongenrm.records import Message, PreferencePair, content_id
from reasongenrm.store import write_jsonl
from reasongenrm.train.rewards import Judgement, rationale
from support.pairs import load_pairs

pytestmark = pytest.mark.unit

QUESTION = re.compile(
    r"say (\w+) (\d) times|sort (\w+(?: \w+)+)|how do i (\w+) the (\w+)|add (\d+) and (\d+)"
)
LAYOUT = re.compile(
    r"\[Question\]\n(.+)\n\[Answer A\]\n(.+)\n\[Answer B\]\n(.+)\n\[End\]\nthe better answer is ([AB]) \. explain why \."
)
Chat = list[Message]


def content(text: str) -> tuple[str, ...]:
    """Return the content of the first question in a text, without its wording, from the text alone."""
    match = QUESTION.search(text)
    assert match, text
    word, count, words, verb, thing, a, b = match.groups()
    if word:
        return ("say", word, count)
    if words:
        return ("sort", *sorted(words.split()))
    return ("do", verb, thing) if verb else ("add", *sorted((a, b)))


def is_right(question: str, answer: str) -> bool:
    """Whether an answer is right, from the texts alone and not from the task."""
    kind, *about = content(question)
    if kind == "say":
        return answer.split() == [about[0]] * int(about[1])
    if kind == "sort":
        return answer.split() == sorted(about)
    if kind == "add":
        return int(answer) == sum(map(int, about))
    verb, thing = about
    refuses = bool(re.search(r"\b(not|no)\b", answer))
    assert refuses or thing in answer, answer
    return refuses == (verb in world.ROUGH and thing in world.LIVING)


def pairs(split: Split, per_family: int = 600, seed: int = 17) -> list[PreferencePair]:
    return list(toy_pairs(split, per_family, seed))


@pytest.fixture(scope="module", params=range(len(PHASES)), ids="phase {}".format)
def phase(request: pytest.FixtureRequest) -> tuple[int, ChatMixture]:
    """Seed and mixture of each phase of pretraining."""
    return 17 + request.param, PHASES[request.param].mixture


@pytest.fixture(scope="module")
def corpus(phase: tuple[int, ChatMixture], toy_prompts: PromptFile) -> list[Chat]:
    """The first 20,000 chats of a phase."""
    seed, mixture = phase
    return list(islice(chats(seed, toy_prompts, mixture), 20_000))


@pytest.fixture(scope="module")
def layouts(corpus: list[Chat]) -> list[tuple[Chat, re.Match[str]]]:
    """The chats in the judge's layout, with a given verdict."""
    return [(chat, match) for chat in corpus if (match := LAYOUT.fullmatch(chat[0]["content"]))]


# --- splits


def test_no_split_shares_a_question_with_another(corpus: list[Chat]) -> None:
    pretrained = {content(chat[0]["content"]) for chat in corpus}
    trained = {content(pair.history[0]["content"]) for pair in pairs("train")}
    tested = {content(pair.history[0]["content"]) for pair in pairs("test", 100)}
    assert len(pretrained) > 5_000 and len(trained) > 1_000 and len(tested) > 300
    assert not pretrained & trained and not pretrained & tested and not trained & tested


def test_splits_do_not_depend_on_the_seed() -> None:
    trained = {content(pair.history[0]["content"]) for seed in range(5) for pair in pairs("train", 100, seed)}
    tested = {content(pair.history[0]["content"]) for seed in range(5) for pair in pairs("test", 100, seed)}
    assert not trained & tested


def test_split_depends_on_the_content_and_not_on_the_wording() -> None:
    rng = random.Random(1)
    by_content: dict[tuple[str, ...], set[str]] = {}
    shares: Counter[str] = Counter()
    wordings: dict[tuple[str, ...], set[str]] = {}
    for split in ("pretrain", "train", "test"):
        for number in range(3_000):
            task = draw_task(rng, split, FAMILIES[number % 4])
            assert split_of(task) == split
            by_content.setdefault(content(task.question), set()).add(split)
            wordings.setdefault(content(task.question), set()).add(task.question)
    assert all(len(splits) == 1 for splits in by_content.values())
    assert sum(len(texts) > 1 for texts in wordings.values()) > 100  # several wordings of one content
    for _ in range(10_000):
        shares[split_of(world._reasoning(rng))] += 1
    assert shares["pretrain"] == pytest.approx(6_000, abs=600)
    assert shares["train"] == pytest.approx(2_000, abs=600)


# --- reference points


@pytest.mark.parametrize("family", FAMILIES)
def test_points_tell_a_wrong_explanation_from_a_right_one(family: str) -> None:
    """Whatever the order of the answers, and also where the verdict is right."""
    rng, weights = random.Random(3), RewardWeights()
    for _ in range(200):
        task, other = (draw_task(rng, "train", family) for _ in range(2))
        points = tuple(reference_points(task))
        for names in (("A", "B"), ("B", "A")):
            text = explain(task, task.good, task.bad, names)
            judgement = Judgement("A", "A", None, text, 1, points=points)
            assert rationale(judgement, weights) == 1
            wrong = {text.replace(" , right .", " , wrong .")}
            if other.work != task.work:
                wrong.add(text.replace(task.work, other.work))
            if family == "toy-chat-hard":
                wrong.add(text.replace(task.work, f"sorted is {task.bad} ."))
            for bad in wrong - {text}:
                assert rationale(replace(judgement, reason=bad), weights) < 1, (bad, points)


def test_points_do_not_change_the_pairs() -> None:
    for pair in pairs("train", 20):
        assert pair == PreferencePair.make(
            pair.history, pair.chosen, pair.rejected, pair.source, reference_points=pair.reference_points
        )
        assert pair.id == content_id(pair.history, pair.chosen, pair.rejected) and pair.reference_points


# --- pairs


@pytest.mark.parametrize(("split", "count"), [("train", 600), ("test", 100)])
def test_every_chosen_answer_is_right_and_every_rejected_one_wrong(split: Split, count: int) -> None:
    rows = pairs(split, count)
    assert [pair.source for pair in rows] == list(FAMILIES) * count
    assert len({pair.id for pair in rows}) == len(rows)
    for pair in rows:
        [turn] = pair.history
        assert turn["role"] == "user" and QUESTION.fullmatch(turn["content"])
        assert is_right(turn["content"], pair.chosen), pair
        assert not is_right(turn["content"], pair.rejected), pair


def test_neither_length_nor_refusal_predicts_the_better_answer() -> None:
    rows = pairs("train")
    chat = [pair for pair in rows if pair.source == "toy-chat"]
    longer = sum(len(pair.chosen.split()) > len(pair.rejected.split()) for pair in chat)
    shorter = sum(len(pair.chosen.split()) < len(pair.rejected.split()) for pair in chat)
    assert 0.3 < longer / (longer + shorter) < 0.7
    refused = [pair.chosen in world.REFUSALS for pair in rows if pair.source == "toy-safety"]
    assert 0.3 < sum(refused) / len(refused) < 0.7


def test_pairs_are_a_function_of_their_arguments() -> None:
    assert pairs("train", 50) == pairs("train", 50)
    assert pairs("train", 50) == pairs("train", 60)[:200]  # more pairs begin with the same pairs
    assert {p.id for p in pairs("train", 50)} != {p.id for p in pairs("train", 50, seed=18)}


def test_loader_returns_the_same_pairs(tmp_path: Path) -> None:
    rows = pairs("train", 25)
    write_jsonl(tmp_path / "train.jsonl", map(skywork_row, rows))
    assert list(load_pairs(str(tmp_path / "train.jsonl"))) == rows


# --- ranked answers


def test_right_answers_have_rank_1_and_wrong_ones_are_tied() -> None:
    rows = list(toy_ranked(50, 17))
    answers_by_prompt: dict[str, dict[str, int]] = {}
    for row in rows:
        answers_by_prompt.setdefault(str(row["prompt"]), {})[str(row["answer"])] = int(row["rank"])
    assert len(answers_by_prompt) == 200 and len(rows) == 600
    for prompt, ranks in answers_by_prompt.items():
        assert sorted(ranks.values()) == ([1, 1, 3] if prompt.startswith("how do i") else [1, 2, 2])
        assert all((rank == 1) == is_right(prompt, answer) for answer, rank in ranks.items())
    first_ranks = Counter(int(row["rank"]) == 1 for row in rows[::3])
    assert min(first_ranks.values()) > 50, "the position must not predict the rank"


def test_ranked_questions_are_in_no_pair_and_no_benchmark(corpus: list[Chat]) -> None:
    rows = list(toy_ranked(50, 17))
    others = {content(pair.history[0]["content"]) for split in ("train", "test") for pair in pairs(split)}
    assert not {content(str(row["prompt"])) for row in rows} & others
    known_words = {word for chat in corpus for turn in chat for word in turn["content"].split()}
    words = {word for row in rows for word in str(row["answer"]).split()}
    assert not {word for word in words - known_words if not word.isdigit()}


def test_ranked_answers_become_pairs_through_the_loader(tmp_path: Path) -> None:
    assert list(toy_ranked(10, 17)) == list(toy_ranked(20, 17))[:120] != list(toy_ranked(10, 18))
    write_jsonl(tmp_path / "ranked.jsonl", toy_ranked(10, 17))
    rows = list(load_ranked(str(tmp_path / "ranked.jsonl")))
    assert len(rows) == 40 * 2 and all(isinstance(row, PreferencePair) for row in rows)


# --- explanations


def test_explanations_give_the_work_and_end_with_the_right_verdict(toy_prompts: PromptFile) -> None:
    rng = random.Random(2)
    for number in range(2_000):
        task = draw_task(rng, "train", rng.choice(FAMILIES))
        good_first = number % 2 == 0
        first, second = (task.good, task.bad) if good_first else (task.bad, task.good)
        text = explain(task, first, second, ("A", "B"))
        assert [letter for _, letter in stated_verdicts(text, toy_prompts.verdict_phrases)] == [
            "AB"[not good_first]
        ]
        assert text.endswith(f"so {'AB'[not good_first]} is better .")
        assert text.startswith(task.work)
        a, b = re.findall(r"[AB] has .*?, (right|wrong) \.", text)
        assert (a == "right", b == "right") == (good_first, not good_first)
        if task.family == "toy-reasoning":
            sums = re.findall(r"((?:\d+ \+ )+\d+) = (\d+)", task.work)
            assert len(sums) == 2
            assert all(sum(map(int, terms.split(" + "))) == int(total) for terms, total in sums)
            assert f"sum is {task.good} ." in task.work


# --- corpus


def test_the_corpus_is_a_function_of_its_seed(
    corpus: list[Chat], phase: tuple[int, ChatMixture], toy_prompts: PromptFile
) -> None:
    seed, mixture = phase
    assert list(islice(chats(seed, toy_prompts, mixture), 500)) == corpus[:500]
    assert list(islice(chats(seed + 100, toy_prompts, mixture), 500)) != corpus[:500]


def test_judge_layout_never_appears_without_a_given_verdict(
    corpus: list[Chat], layouts: list[tuple[Chat, re.Match[str]]], toy_prompts: PromptFile
) -> None:
    question = toy_prompts.judge.splitlines()[-1]
    hindsight = {id(chat) for chat, _ in layouts}
    assert 5_000 < len(hindsight) < 15_000
    for chat in corpus:
        roles = ["user", "reason", "assistant"] if id(chat) in hindsight else ["user", "assistant"]
        assert [turn["role"] for turn in chat] == roles
        for turn in chat:
            assert question not in turn["content"]
            if id(chat) not in hindsight:  # no delimiter, no verdict, no statement of a verdict
                assert "[" not in turn["content"]
                assert not stated_verdicts(turn["content"], toy_prompts.verdict_phrases)


def test_verdicts_of_the_corpus_follow_from_their_reasons(
    layouts: list[tuple[Chat, re.Match[str]]], phase: tuple[int, ChatMixture], toy_prompts: PromptFile
) -> None:
    right_hints = agreements = hints_a = 0
    for chat, match in layouts:
        question, first, second, hint = match.groups()
        stated = stated_verdicts(chat[1]["content"], toy_prompts.verdict_phrases)
        assert chat[2]["content"] == f"[[{stated[-1][1]}]]"
        right = "A" if is_right(question, first) else "B"
        assert is_right(question, first) != is_right(question, second)
        right_hints += hint == right
        agreements += stated[-1][1] == hint
        hints_a += hint == "A"
    count = len(layouts)
    # Only explanations with the verdict first have wrong hints; of the others, some end with the other verdict.
    _, mixture = phase
    assert right_hints / count == pytest.approx(1 - mixture.verdict_first * WRONG_HINT, abs=0.02)
    assert agreements / count == pytest.approx(1 - (1 - mixture.verdict_first) * CONTRADICTING, abs=0.01)
    assert hints_a / count == pytest.approx(0.5, abs=0.02)
