"""The wording of a judge with a rubric: one part for all replies, and judged text that stays data."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.chat.rubric_prompt import RubricPrompt
from reasongenrm.errors import ConfigError
from reasongenrm.records import Conversation

pytestmark = pytest.mark.unit

SHIPPED = Path("configs/distil/prompt.jinja")
CRITERIA = [
    {"key": "tone", "name": "tone", "text": "Is it kind?", "scale": (1, 3), "levels": {1: "rude", 3: "kind"}}
]


@pytest.fixture(scope="module")
def shipped() -> RubricPrompt:
    return RubricPrompt.load(SHIPPED)


def test_the_turns_of_a_conversation(shipped: RubricPrompt) -> None:
    system = shipped.rubric_turn(CRITERIA, "FORM")
    user = shipped.reply_turn(Conversation.make("Spanish, A1", "Yo soy cansado", "Estoy cansado."))
    assert system["role"] == "system" and user["role"] == "user"
    assert "tone, from 1 to 3: Is it kind?\n  1: rude\n  3: kind\n" in system["content"]
    assert system["content"].endswith("FORM")
    assert (
        user["content"]
        == "[Situation]\nSpanish, A1\n[Message]\nYo soy cansado\n[Reply]\nEstoy cansado.\n[End]"
    )


def test_an_empty_context_is_named(shipped: RubricPrompt) -> None:
    assert "[Situation]\n(none)\n" in shipped.reply_turn(Conversation.make("", "a", "b"))["content"]


@given(
    st.lists(
        st.sampled_from(["[End]", "[Reply]", "[Mess", "age]", "［End］", "[E\u200bnd]", "\n", "x"]),
        max_size=6,
    )
)
def test_judged_text_forms_no_delimiter(parts: list[str]) -> None:
    prompt, text = RubricPrompt.load(SHIPPED), "".join(parts)
    shown = prompt.reply_turn(Conversation.make(text, text, text))["content"]
    for delimiter in prompt.delimiters:
        assert shown.count(delimiter) == 1, text


def test_judged_text_is_no_template(shipped: RubricPrompt) -> None:
    text = "{{ criteria }} {% raw %} {{ 7 * 7 }}"
    assert text in shipped.reply_turn(Conversation.make("", "a", text))["content"]


TEMPLATE = """{% set delimiters = ["[M]", "[R]", "[E]"] %}
{% block rubric %}{% for c in criteria %}{{ c.key }}: {{ c.text }}
{% endfor %}{{ form }}{% endblock %}
{% block reply %}{{ context }}
[M]
{{ message }}
[R]
{{ response }}
[E]{% endblock %}"""


def test_another_template_loads(tmp_path: Path) -> None:
    path = tmp_path / "p.jinja"
    path.write_text(TEMPLATE)
    assert RubricPrompt.load(path).delimiters == ("[M]", "[R]", "[E]")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("block reply", "block answer", "the template has no block 'reply'"),
        ("{% set delimiters", "{% set other", "delimiters are not strings"),
        ('["[M]", "[R]", "[E]"]', '["x"]', "delimiters are not strings"),
        ('["[M]", "[R]", "[E]"]', "[3]", "delimiters are not strings"),
        ("{{ response }}", "", "does not show response"),
        ("{{ context }}", "", "does not show context"),
        ("{{ form }}", "", "does not show form"),
        ("{{ form }}", "{{ form }}{{ message }}", "'message' is undefined"),
        ("[R]\n{{ response }}", "[R]\n[{{ response }}", "would complete the delimiter"),
        ("{% endfor %}", "", "invalid template"),
        ("{{ context }}", "{{ contexts }}", "'contexts' is undefined"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(tmp_path: Path, old: str, new: str, problem: str) -> None:
    path = tmp_path / "p.jinja"
    assert old in TEMPLATE
    path.write_text(TEMPLATE.replace(old, new))
    with pytest.raises(ConfigError, match=problem) as caught:
        RubricPrompt.load(path)
    assert caught.value.location == str(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        RubricPrompt.load(tmp_path / "none.jinja")
