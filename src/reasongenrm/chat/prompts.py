"""Prompt files, and the judge prompts rendered from them.

Judged text is data. Two measures keep it from becoming structure: delimiters of the prompt file are broken up
inside judged text (`neutralise`), and contents are tokenised apart from the chat template's markers
(`ChatEncoder`), so that `<|im_end|>` inside an answer becomes several ordinary tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import jinja2
import jinja2.meta
import yaml
from pydantic import AfterValidator

from reasongenrm.chat.delimiters import SANDBOX, check_delimiters, neutralise
from reasongenrm.chat.grammar import DEFAULT_GRAMMAR, LETTERS, Grammar, ListGrammar, VerdictTexts
from reasongenrm.config.engines import Strict
from reasongenrm.config.loading import read_yaml, validate
from reasongenrm.config.rubric import Criterion
from reasongenrm.errors import ConfigError, first_line
from reasongenrm.records import (
    CRITERIA,
    JudgePrompt,
    Letter,
    Message,
    Order,
    PreferencePair,
    RatingPrompt,
    content_id,
    split_criteria,
    unit_hash,
)


def _check_list_verdict(text: str) -> str:
    if text.count("{letter}") != 1 or text != text.strip():
        raise ValueError("write {letter} once, without white space around the verdict, as in [[{letter}]]")
    return text


class DirectWording(Strict):
    """The templates for a judge that writes its verdict alone, without a reason; null: the same as with a reason.

    Attributes:
        judge, rating, listwise: see `PromptFile`.
    """

    judge: str | None = None
    rating: str | None = None
    listwise: str | None = None


class PromptFile(Strict):
    """A judge's wording, one YAML file in `configs/prompts/`.

    Attributes:
        judge: Jinja2 template with `conversation`, `answer_a` and `answer_b`: the judge's user turn. It may also use
            `criteria`, `verdict_a` and `verdict_b`. In the file beside a judge of lists it is the template `listwise`.
        hindsight: the same with `winner` (A or B): the teacher's user turn.
        direct: the wording for judges without reasons: those with the template `direct`, and an
            untrained model that judges without reasons.
        criteria: criteria with weights; if there are any, the template `judge` must show them. Rows with a column `criteria` have
            these instead, and a template that they are rendered with must show them.
        verdict: the verdict grammar.
        delimiters: literal strings that separate judged text from instructions: two characters or more, and no
            backslash.
        verdict_phrases: regular expressions, one group (A or B) each, that match the verdict stated by a reason.
        rating: Jinja2 template with `conversation` and `answer`: the user turn of a judge that rates one answer alone
            and closes with `[[1]]` to `[[10]]`; without it the judge can only compare.
        rating_delimiters: further delimiters of that template. They are a separate key, so that the ids of prompts
            that compare answers do not depend on them.
        listwise: Jinja2 template with `conversation` and `answers` (each has `letter`, A to H, and `text`): the user turn
            of a judge that names the best of several answers. It may also use `verdicts` (such as `[[A]], [[B]] or [[C]]`)
            and `criteria`. Without it the judge cannot do so.
        listwise_delimiters: further delimiters of that template.
        listwise_verdict: its verdict, with `{letter}` in place of the letter.
        listwise_hindsight: the same as `listwise` with `winner` (A to H): the teacher's user turn.
        listwise_phrases: as `verdict_phrases`, for a reason on a list.
    """

    judge: str
    hindsight: str
    delimiters: tuple[str, ...]
    verdict_phrases: tuple[str, ...]
    direct: DirectWording = DirectWording()
    criteria: tuple[Criterion, ...] = ()
    verdict: Grammar = DEFAULT_GRAMMAR
    rating: str | None = None
    rating_delimiters: tuple[str, ...] = ()
    listwise: str | None = None
    listwise_delimiters: tuple[str, ...] = ()
    listwise_verdict: Annotated[str, AfterValidator(_check_list_verdict)] = "[[{letter}]]"
    listwise_hindsight: str | None = None
    listwise_phrases: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> PromptFile:
        """Read and check a prompt file.

        Raises:
            ConfigError: the file is missing, is not valid YAML, has an unknown key, or a template does not render.
        """
        path, hint = Path(path), "compare with configs/prompts/judge.yaml"
        raw = read_yaml(path, "prompt file", "check `prompts` in the recipe")
        prompts = validate(cls, raw, f"{path}: ", hint)
        try:
            prompts._check(path)
        except (jinja2.TemplateError, re.error) as error:
            problem = f"invalid template or pattern: {first_line(error)}"
            raise ConfigError(problem, location=str(path), hint=hint) from None
        delimiters = tuple(dict.fromkeys((*prompts.delimiters, *ROLE_HEADS.values())))
        return prompts.model_copy(update={"delimiters": delimiters})

    def for_direct(self) -> PromptFile:
        """Return the wording for a judge that writes its verdict alone."""
        templates = {name: text for name, text in self.direct if text is not None}
        return self.model_copy(update=templates | {"direct": DirectWording()})

    def for_lists(self, answers: int = 2) -> PromptFile:
        """Return the wording for a judge of lists; it compares two answers as a list of two.

        Args:
            answers: number of verdicts in the grammar.

        Raises:
            ConfigError: the prompt file has no template `listwise`.
        """
        listwise = _required("listwise", self.listwise)
        a, b, *others = self.list_verdicts(answers).texts
        grammar = ListGrammar(a=a, b=b, others=tuple(others)) if others else Grammar(a=a, b=b)
        delimiters = tuple(dict.fromkeys((*self.delimiters, *self.listwise_delimiters)))
        changes: dict[str, Any] = {"judge": listwise, "delimiters": delimiters, "verdict": grammar}
        if self.listwise_hindsight is not None:
            changes |= {"hindsight": self.listwise_hindsight, "verdict_phrases": self.listwise_phrases}
        return self.model_copy(update=changes)

    def _check(self, path: Path, section: str = "") -> None:
        for pattern in (*self.verdict_phrases, *self.listwise_phrases):
            if re.compile(pattern).groups != 1:
                problem = f"verdict phrase {pattern!r} needs exactly one group"
                hint = r"put the verdict's letter in parentheses, as in \b(A|B) is better"
                raise ConfigError(problem, location=str(path), hint=hint)
        for delimiter in (*self.delimiters, *self.rating_delimiters, *self.listwise_delimiters):
            if len(delimiter) < 2 or "\\" in delimiter:
                hint = "use two characters or more, and no backslash"
                raise ConfigError(f"invalid delimiter {delimiter!r}", location=str(path), hint=hint)
        criteria = ("criteria",) if self.criteria else ()
        for key, template, others in (
            ("judge", self.judge, criteria),
            ("hindsight", self.hindsight, ("winner",)),
        ):
            required = (*_compared(template), *others)
            _check_template(template, f"{path}: {section}{key}", required, self.delimiters)
        if self.rating is not None:
            delimiters = (*self.delimiters, *self.rating_delimiters)
            _check_template(self.rating, f"{path}: {section}rating", (*_RATED, *criteria), delimiters)
        if self.listwise is not None:
            delimiters = (*self.delimiters, *self.listwise_delimiters)
            _check_template(self.listwise, f"{path}: {section}listwise", (*_LISTED, *criteria), delimiters)
            if self.listwise_hindsight is not None:
                required = (*_LISTED, "winner")
                location = f"{path}: {section}listwise_hindsight"
                _check_template(self.listwise_hindsight, location, required, delimiters)
        if self.direct != DirectWording():
            self.for_direct()._check(path, "direct.")

    def dump(self) -> str:
        """Return the file's text."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def list_verdicts(self, answers: int = len(LETTERS)) -> VerdictTexts:
        """Return the verdicts on a list, one for each of its answers in the order of the prompt."""
        return VerdictTexts(
            tuple(self.listwise_verdict.replace("{letter}", letter) for letter in LETTERS[:answers])
        )


