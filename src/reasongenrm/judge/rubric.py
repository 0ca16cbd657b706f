"""Scores of one reply by all criteria of a rubric at once: the JSON answer, its schema, reading it, and the mean of samples."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema, with_config
from typing_extensions import TypedDict

from reasongenrm.chat.rubric_prompt import RubricPrompt
from reasongenrm.config.rubric import Criterion, Rubric
from reasongenrm.errors import first_line
from reasongenrm.records import Completion, Judgment, Message
from reasongenrm.rows.turns import replace_surrogates

SampleOutcome = Literal["ok", "refused", "unreadable", "truncated", "error"]
OUTCOMES: tuple[SampleOutcome, ...] = ("ok", "refused", "unreadable", "truncated", "error")
USAGE = ("input", "output", "cached_input", "cache_write")
"""Tokens that a server charges; the last two are among `input`."""

_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""Names of properties that servers accept in a schema."""

_FENCE = re.compile(r"\s*```(?:json)?[^\S\n]*\n(.*)\n[^\S\n]*```\s*", re.DOTALL)
"""A Markdown code block that is the whole reply."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One judgement of one reply.

    Attributes:
        outcome: `ok`, `refused` (the judge declined), `unreadable`, `truncated` or `error`.
        scores: criterion -> score on its scale; empty unless `ok`.
        rationale: the judge's; empty unless `ok`.
        problem: why there are no scores; empty if `ok`.
        text: the answer that has none; empty if `ok`.
        usage: tokens by the names in `USAGE`.
    """

    outcome: SampleOutcome
    scores: dict[str, float] = field(default_factory=dict)
    rationale: str = ""
    problem: str = ""
    text: str = ""
    usage: dict[str, int] = field(default_factory=dict)


class UnreadableAnswer(ValueError):
    """An answer that is not of the rubric's schema; the text is the reason."""


def answer_keys(rubric: Rubric) -> dict[str, str]:
    """Return each criterion's name -> its key in the answer: the names, or `criterion_1`, … where a server could refuse one."""
    names = [criterion.name for criterion in rubric.criteria]
    if all(map(_KEY.fullmatch, names)):
        return {name: name for name in names}
    return {name: f"criterion_{number}" for number, name in enumerate(names, 1)}


def answer_form(rubric: Rubric) -> str:
    """Return the form of an answer for the prompt: servers without schemas have nothing else."""
    keys = answer_keys(rubric)
    scores = ", ".join(
        f'"{keys[c.name]}": <whole number from {c.scale[0]} to {c.scale[1]}>' for c in rubric.criteria
    )
    return f'{{"rationale": "<text>", "scores": {{{scores}}}}}'


def _score_type(criterion: Criterion) -> Any:
    low, high = criterion.scale
    # Servers know `enum`, not all of them `minimum` and `maximum`.
    schema = {"type": "integer", "enum": list(range(low, high + 1))}
    return Annotated[int, Field(strict=True, ge=low, le=high), WithJsonSchema(schema)]


@lru_cache(maxsize=64)
def _answer_type(rubric: Rubric) -> TypeAdapter[Any]:
    """Return the type of an answer: it checks one, and has the schema."""
    strict = with_config(ConfigDict(extra="forbid", strict=True))
    keys = answer_keys(rubric)
    fields = {keys[c.name]: _score_type(c) for c in rubric.criteria}
    scores = strict(TypedDict("Scores", fields))  # type: ignore[operator]
    return TypeAdapter(strict(TypedDict("Answer", {"rationale": str, "scores": scores})))  # type: ignore[operator]


def answer_schema(rubric: Rubric) -> dict[str, Any]:
    """Return the JSON schema of an answer: `rationale`, which comes first, and `scores`."""
    schema = _answer_type(rubric).json_schema()
    schema["properties"]["scores"] = schema.pop("$defs")["Scores"]
    return _without_titles(schema)


