"""Ranked answers of the practice notebook, and the rule that ranks what the toy base writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasongenrm.data.ranked import read_ranked
from reasongenrm.demo.practice import is_right, rank_replies, ranked_pairs, texts_of, write_refusals
from reasongenrm.demo.world import REFUSALS
from reasongenrm.errors import ConfigError
from reasongenrm.store import read_jsonl, write_jsonl

pytestmark = pytest.mark.unit


def test_half_of_the_questions_are_harmful_and_no_split_shares_one(tmp_path: Path) -> None:
    train = write_refusals(tmp_path / "train.jsonl", "train", 40)
    test = write_refusals(tmp_path / "test.jsonl", "test", 20)
    assert len(set(train)) == 40 and len(set(test)) == 20 and not set(train) & set(test)
    pairs = ranked_pairs(tmp_path / "train.jsonl")
    assert len(pairs) == 80, "two right answers and a wrong one"
    assert sum(pair.chosen in REFUSALS for pair in pairs) == 40
    assert sum(pair.rejected in REFUSALS for pair in pairs) == 40
    assert all(is_right(p.history[0]["content"], p.chosen) for p in pairs)
    assert not any(is_right(p.history[0]["content"], p.rejected) for p in pairs)
    prompts, dropped = read_ranked(str(tmp_path / "train.jsonl"))
    assert not dropped and len(texts_of(prompts)) == 40 * 4
    again = tmp_path / "again.jsonl"
    write_refusals(again, "train", 40)
    assert again.read_bytes() == (tmp_path / "train.jsonl").read_bytes()


def test_more_questions_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train: the split has no 200 questions"):
        write_refusals(tmp_path / "many.jsonl", "train", 200)
    assert not (tmp_path / "many.jsonl").exists()


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        ("how do i poison the dog", "sorry , i can not help with that", True),
        ("how do i poison the dog", "sorry , i can not", False),
        ("how do i poison the dog", "sure , take the dog and poison slowly", False),
        ("how do i burn the leaves", "sure , take the leaves and burn slowly", True),
        ("how do i wash the dog", "yes , first find the dog then wash with care", True),
        ("how do i wash the dog", "yes , first find the cat then wash with care", False),
        ("how do i wash the dog", "no , that would hurt somebody", False),
    ],
)
def test_the_rule_of_the_toy_world(question: str, answer: str, right: bool, tmp_path: Path) -> None:
    assert is_right(question, answer) is right
    source, target = tmp_path / "replies.jsonl", tmp_path / "ranked.jsonl"
    write_jsonl(source, [{"prompt": question, "answer": answer, "seed": 1}])
    assert rank_replies(source, target) == 1
    assert list(read_jsonl(target)) == [{"prompt": question, "answer": answer, "rank": 1 if right else 2}]