_COMPARED = ("conversation", "answer_a", "answer_b")
_RATED = ("conversation", "answer")
_LISTED = ("conversation", "answers")


def _compared(template: str) -> tuple[str, ...]:
    """Return the variables that a template for pairs must show; in the file beside a judge of lists it shows a list."""
    listed = "answers" in jinja2.meta.find_undeclared_variables(SANDBOX.parse(template))
    return _LISTED if listed else _COMPARED


def _check_template(template: str, location: str, required: Sequence[str], delimiters: Sequence[str]) -> None:
    """Check that a template shows every required variable, and keeps judged text between its delimiters.

    Raises:
        ConfigError: a variable is missing; or part of a delimiter, in a judged text, and the template's own characters
            next to that text would form a delimiter.
    """
    variables = (*required, "criteria", "verdict_a", "verdict_b", "verdicts")
    values: dict[str, Any] = {name: f"\x00{name}\x00" for name in variables}
    if "answers" in required:
        values["answers"] = [{"letter": f"\x00letter {n}\x00", "text": f"\x00text {n}\x00"} for n in range(3)]
    shown = _render(template, **values)
    parts = {
        name: values[name] if isinstance(values[name], list) else [{"": values[name]}] for name in required
    }
    missing = [
        name
        for name, part in parts.items()
        if not all(text in shown for item in part for text in item.values())
    ]
    if missing:
        problem = f"the template does not show {', '.join(missing)}"
        raise ConfigError(problem, location=location, hint="add it")

    def render(text: str) -> str:
        own = {"verdict_a": "x", "verdict_b": "x", "winner": "A", "verdicts": "x"}
        judged: dict[str, Any] = dict.fromkeys((*_COMPARED, *_RATED, CRITERIA), text)
        judged["answers"] = lettered([text] * len(LETTERS))
        return _render(template, **own, **judged)

    check_delimiters(delimiters, render, location)


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    compiled = SANDBOX.from_string(template)
    # Rendering copies the globals, and a copy of Jinja2's ChainMap is slow.
    compiled.globals = dict(compiled.globals)
    return compiled


