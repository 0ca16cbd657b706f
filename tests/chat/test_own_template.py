"""A model in its own chat template: its prompts are the tokenizer's, and a verdict counts where it closes its only turn."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import DEFAULT_GRAMMAR
from reasongenrm.chat.own_template import OwnTemplateEncoder, base_encoder, own_encoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.chat.verdict import VerdictTokens, read_completion
from reasongenrm.config.loading import load_recipe
from reasongenrm.errors import ConfigError
from reasongenrm.records import Completion, JudgePrompt, Message, PreferencePair

pytestmark = pytest.mark.unit

CHATML = """\
{%- if messages[0].role != 'system' %}<|im_start|>system
you are helpful<|im_end|>
{% endif %}
{%- for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
GENERATION{% endif %}"""
"""As Qwen2.5's: a system turn of its own, and no turn of another role."""
STRICT = """\
{%- for m in messages %}{% if m.role not in ('user', 'assistant') %}{{ raise_exception('unknown role') }}{% endif -%}
<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}
{{ m.content | trim }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>model
{% endif %}"""
"""As Gemma's: another name for the assistant, and an error for other roles."""
ANY_ROLE = """\
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""As Llama 3's: it would write a turn of any role."""
TEMPLATES = {
    "chatml": CHATML.replace("GENERATION", ""),
    "thinking": CHATML.replace("GENERATION", "<think>\n"),
    "strict": STRICT,
    "any role": ANY_ROLE,
}
USER: list[Message] = [{"role": "user", "content": "which answer is better ?"}]


def own(tokenizer: Any, template: str, *, reasons: bool = True) -> ChatEncoder:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    encoder = own_encoder(tokenizer, reasons=reasons)
    assert encoder is not None
    return encoder


@pytest.fixture(scope="module")
def prompt(toy_prompts: PromptFile) -> JudgePrompt:
    pair = PreferencePair.make([{"role": "user", "content": "add 1 and 2"}], "3", "4", "s")
    return judge_prompt(pair, "AB", toy_prompts)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_the_one_of_the_tokenizer(name: str, toy_tokenizer: Any) -> None:
    encoder = own(toy_tokenizer, TEMPLATES[name])
    assert encoder.one_turn and encoder.reasons_first
    text = encoder.tokenizer.apply_chat_template(USER, tokenize=False, add_generation_prompt=True)
    assert encoder.tokenizer.decode(encoder.encode(USER, generation=True)) == text
    assert encoder.end_marker == "<|im_end|>"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_verdict_alone_stands_where_an_answer_stands(name: str, toy_tokenizer: Any) -> None:
    encoder = own(toy_tokenizer, TEMPLATES[name], reasons=False)
    assert not encoder.one_turn and not encoder.reasons_first
    turns: list[Message] = [*USER, {"role": "assistant", "content": "[[A]]"}]
    whole = encoder.tokenizer.apply_chat_template(turns, tokenize=False)
    text = encoder.tokenizer.decode(encoder.encode(USER, generation=True))
    assert whole == text + "[[A]]<|im_end|>\n"  # also where a generation prompt opens a block for thoughts


def test_a_judges_own_template_keeps_its_reason_turn(toy_tokenizer: Any, encoder: ChatEncoder) -> None:
    judge = own_encoder(toy_tokenizer)
    assert type(judge) is ChatEncoder and judge.encode(USER, generation=True) == encoder.encode(
        USER, generation=True
    )
    alone = own_encoder(toy_tokenizer, reasons=False)
    assert isinstance(alone, OwnTemplateEncoder)
    text = toy_tokenizer.decode(alone.encode(USER, generation=True))
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_without_a_template_and_without_an_end_of_turn(toy_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(toy_tokenizer)
    tokenizer.chat_template = None
    assert own_encoder(tokenizer) is None
    # The base of a recipe has then seen no template: it gets that of the judges.
    recipe = load_recipe("configs/demo.yaml")
    assert base_encoder(recipe, tokenizer).reasons_first
    assert not base_encoder(recipe, tokenizer, reasons=False).reasons_first
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}assistant: "
    )
    with pytest.raises(ConfigError, match="not a special token"):
        own_encoder(tokenizer)


ANSWERS = [
    ("A has 3 , right . B has 4 , wrong . so A is better . [[A]]", "stop", "A", "ok"),
    ("B fits better.\n\n**[[B]]**.", "stop", "B", "ok"),
    ("First I read. You ask for [[A]] or [[B]]", "stop", None, "unparsed"),
    ("[[A]] is what people would say . but B is right", "stop", None, "unparsed"),
    ("A has 3 , right . [[A]]", "length", None, "truncated"),
    ("", "stop", None, "unparsed"),
]


@pytest.mark.parametrize(("text", "finish", "winner", "outcome"), ANSWERS)
def test_only_a_verdict_that_closes_the_turn_counts(
    text: str, finish: str, winner: str | None, outcome: str, toy_tokenizer: Any, prompt: JudgePrompt
) -> None:
    encoder = own(toy_tokenizer, TEMPLATES["chatml"])
    tokens = VerdictTokens.from_encoder(encoder)
    ids = (*encoder.content(text), *((tokens.end,) if finish == "stop" else ()))
    verdict = read_completion(prompt, Completion("c", text, finish, ids), encoder, tokens)
    assert (verdict.winner, verdict.outcome) == (winner, outcome)
    reason = DEFAULT_GRAMMAR.without_closing(text) if outcome == "ok" else text
    assert verdict.reason == reason


def test_another_end_of_turn_is_no_word_behind_the_verdict(toy_tokenizer: Any, prompt: JudgePrompt) -> None:
    encoder = own(toy_tokenizer, TEMPLATES["chatml"])
    tokens = VerdictTokens.from_encoder(encoder)
    ids = (
        *encoder.content("so A is better . [[A]]"),
        encoder.tokenizer.pad_token_id,
    )  # such as Llama's <|end_of_text|>
    verdict = read_completion(prompt, Completion("c", "", "stop", ids), encoder, tokens)
    assert (verdict.winner, verdict.reason) == ("A", "so A is better .")
