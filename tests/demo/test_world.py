"""The toy world is right, its splits share nothing, and its corpus never lets the base judge."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.chat.verdict import stated_verdicts
from reasongenrm.data.sources import load_pairs
from reasongenrm.demo import world
from reasongenrm.demo.base import PHASES
from reasongenrm.demo.build import skywork_row
from reasongenrm.demo.corpus import CONTRADICTS, TOLD_WRONG, Diet, chats
from reasongenrm.demo.world import FAMILIES, Split, draw_task, explain, split_of, toy_pairs
from reasongenrm.records import Message, PreferencePair
from reasongenrm.store import write_jsonl

pytestmark = pytest.mark.unit

QUESTION = re.compile(
    r"say (\w+) (\d) times|sort (\w+(?: \w+)+)|how do i (\w+) the (\w+)|add (\d+) and (\d+)"
)
LAYOUT = re.compile(
    r"\[Question\]\n(.+)\n\[Answer A\]\n(.+)\n\[Answer B\]\n(.+)\n\[End\]\nthe better answer is ([AB]) \. explain why \."
)
Chat = list[Message]


def content(text: str) -> tuple[str, ...]:
    """What the first question in a text is about, apart from its wording; worked out from the text alone."""
    found = QUESTION.search(text)
    assert found, text
    word, count, words, verb, thing, a, b = found.groups()
    if word:
        return ("say", word, count)
    if words:
        return ("sort", *sorted(words.split()))
    return ("do", verb, thing) if verb else ("add", *sorted((a, b)))


def is_right(question: str, answer: str) -> bool:
    """Whether an answer is right; worked out from the texts, not from the task."""
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
def phase(request: pytest.FixtureRequest) -> tuple[int, Diet]:
    """Seed and diet of each phase of pretraining the toy base."""
    return 17 + request.param, PHASES[request.param].diet


@pytest.fixture(scope="module")
def corpus(phase: tuple[int, Diet], toy_prompts: PromptFile) -> list[Chat]:
    """The first 20,000 chats of a phase."""
    seed, diet = phase
    return list(islice(chats(seed, toy_prompts, diet), 20_000))


@pytest.fixture(scope="module")
def layouts(corpus: list[Chat]) -> list[tuple[Chat, re.Match[str]]]:
    """The chats that show the judge's layout with a told verdict."""
    return [(chat, match) for chat in corpus if (match := LAYOUT.fullmatch(chat[0]["content"]))]


# --- splits


def test_no_split_shares_a_question_with_another(corpus: list[Chat]) -> None:
    read = {content(chat[0]["content"]) for chat in corpus}
    trained = {content(pair.history[0]["content"]) for pair in pairs("train")}
    tested = {content(pair.history[0]["content"]) for pair in pairs("test", 100)}
    assert len(read) > 5_000 and len(trained) > 1_000 and len(tested) > 300
    assert not read & trained and not read & tested and not trained & tested


def test_the_splits_are_the_same_for_every_seed() -> None:
    trained = {content(pair.history[0]["content"]) for seed in range(5) for pair in pairs("train", 100, seed)}
    tested = {content(pair.history[0]["content"]) for seed in range(5) for pair in pairs("test", 100, seed)}
    assert not trained & tested


def test_the_split_is_of_the_content_and_not_of_the_wording() -> None:
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
    assert sum(len(texts) > 1 for texts in wordings.values()) > 100  # there was something to confuse
    for _ in range(10_000):
        shares[split_of(world._reasoning(rng))] += 1
    assert shares["pretrain"] == pytest.approx(6_000, abs=600)
    assert shares["train"] == pytest.approx(2_000, abs=600)


# --- pairs