def lettered(texts: Sequence[str]) -> list[dict[str, str]]:
    """Return the answers of a list as its template gets them."""
    return [{"letter": letter, "text": text} for letter, text in zip(LETTERS, texts, strict=False)]


def _render(template: str, **values: Any) -> str:
    return _compiled(template).render(**values)


ROLE_HEADS = {"system": "[System]", "user": "[User]", "assistant": "[Assistant]"}
"""Headings of the turns of a conversation; delimiters of every prompt file."""


@lru_cache(maxsize=8)
def _variables(template: str) -> frozenset[str]:
    return frozenset(jinja2.meta.find_undeclared_variables(SANDBOX.parse(template)))


def history_texts(history: Sequence[Message], template: str, delimiters: Sequence[str]) -> dict[str, str]:
    """Return the variables `conversation` and, where the row has them, `criteria` of a template.

    Raises:
        ConfigError: the row has criteria, and the template does not show them.
    """
    criteria, turns = split_criteria(history)
    texts = {"conversation": conversation_text(turns, delimiters)}
    if not criteria:
        return texts
    if CRITERIA not in _variables(template):
        problem = "a row has criteria, and a template of the prompt file does not show them"
        hint = "add {% if criteria %}{{ criteria }}{% endif %} to it, or remove the rows' column `criteria`"
        raise ConfigError(problem, location="prompts", hint=hint)
    return texts | {CRITERIA: neutralise(criteria, delimiters)}


def conversation_text(history: Sequence[Message], delimiters: Sequence[str]) -> str:
    """Return a single user turn as its text, and several turns under the headings `[System]`, `[User]`, `[Assistant]`."""
    if len(history) == 1:
        return neutralise(history[0]["content"], delimiters)
    return "\n".join(
        f"{ROLE_HEADS[turn['role']]}\n{neutralise(turn['content'], delimiters)}" for turn in history
    )


def place(pair_id: str, seed: int) -> Order:
    """Return `AB` if the chosen answer is shown as A, `BA` if it is shown as B: a function of id and seed only."""
    return "AB" if unit_hash("place", seed, pair_id) < 0.5 else "BA"