def _without_titles(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of objects without the titles that pydantic adds."""
    kept = {key: value for key, value in schema.items() if key != "title"}
    if "properties" in kept:
        kept["properties"] = {name: _without_titles(part) for name, part in kept["properties"].items()}
    return kept


def rubric_turn(rubric: Rubric, prompt: RubricPrompt) -> Message:
    """Return the system turn: criteria without their weights, which only the weighted score has, and the form."""
    keys = answer_keys(rubric)
    criteria = [
        {
            "key": keys[c.name],
            "name": c.name,
            "text": c.text,
            "scale": c.scale,
            "levels": dict(sorted(c.levels.items())),
        }
        for c in rubric.criteria
    ]
    return prompt.rubric_turn(criteria, answer_form(rubric))


def _object_without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    name, count = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 1)
    if count > 1:
        raise UnreadableAnswer(f"the key {name!r} occurs {count} times")
    return dict(pairs)


def read_answer(text: str, rubric: Rubric) -> tuple[dict[str, float], str]:
    """Return the scores and the rationale of an answer: one JSON object, alone or as the only code block.

    Raises:
        UnreadableAnswer: it is not JSON, has more text, lacks a criterion, has another one, or a score is off its scale.
    """
    fenced = _FENCE.fullmatch(text)
    try:
        raw = json.loads(fenced[1] if fenced else text, object_pairs_hook=_object_without_repeats)
        answer = _answer_type(rubric).validate_python(raw)
    except UnreadableAnswer:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the answer"
        value = f", not {json.dumps(first['input'])[:80]}" if isinstance(first["input"], int | float) else ""
        raise UnreadableAnswer(f"{place}: {first['msg']}{value}") from None
    except (ValueError, RecursionError) as error:
        raise UnreadableAnswer(f"invalid JSON: {first_line(error)}") from None
    keys = answer_keys(rubric)
    return {name: float(answer["scores"][key]) for name, key in keys.items()}, replace_surrogates(
        answer["rationale"]
    )


def read_sample(completion: Completion, rubric: Rubric) -> Sample:
    """Return the sample in a server's completion; one that cannot be read has no scores, and says why."""
    text, usage = completion.text, usage_of(completion)
    if completion.finish_reason == "error":
        outcome: SampleOutcome = "refused" if completion.refused else "error"
        return Sample(outcome, problem=completion.error or "no message", text=text, usage=usage)
    try:
        scores, rationale = read_answer(text, rubric)
    except UnreadableAnswer as error:
        if completion.finish_reason == "length":
            problem = f"the answer ends after {completion.tokens} tokens: raise max_tokens"
            return Sample("truncated", problem=problem, text=text, usage=usage)
        return Sample("unreadable", problem=str(error), text=text, usage=usage)
    return Sample("ok", scores, rationale, usage=usage)


def usage_of(completion: Completion) -> dict[str, int]:
    """Return the tokens of a completion by the names in `USAGE`."""
    counts = (completion.prompt_tokens, completion.tokens, completion.cached, completion.cache_write)
    return dict(zip(USAGE, counts, strict=True))


def sum_usage(usages: Iterable[dict[str, int]]) -> dict[str, int]:
    """Return the sum of tokens, with all names in `USAGE`."""
    total = Counter(dict.fromkeys(USAGE, 0))
    for usage in usages:
        total.update(usage)
    return dict(total)


def combine_samples(conversation_id: str, rubric: Rubric, samples: Sequence[Sample]) -> Judgment:
    """Return the mean of the samples that can be read, and the outcomes and tokens of all."""
    scored = [sample for sample in samples if sample.outcome == "ok"]
    scores = {c.name: fmean(sample.scores[c.name] for sample in scored) for c in rubric.criteria if scored}
    outcomes = Counter(sample.outcome for sample in samples)
    return Judgment(
        conversation_id,
        scores,
        rubric.weighted_score(scores) if scored else None,
        scored[0].rationale if scored else "",
        tuple(sample.scores for sample in scored),
        {name: outcomes[name] for name in OUTCOMES if outcomes[name]},
        sum_usage(sample.usage for sample in samples),
    )