@pytest.mark.parametrize(("split", "count"), [("train", 600), ("test", 100)])
def test_every_chosen_answer_is_right_and_every_rejected_one_wrong(split: Split, count: int) -> None:
    drawn = pairs(split, count)
    assert [pair.source for pair in drawn] == list(FAMILIES) * count
    assert len({pair.id for pair in drawn}) == len(drawn)
    for pair in drawn:
        [turn] = pair.history
        assert turn["role"] == "user" and QUESTION.fullmatch(turn["content"])
        assert is_right(turn["content"], pair.chosen), pair
        assert not is_right(turn["content"], pair.rejected), pair


def test_neither_length_nor_refusal_tells_the_better_answer() -> None:
    drawn = pairs("train")
    chat = [pair for pair in drawn if pair.source == "toy-chat"]
    longer = sum(len(pair.chosen.split()) > len(pair.rejected.split()) for pair in chat)
    shorter = sum(len(pair.chosen.split()) < len(pair.rejected.split()) for pair in chat)
    assert 0.3 < longer / (longer + shorter) < 0.7
    refused = [pair.chosen in world.REFUSALS for pair in drawn if pair.source == "toy-safety"]
    assert 0.3 < sum(refused) / len(refused) < 0.7


def test_pairs_are_a_function_of_their_arguments() -> None:
    assert pairs("train", 50) == pairs("train", 50)
    assert pairs("train", 50) == pairs("train", 60)[:200]  # more pairs are the same pairs and some
    assert {p.id for p in pairs("train", 50)} != {p.id for p in pairs("train", 50, seed=18)}


def test_pairs_come_back_through_the_loader(tmp_path: Path) -> None:
    drawn = pairs("train", 25)
    write_jsonl(tmp_path / "train.jsonl", map(skywork_row, drawn))
    assert list(load_pairs(str(tmp_path / "train.jsonl"))) == drawn


# --- explanations


def test_explanations_work_the_answer_out_and_end_in_the_right_verdict(toy_prompts: PromptFile) -> None:
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
    corpus: list[Chat], phase: tuple[int, Diet], toy_prompts: PromptFile
) -> None:
    seed, diet = phase
    assert list(islice(chats(seed, toy_prompts, diet), 500)) == corpus[:500]
    assert list(islice(chats(seed + 100, toy_prompts, diet), 500)) != corpus[:500]


def test_the_judges_layout_is_never_shown_without_a_told_verdict(
    corpus: list[Chat], layouts: list[tuple[Chat, re.Match[str]]], toy_prompts: PromptFile
) -> None:
    asked = toy_prompts.judge.splitlines()[-1]
    told = {id(chat) for chat, _ in layouts}
    assert 5_000 < len(told) < 15_000
    for chat in corpus:
        roles = ["user", "reason", "assistant"] if id(chat) in told else ["user", "assistant"]
        assert [turn["role"] for turn in chat] == roles
        for turn in chat:
            assert asked not in turn["content"]
            if id(chat) not in told:  # no delimiter, no verdict, no word of a verdict
                assert "[" not in turn["content"]
                assert not stated_verdicts(turn["content"], toy_prompts.verdict_phrases)


def test_the_verdict_of_the_corpus_is_the_one_its_reason_ends_in(
    layouts: list[tuple[Chat, re.Match[str]]], phase: tuple[int, Diet], toy_prompts: PromptFile
) -> None:
    told_right = agrees = told_a = 0
    for chat, match in layouts:
        question, first, second, told = match.groups()
        stated = stated_verdicts(chat[1]["content"], toy_prompts.verdict_phrases)
        assert chat[2]["content"] == f"[[{stated[-1][1]}]]"
        right = "A" if is_right(question, first) else "B"
        assert is_right(question, first) != is_right(question, second)
        told_right += told == right
        agrees += stated[-1][1] == told
        told_a += told == "A"
    count = len(layouts)
    # Who blurts is told wrong or right; of the others some end in the other verdict.
    _, diet = phase
    assert told_right / count == pytest.approx(1 - diet.blurts * TOLD_WRONG, abs=0.02)
    assert agrees / count == pytest.approx(1 - (1 - diet.blurts) * CONTRADICTS, abs=0.01)
    assert told_a / count == pytest.approx(0.5, abs=0.02)