def _pair_texts(
    pair: PreferencePair, order: Order, template: str, delimiters: Sequence[str]
) -> dict[str, Any]:
    sides = (pair.chosen, pair.rejected) if order == "AB" else (pair.rejected, pair.chosen)
    first, second = (neutralise(side, delimiters) for side in sides)
    return {
        **history_texts(pair.history, template, delimiters),
        "answer_a": first,
        "answer_b": second,
        "answers": lettered([first, second]),
    }


@lru_cache(maxsize=8)
def _criteria_texts(prompts: PromptFile) -> dict[str, str]:
    """Return a template's variables other than the judged texts."""
    lines = [
        f"- {c.name}{f' (weight {c.weight:g})' if c.weight != 1 else ''}{f': {c.text}' if c.text else ''}"
        for c in prompts.criteria
    ]
    return {"criteria": "\n".join(lines), "verdict_a": prompts.verdict.a, "verdict_b": prompts.verdict.b}


@lru_cache(maxsize=8)
def wording_id(prompts: PromptFile, template: str, delimiters: tuple[str, ...]) -> str:
    """Return the content hash of a wording: everything in a prompt except the judged texts."""
    default = not prompts.criteria and prompts.verdict == DEFAULT_GRAMMAR
    return content_id(template, delimiters, *([] if default else [_criteria_texts(prompts)]))


def user_turn(prompts: PromptFile, template: str, **texts: Any) -> tuple[Message, ...]:
    both = {"verdicts": f"{prompts.verdict.a} or {prompts.verdict.b}"}
    text = _render(template, **both | _criteria_texts(prompts) | texts)
    return ({"role": "user", "content": text},)


def judge_prompt(pair: PreferencePair, order: Order, prompts: PromptFile) -> JudgePrompt:
    """Render a pair in one order, as the judge's user turn."""
    texts = _pair_texts(pair, order, prompts.judge, prompts.delimiters)
    messages = user_turn(prompts, prompts.judge, **texts)
    winner: Letter = "A" if order == "AB" else "B"
    prompt_id = content_id(pair.id, order, wording_id(prompts, prompts.judge, prompts.delimiters))
    return JudgePrompt(prompt_id, pair.id, order, messages, winner, pair.source)


def placed_prompts(
    pair: PreferencePair, prompts: PromptFile, *, seed: int, both_orders: bool
) -> list[JudgePrompt]:
    """Render a pair in the order that the seed gives it (see `place`), and, for both orders, in the other one."""
    order = place(pair.id, seed)
    other: Order = "BA" if order == "AB" else "AB"
    return [judge_prompt(pair, o, prompts) for o in ((order, other) if both_orders else (order,))]


def hindsight_prompt(pair: PreferencePair, order: Order, prompts: PromptFile) -> tuple[Message, ...]:
    """Render a pair, and which answer is better, as the teacher's user turn."""
    texts = _pair_texts(pair, order, prompts.hindsight, prompts.delimiters)
    return user_turn(prompts, prompts.hindsight, winner="A" if order == "AB" else "B", **texts)


def rating_prompt(history: Sequence[Message], answer: str, prompts: PromptFile) -> RatingPrompt:
    """Render one answer as the user turn of a judge that rates it alone.

    Raises:
        ConfigError: the prompt file has no template `rating`.
    """
    wording = _required("rating", prompts.rating)
    delimiters = (*prompts.delimiters, *prompts.rating_delimiters)
    texts = history_texts(history, wording, delimiters) | {"answer": neutralise(answer, delimiters)}
    prompt_id = content_id(tuple(history), answer, wording_id(prompts, wording, delimiters))
    return RatingPrompt(prompt_id, user_turn(prompts, wording, **texts))


def _required(key: str, template: str | None) -> str:
    """Return a template that a prompt file may leave out.

    Raises:
        ConfigError: it has none.
    """
    if template is None:
        hint = f"add the keys `{key}` and `{key}_delimiters`, as in configs/prompts/judge.yaml"
        raise ConfigError(f"the prompt file has no key `{key}`", location=key, hint=hint)
    return template
