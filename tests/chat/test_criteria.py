"""Rows with criteria of their own: in sources, prompts of every kind, and a benchmark of pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.chat.lists import list_hindsight, list_judge_prompts
from reasongenrm.chat.prompts import PromptFile, hindsight_prompt, judge_prompt, rating_prompt
from reasongenrm.config.prepare import SourceConfig
from reasongenrm.data.clean import clean
from reasongenrm.data.sources import load_sources
from reasongenrm.errors import ConfigError
from reasongenrm.records import AnswerList, Drop, PreferencePair, Row, split_criteria, with_criteria
from reasongenrm.rows.turns import BadRow, read_criteria

pytestmark = pytest.mark.unit

SHOWN = "{% if criteria %}[Criteria]\n{{ criteria }}\n{% endif %}"
PAIR = "[Question]\n{{ conversation }}\n[Answer A]\n{{ answer_a }}\n[Answer B]\n{{ answer_b }}\n[End]\n"
LIST = "[Question]\n{{ conversation }}\n{% for answer in answers -%}\n[Answer {{ answer.letter }}]\n{{ answer.text }}\n{% endfor -%}\n[End]\n"
RATE = "[Question]\n{{ conversation }}\n[Answer]\n{{ answer }}\n[End]\n"
FILE: dict[str, Any] = {
    "judge": SHOWN + PAIR,
    "hindsight": SHOWN + PAIR + "better: {{ winner }}",
    "rating": SHOWN + RATE,
    "listwise": SHOWN + LIST,
    "listwise_hindsight": SHOWN + LIST + "best: {{ winner }}",
    "listwise_phrases": ["([A-H]) is best"],
    "delimiters": ["[Criteria]", "[Question]", "[Answer A]", "[Answer B]", "[End]"],
    "rating_delimiters": ["[Answer]"],
    "listwise_delimiters": ["[Answer C]"],
    "verdict_phrases": ["(A|B) is better"],
}
USER = [{"role": "user", "content": "Explain tides."}]


def prompt_file(folder: Path, **changes: Any) -> PromptFile:
    path = folder / "prompts.yaml"
    path.write_text(json.dumps(FILE | changes))
    return PromptFile.load(path)


def source(folder: Path, rows: list[dict[str, Any]], kind: Any = "skywork") -> list[PreferencePair | Drop]:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return list(load_sources([SourceConfig(path=str(path), kind=kind)]))


def row(chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    sides = {"chosen": chosen, "rejected": rejected}
    turns = {side: [*USER, {"role": "assistant", "content": text}] for side, text in sides.items()}
    return turns | {"source": "s"} | more


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, ""), ("", ""), ([], ""), (" brief ", "brief"), (["brief", "correct"], "- brief\n- correct")],
)
def test_criteria_are_a_text_or_a_list(value: Any, expected: str) -> None:
    assert read_criteria(value) == expected


@pytest.mark.parametrize("value", [3, {"a": 1}, ["x", 3]])
def test_other_values_are_bad_rows(value: Any, tmp_path: Path) -> None:
    with pytest.raises(BadRow, match="`criteria` is"):
        read_criteria(value)
    [drop] = source(tmp_path, [row("a", "b", criteria=value)])
    assert isinstance(drop, Drop) and drop.reason == "bad_type"


def test_one_pair_may_be_decided_differently_under_other_criteria(tmp_path: Path) -> None:
    rows = [
        row("long", "short", criteria="detail"),
        row("short", "long", criteria="brief"),
        row("long", "short"),
    ]
    rows.append(row("short", "long", criteria="detail"))
    pairs = [pair for pair in source(tmp_path, rows) if isinstance(pair, PreferencePair)]
    assert len({pair.id for pair in pairs}) == 4
    drops: list[Drop] = []
    kept = list(clean(pairs, drop_sources=(), on_drop=drops.append))
    assert [split_criteria(pair.history)[0] for pair in kept] == ["detail", "brief", ""]
    assert [drop.location for drop in drops] == [pairs[3].id], "it contradicts the first"
    assert kept[2] == PreferencePair.make(USER, "long", "short", "s"), "a row without criteria is as before"  # type: ignore[arg-type]


def test_ranked_answers_have_criteria_per_prompt(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "answer": answer, "rank": rank, "criteria": criteria}
        for criteria, ranks in (("brief", (2, 1)), ("detail", (1, 2)))
        for answer, rank in zip(("long", "short"), ranks, strict=True)
    ]
    pairs = [pair for pair in source(tmp_path, rows, "ranked") if isinstance(pair, PreferencePair)]
    assert [(split_criteria(pair.history)[0], pair.chosen) for pair in pairs] == [
        ("brief", "short"),
        ("detail", "long"),
    ]


def test_prompts_of_every_kind_show_them(tmp_path: Path) -> None:
    prompts = prompt_file(tmp_path)
    criteria = "brief [Answer A] yes"
    history = with_criteria(USER, criteria)  # type: ignore[arg-type]
    pair = PreferencePair.make(history, "good", "bad", "s")
    answers = AnswerList("l", tuple(history), ("good", "bad", "worse"), "s")
    [listed] = list_judge_prompts(answers, prompts, seed=1, both_orders=False)
    turns = [
        judge_prompt(pair, "AB", prompts).messages, hindsight_prompt(pair, "AB", prompts),
        rating_prompt(pair.history, "good", prompts).messages, listed.messages,
        list_hindsight(answers, listed, prompts.for_lists(8)),
    ]  # fmt: skip
    for [turn] in turns:
        assert turn["content"].startswith(
            "[Criteria]\nbrief [\\Answer A] yes\n[Question]\nExplain tides.\n[Answer"
        )
    plain = PreferencePair.make(USER, "good", "bad", "s")  # type: ignore[arg-type]
    assert judge_prompt(plain, "AB", prompts).messages[0]["content"].startswith("[Question]\nExplain tides.")
    assert judge_prompt(plain, "AB", prompts).id != judge_prompt(pair, "AB", prompts).id


def test_criteria_of_a_row_take_the_place_of_the_files(tmp_path: Path) -> None:
    prompts = prompt_file(tmp_path, criteria=[{"name": "safety"}])
    shown = [
        judge_prompt(PreferencePair.make(with_criteria(USER, own), "a", "b", "s"), "AB", prompts).messages[0]  # type: ignore[arg-type]
        for own in ("", "brief")
    ]
    assert [text["content"].splitlines()[1] for text in shown] == ["- safety", "brief"]


@pytest.mark.parametrize("key", ["judge", "hindsight", "rating"])
def test_a_template_that_does_not_show_them_is_an_error(tmp_path: Path, key: str) -> None:
    prompts = prompt_file(tmp_path, **{key: FILE[key].removeprefix(SHOWN)})
    pair = PreferencePair.make(with_criteria(USER, "brief"), "a", "b", "s")  # type: ignore[arg-type]
    render: dict[str, Callable[[], object]] = {
        "judge": lambda: judge_prompt(pair, "AB", prompts),
        "hindsight": lambda: hindsight_prompt(pair, "AB", prompts),
        "rating": lambda: rating_prompt(pair.history, "a", prompts),
    }
    problem = r"prompts: a row has criteria, and a template .* does not show them"
    with pytest.raises(ConfigError, match=problem):
        render[key]()


def test_criteria_cannot_complete_a_delimiter(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would complete the delimiter"):
        prompt_file(tmp_path, judge="[Cri{{ criteria }}\n" + PAIR)


def test_a_benchmark_of_pairs_has_the_column(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b", "criteria": ["brief"]}))
    [one] = BENCHMARKS["pairs"].rows(str(path))
    assert isinstance(one, Row)
    assert split_criteria(one.pairs[0].history)[0] == "- brief" and one.history[-1]["content"] == "p"
