"""The one place that turns a pair into a judge prompt, and a judge prompt into token ids.

Judged text is data. Two walls keep it from becoming structure: the delimiters of the prompt file are broken up
inside judged text (`neutralise`), and contents are tokenised apart from the chat template's markers
(`ChatEncoder`), so that `<|im_end|>` inside an answer is a handful of ordinary tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reasongenrm.chat.grammar import DEFAULT, Grammar
from reasongenrm.errors import ConfigError, first_line
from reasongenrm.records import (
    JudgePrompt,
    Letter,
    Message,
    Order,
    PreferencePair,
    RatingPrompt,
    content_id,
    unit_hash,
)

_TEXT = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=False, autoescape=False
)


class Criterion(BaseModel):
    """Something that a judge is to look at.

    Attributes:
        name: a word or two.
        text: what it means; may be empty.
        weight: how much it counts beside the others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    text: str = ""
    weight: float = Field(1.0, gt=0)


class PromptFile(BaseModel):
    """A judge's wording, one YAML file in `configs/prompts/`.

    Attributes:
        judge: Jinja2 text with `conversation`, `answer_a` and `answer_b`: the judge's user turn. It may also show
            `criteria` and `verdict_a`, `verdict_b`.
        hindsight: the same with `winner` (A or B): the teacher's user turn.
        criteria: what the judge is to look at, with weights; a template that is given some must show them.
        verdict: how the judge writes its verdict.
        delimiters: literal strings that separate judged text from instructions: two characters or more, and no
            backslash.
        verdict_phrases: regular expressions, one group (A or B) each, by which a reason states its verdict.
        rating: Jinja2 text with `conversation` and `answer`: the user turn of a judge that rates one answer alone and
            closes with `[[1]]` to `[[10]]`; without it the judge can only compare.
        rating_delimiters: further delimiters of that template; a key of their own, since the others' wording, and
            with it the ids of their prompts, does not depend on them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    judge: str
    hindsight: str
    delimiters: tuple[str, ...]
    verdict_phrases: tuple[str, ...]
    criteria: tuple[Criterion, ...] = ()
    verdict: Grammar = DEFAULT
    rating: str | None = None
    rating_delimiters: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> PromptFile:
        """Read and check a prompt file.

        Raises:
            ConfigError: the file is missing, is no YAML, has an unknown key, or a template that does not render.
        """
        try:
            raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (FileNotFoundError, IsADirectoryError):
            raise ConfigError(
                "prompt file not found", location=str(path), hint="check `prompts` in the recipe"
            ) from None
        except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8
            problem = getattr(error, "problem", None) or first_line(error)
            raise ConfigError(f"no valid YAML: {problem}", location=str(path)) from None
        try:
            prompts = cls.model_validate(raw)
            for pattern in prompts.verdict_phrases:
                if re.compile(pattern).groups != 1:
                    raise ConfigError(
                        f"verdict phrase {pattern!r} needs exactly one group", location=str(path)
                    )
            for delimiter in (*prompts.delimiters, *prompts.rating_delimiters):
                if len(delimiter) < 2 or "\\" in delimiter:
                    raise ConfigError(
                        f"delimiter {delimiter!r} cannot be broken up",
                        location=str(path),
                        hint="give it two characters or more, and no backslash",
                    )
            shown = (*_SHOWN, "criteria") if prompts.criteria else _SHOWN
            _check_shows(prompts.judge, "judge", shown, path)
            _check_shows(prompts.hindsight, "hindsight", (*_SHOWN, "winner"), path)
            _check_alone(prompts.judge, "judge", prompts.delimiters, path)
            _check_alone(prompts.hindsight, "hindsight", prompts.delimiters, path)
            if prompts.rating is not None:
                _check_shows(prompts.rating, "rating", (*_RATED, *shown[len(_SHOWN) :]), path)
                between = (*prompts.delimiters, *prompts.rating_delimiters)
                _check_alone(prompts.rating, "rating", between, path)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(first["msg"], location=f"{path}: {'.'.join(map(str, first['loc']))}") from None
        except (jinja2.TemplateError, re.error) as error:
            raise ConfigError(
                f"a template or pattern does not work: {first_line(error)}", location=str(path)
            ) from None
        return prompts.model_copy(
            update={"delimiters": tuple(dict.fromkeys((*prompts.delimiters, *ROLE_HEADS.values())))}
        )


_SHOWN = ("conversation", "answer_a", "answer_b")


_RATED = ("conversation", "answer")


def _check_shows(template: str, name: str, shown: Sequence[str], path: str | Path) -> None:
    """Raise a ConfigError where a template leaves out something that its reader must see."""
    given = (*shown, "criteria", "verdict_a", "verdict_b")
    text = _fill(template, **{value: f"\x00{value}\x00" for value in given})
    missing = [value for value in shown if f"\x00{value}\x00" not in text]
    if missing:
        raise ConfigError(f"it does not show {', '.join(missing)}", location=f"{path}: {name}", hint="add it")


def _check_alone(template: str, name: str, delimiters: Sequence[str], path: str | Path) -> None:
    """Raise a ConfigError where a delimiter's beginning or end, in a judged text, and the template's own characters
    beside that text would make a delimiter."""

    def count(delimiter: str, text: str) -> int:
        own = {"criteria": "x", "verdict_a": "x", "verdict_b": "x", "winner": "A"}
        given = neutralise(text, delimiters)
        rendered = _fill(template, **own, **dict.fromkeys((*_SHOWN, *_RATED), given))
        return len(re.findall(f"(?={re.escape(delimiter)})", rendered))

    for delimiter in delimiters:
        wanted = count(delimiter, "x")
        for part in [p for at in range(1, len(delimiter)) for p in (delimiter[:at], delimiter[at:])]:
            if count(delimiter, part) != wanted:
                raise ConfigError(
                    f"the judged text {part!r} would complete the delimiter {delimiter!r}",
                    location=f"{path}: {name}",
                    hint="put every delimiter on a line of its own, and let it begin and end in brackets",
                )


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    compiled = _TEXT.from_string(template)
    compiled.globals = dict(compiled.globals)  # rendering copies them, and Jinja2's ChainMap copies slowly
    return compiled


def _fill(template: str, **values: str) -> str:
    return _compiled(template).render(**values)


ROLE_HEADS = {"system": "[System]", "user": "[User]", "assistant": "[Assistant]"}
"""What stands above each turn of a conversation of several turns; delimiters of every prompt file."""


def neutralise(text: str, delimiters: Sequence[str]) -> str:
    """Break up every delimiter inside judged text by a backslash after its first character.

    The rest of a delimiter is looked at and not consumed, so that `###` in `####` is broken up at both places.
    """
    for delimiter in delimiters:
        # It hardly ever is there: looking for one character, then for the whole, is much faster than the expression.
        if delimiter[0] in text and delimiter in text:
            text = re.sub(f"{re.escape(delimiter[0])}(?={re.escape(delimiter[1:])})", r"\g<0>\\", text)
    if not text.isascii():
        # Tokenizers compose characters, and read half of a surrogate pair as a question mark: what comes of that.
        read = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))
        if read != text and any(delimiter in read for delimiter in delimiters):
            return neutralise(read, delimiters)
    return text


def _conversation(history: Sequence[Message], delimiters: Sequence[str]) -> str:
    """A single user turn is its bare text; several turns are headed by `[System]`, `[User]`, `[Assistant]`."""
    if len(history) == 1:
        return neutralise(history[0]["content"], delimiters)
    return "\n".join(
        f"{ROLE_HEADS[turn['role']]}\n{neutralise(turn['content'], delimiters)}" for turn in history
    )


def place(pair_id: str, seed: int) -> Order:
    """Return whether the chosen answer stands as A (`AB`) or B (`BA`): a function of (id, seed) alone."""
    return "AB" if unit_hash("place", seed, pair_id) < 0.5 else "BA"


def swap(order: Order) -> Order:
    """Return the other order."""
    return "BA" if order == "AB" else "AB"


def _texts(pair: PreferencePair, order: Order, delimiters: Sequence[str]) -> dict[str, str]:
    first, second = (pair.chosen, pair.rejected) if order == "AB" else (pair.rejected, pair.chosen)
    return {
        "conversation": _conversation(pair.history, delimiters),
        "answer_a": neutralise(first, delimiters),
        "answer_b": neutralise(second, delimiters),
    }


@lru_cache(maxsize=8)
def _own_texts(criteria: tuple[Criterion, ...], grammar: Grammar) -> dict[str, str]:
    """What a template may show beside the judged texts."""
    lines = [
        f"- {c.name}{f' (weight {c.weight:g})' if c.weight != 1 else ''}{f': {c.text}' if c.text else ''}"
        for c in criteria
    ]
    return {"criteria": "\n".join(lines), "verdict_a": grammar.a, "verdict_b": grammar.b}


@lru_cache(maxsize=8)
def wording_id(
    template: str,
    delimiters: tuple[str, ...],
    criteria: tuple[Criterion, ...] = (),
    grammar: Grammar = DEFAULT,
) -> str:
    """Return the content hash of a wording, of which a rendered prompt is a function."""
    own = [] if not criteria and grammar == DEFAULT else [_own_texts(criteria, grammar)]
    return content_id(template, delimiters, *own)


def judge_prompt(pair: PreferencePair, order: Order, prompts: PromptFile) -> JudgePrompt:
    """Render what the judge reads: one user turn."""
    own = _own_texts(prompts.criteria, prompts.verdict)
    text = _fill(prompts.judge, **_texts(pair, order, prompts.delimiters), **own)
    messages: tuple[Message, ...] = ({"role": "user", "content": text},)
    winner: Letter = "A" if order == "AB" else "B"
    wording = wording_id(prompts.judge, prompts.delimiters, prompts.criteria, prompts.verdict)
    name = content_id(pair.id, order, wording)
    return JudgePrompt(name, pair.id, order, messages, winner, pair.source)


def hindsight_prompt(pair: PreferencePair, order: Order, prompts: PromptFile) -> tuple[Message, ...]:
    """Render what the teacher reads: the same pair, and which answer is better."""
    winner = "A" if order == "AB" else "B"
    own = _own_texts(prompts.criteria, prompts.verdict)
    text = _fill(prompts.hindsight, winner=winner, **_texts(pair, order, prompts.delimiters), **own)
    return ({"role": "user", "content": text},)


def rating_prompt(history: Sequence[Message], answer: str, prompts: PromptFile) -> RatingPrompt:
    """Render what a judge reads that rates one answer alone: one user turn.

    Raises:
        ConfigError: the prompt file has no wording for it.
    """
    if prompts.rating is None:
        raise ConfigError(
            "the prompt file says nothing of rating one answer alone",
            location="rating",
            hint="give it the keys `rating` and `rating_delimiters`, as configs/prompts/judge.yaml has them",
        )
    delimiters = (*prompts.delimiters, *prompts.rating_delimiters)
    texts = {"conversation": _conversation(history, delimiters), "answer": neutralise(answer, delimiters)}
    text = _fill(prompts.rating, **texts, **_own_texts(prompts.criteria, prompts.verdict))
    wording = wording_id(prompts.rating, delimiters, prompts.criteria, prompts.verdict)
    return RatingPrompt(content_id(tuple(history), answer, wording), ({"role": "user", "content": text},))
