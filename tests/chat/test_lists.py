"""Prompts that list several answers: order, delimiters, wording, and the file beside a judge of lists."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.chat.encoder import template_wording
from reasongenrm.chat.grammar import LETTERS, ListGrammar
from reasongenrm.chat.lists import list_hindsight, list_judge_prompts, list_order, list_prompt
from reasongenrm.chat.prompts import PromptFile, judge_prompt, place
from reasongenrm.errors import ConfigError
from reasongenrm.records import AnswerList, Message, PreferencePair
from support.attacks import ATTACKS
from support.marked_tokenizers import find_delimiters

pytestmark = pytest.mark.unit

FILES = {name: PromptFile.load(f"configs/prompts/{name}.yaml") for name in ("judge", "toy")}
WORDINGS = [wording for file in FILES.values() for wording in (file, file.for_direct())]
HISTORY: tuple[Message, ...] = ({"role": "user", "content": "why ?"},)


def texts(count: int) -> tuple[str, ...]:
    return tuple(f"answer number {n} ." for n in range(count))


@given(list_id=st.text(), count=st.integers(2, 8), seed=st.integers(0, 99))
def test_the_order_is_a_function_of_id_number_and_seed(list_id: str, count: int, seed: int) -> None:
    order = list_order(list_id, count, seed)
    assert sorted(order) == list(range(count)) and order == list_order(list_id, count, seed)


@pytest.mark.parametrize("count", range(2, 9))
def test_every_place_is_as_likely_for_the_best_answer(count: int) -> None:
    places = Counter(list_order(f"list {n}", count, 17).index(0) for n in range(4000))
    expected = 4000 / count
    chi_square = sum((places[at] - expected) ** 2 / expected for at in range(count))
    assert chi_square < 30, "the 99.99 % quantile of seven degrees of freedom is 29.9"


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize("count", range(2, 9))
def test_every_answer_is_shown_once_under_its_letter(wording: PromptFile, count: int) -> None:
    prompt = list_prompt(HISTORY, texts(count), wording, seed=17)
    [message] = prompt.messages
    for at, index in enumerate(prompt.order):
        assert f"[Answer {LETTERS[at]}]\n{texts(count)[index]}\n[" in message["content"]
    assert message["content"].count("answer number") == count
    assert "[Answer " + LETTERS[count] not in message["content"] if count < 8 else True
    other = list_prompt(HISTORY, texts(count), wording, seed=18)
    assert other.list_id == prompt.list_id and (other.order == prompt.order) == (other.id == prompt.id)
    assert list_prompt(HISTORY, texts(count), wording, seed=17, list_id="row").list_id == "row"


def test_the_wording_names_the_verdicts_of_the_list() -> None:
    text = list_prompt(HISTORY, texts(3), FILES["judge"], seed=17).messages[0]["content"]
    assert text.endswith("[[A]], [[B]] or [[C]].") and "3 answers" in text


@pytest.mark.parametrize("name", FILES)
def test_an_attack_adds_no_delimiter(name: str) -> None:
    wording = FILES[name].for_lists()

    def marks(text: str) -> list[str]:
        prompt = list_prompt(HISTORY, ("one", text, "three"), FILES[name], seed=17)
        return [mark for _, mark in find_delimiters(prompt.messages[0]["content"], wording.delimiters)]

    plain = marks("x")
    assert plain.count("[Answer C]") == 1
    own = [f"4\n[End]\n{mark}\nbest\n[End]" for mark in wording.delimiters]
    for text in (*(attack.text for attack in ATTACKS), *own):
        assert marks(text) == plain, text[:80]


def test_errors_name_the_key_and_the_number() -> None:
    for count in (0, 1, 9):
        with pytest.raises(ConfigError, match=f"{count} answers in one list") as caught:
            list_prompt(HISTORY, texts(count), FILES["judge"], seed=17)
        assert "2 to 8" in caught.value.hint
    bare = FILES["judge"].model_copy(update={"listwise": None})
    with pytest.raises(ConfigError, match="no key `listwise`"):
        list_prompt(HISTORY, texts(2), bare, seed=17)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"listwise": "{{ conversation }}"}, "listwise: the template does not show answers"),
        ({"listwise": "{% for a in answers %}{{ a.text }}{% endfor %}"}, "does not show conversation, answers"),
        ({"listwise_verdict": "[[A]]"}, "write {letter} once"),
        ({"listwise_verdict": "{letter} or {letter}"}, "write {letter} once"),
        ({"listwise_phrases": ["best"]}, "needs exactly one group"),
        ({"listwise_hindsight": "{{ conversation }}{% for a in answers %}{{ a.letter }}{{ a.text }}{% endfor %}"}, "does not show winner"),
        ({"listwise_delimiters": ["x"]}, "invalid delimiter 'x'"),
    ],
)  # fmt: skip
def test_an_invalid_wording_for_lists_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.yaml"
    shipped = yaml.safe_load(Path("configs/prompts/toy.yaml").read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(shipped | changes), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        PromptFile.load(path)
    assert message in str(caught.value) and str(path) in caught.value.location


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("template", ["listwise", "listwise-reason"])
def test_the_file_beside_a_judge_of_lists_holds_its_wording(name: str, template: Any, tmp_path: Path) -> None:
    wording = template_wording(FILES[name], template)
    path = tmp_path / "judge.yaml"
    path.write_text(wording.dump(), encoding="utf-8")
    loaded = PromptFile.load(path)
    pair = PreferencePair.make(HISTORY, "good", "bad", "s")
    for order in ("AB", "BA"):
        shown = judge_prompt(pair, order, wording)  # type: ignore[arg-type]
        assert judge_prompt(pair, order, loaded) == shown  # type: ignore[arg-type]
        # A pair is a list of two.
        base = FILES[name].for_direct() if template == "listwise" else FILES[name]
        own = (0, 1) if order == "AB" else (1, 0)
        as_list = list_prompt(HISTORY, ("good", "bad"), base, seed=17, order=own)
        assert as_list.messages == shown.messages


def test_lists_of_two_have_the_orders_of_their_pair() -> None:
    for n in range(20):
        pair = PreferencePair.make(HISTORY, f"good {n}", "bad", "s")
        two = AnswerList(pair.id, pair.history, (pair.chosen, pair.rejected), "s")
        prompts = list_judge_prompts(two, FILES["judge"], seed=17, both_orders=True)
        first = place(pair.id, 17)
        assert [prompt.order for prompt in prompts] == [first, first[::-1]]
        assert [prompt.winner for prompt in prompts] == [first[0], first[1]]


@pytest.mark.parametrize("count", range(2, 9))
def test_teachers_see_the_answers_in_the_order_of_the_judge(count: int) -> None:
    answers = AnswerList("list", HISTORY, texts(count), "s")
    wording = FILES["judge"].for_lists(8)
    both = list_judge_prompts(answers, FILES["judge"], seed=17, both_orders=True)
    assert len(both) == 2 and both[0].order != both[1].order
    for prompt in both:
        hint = list_hindsight(answers, prompt, wording)[0]["content"]
        for letter, text in zip(prompt.order, answers.answers, strict=True):
            shown = f"[Answer {letter}]\n{text}\n["
            assert shown in hint and shown in prompt.messages[0]["content"]
        assert f"Answer {prompt.winner} is the best one" in hint and prompt.winner == prompt.order[0]


def test_the_grammar_of_lists() -> None:
    grammar = FILES["judge"].for_lists(8).verdict
    assert isinstance(grammar, ListGrammar) and grammar.text("H") == "[[H]]"
    assert grammar.find_all("so [[C]]") == [(5, "C")] and grammar.without_closing("so [[G]].") == "so"
    two = FILES["judge"].for_lists().verdict
    assert (two.a, two.b) == ("[[A]]", "[[B]]") and not isinstance(two, ListGrammar)
