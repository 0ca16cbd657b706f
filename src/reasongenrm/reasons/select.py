"""Select one reason per prompt: pure functions of a prompt's scored reasons.

`rstar` follows R* (ReasonGRM, arXiv 2506.16712): it favours reasons that the student would write itself and that lead
it to the verdict. With the shipped formula, exp(mean log p(R|U)) · (2·exp(mean log p(A|U,R)) − 1), it is in (−1, 1)
and above 0 where the student gives the verdict a probability above 1/2. The other selectors are what papers compare
with: rejection sampling (a random, the longest or the shortest right reason; STaR, arXiv 2203.14465), the reason with
the most probable verdict, and self-consistency (arXiv 2203.11171).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from reasongenrm.chat.grammar import stated_verdicts
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.prepare import SelectConfig
from reasongenrm.data.points import coverage
from reasongenrm.errors import ConfigError, first_line
from reasongenrm.records import Drop, JudgePrompt, Reason, ScoredReason, Selector, unit_hash

Formula = Callable[[float, float], float]
"""R* from the mean log-probabilities of reason and verdict, in nats per token."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The reason selected for a prompt, and the value its selector gave it."""

    reason: ScoredReason
    value: float


Rule = Callable[..., Choice | None]
"""A selector: from the reasons of one prompt that may be selected, in any order, to one of them, or None. All scored reasons of the prompt,
where these are more, are its second argument: they vote."""


def compile_formula(text: str) -> Formula:
    """Compile a formula of `reason`, `verdict`, `exp` and `log`, in Jinja2's sandboxed expression language.

    Raises:
        ConfigError: the text is not an expression, or its value is not a number.
    """
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    try:
        compiled: Any = environment.compile_expression(text, undefined_to_none=False)
    except jinja2.TemplateError as error:
        raise _formula_error(text, error) from None

    def value(reason: float, verdict: float) -> float:
        try:
            return float(compiled(reason=reason, verdict=verdict, exp=math.exp, log=math.log))
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError) as error:
            raise _formula_error(text, error) from None

    value(-0.5, -0.25)  # raises here for an unknown name, or a value that is not a number
    return value


def _formula_error(text: str, error: Exception) -> ConfigError:
    hint = "write an expression such as exp(reason) * (2 * exp(verdict) - 1)"
    return ConfigError(f"cannot evaluate {text!r}: {first_line(error)}", location="select.formula", hint=hint)


def right_reasons(group: Iterable[ScoredReason]) -> list[ScoredReason]:
    """Return the reasons that conclude the label."""
    return [reason for reason in group if reason.verdict == reason.winner]


def _best_right(group: Sequence[ScoredReason], value: Callable[[ScoredReason], float]) -> Choice | None:
    """Return the right reason of the highest value; ties go to the lowest id."""
    candidates = [(value(reason), reason) for reason in right_reasons(group)]
    if not candidates:
        return None
    best, reason = min(candidates, key=lambda pair: (-pair[0], pair[1].id))
    return Choice(reason, round(best, 6))


def selector(config: SelectConfig, seed: int, name: Selector | None = None) -> Rule:
    """Return a selector as a function of one prompt's `eligible_reasons` and, where these are fewer, of all its scored reasons.

    Every selector selects only reasons that conclude the label; `rstar` also needs a value above `config.threshold`.
    Ties go to the lowest id.

    Args:
        config: names the selector, and holds R*'s formula and threshold.
        seed: of `random_correct`.
        name: the selector, instead of the config's.

    Raises:
        ConfigError: the formula cannot be evaluated.
    """
    formula = compile_formula(config.formula)

    def value(reason: ScoredReason) -> float:
        return formula(reason.reason_logprob, reason.verdict_logprob)

    def rstar(group: Sequence[ScoredReason], _: Sequence[ScoredReason]) -> Choice | None:
        return _best_right([r for r in right_reasons(group) if value(r) > config.threshold], value)

    rules: dict[Selector, Callable[[Sequence[ScoredReason], Sequence[ScoredReason]], Choice | None]] = {
        "rstar": rstar,
        "random_correct": lambda group, _: _best_right(group, lambda r: unit_hash("select", seed, r.id)),
        "longest_correct": lambda group, _: _best_right(group, lambda r: r.tokens),
        "shortest_correct": lambda group, _: _best_right(group, lambda r: -r.tokens),
        "max_p_verdict": lambda group, _: _best_right(group, lambda r: r.verdict_logprob),
        "self_consistency": _self_consistency,
    }
    rule = rules[name or config.selector]

    def select(group: Sequence[ScoredReason], sampled: Sequence[ScoredReason] = ()) -> Choice | None:
        return rule(group, sampled or group)

    return select


def _self_consistency(group: Sequence[ScoredReason], sampled: Sequence[ScoredReason]) -> Choice | None:
    """Select the likeliest right reason, where most samples conclude the label; its value is their share.

    Where there are blind samples, only they vote: hindsight teachers know the label.
    """
    voters = [reason for reason in sampled if reason.mode == "blind"] or list(sampled)
    share = len(right_reasons(voters)) / len(voters) if voters else 0.0
    best = _best_right(group, lambda r: r.reason_logprob)
    return Choice(best.reason, round(share, 6)) if best and share > 0.5 else None


def eligible_reasons(
    group: Sequence[ScoredReason], points: Sequence[str], config: SelectConfig
) -> Sequence[ScoredReason]:
    """Return the reasons of a prompt without the right ones that cover too few of the pair's reference points.

    A right verdict may follow from wrong steps: rejection by the verdict alone teaches these (RationaleRM,
    https://arxiv.org/abs/2602.04649, rewards a verdict only together with its reason).
    """
    if not config.rationale:
        return group
    return [
        reason
        for reason in group
        if reason.verdict != reason.winner or coverage(reason.text, points) >= config.rationale
    ]


def group_by_prompt(reasons: Iterable[ScoredReason]) -> Iterator[tuple[str, list[ScoredReason]]]:
    """Yield each prompt's id and scored reasons; a prompt's reasons are adjacent, as in `scored.jsonl`."""
    for prompt_id, group in groupby(reasons, key=lambda reason: reason.prompt_id):
        yield prompt_id, list(group)


def unfit_drop(
    reason: Reason, prompt: JudgePrompt, prompt_file: PromptFile, giveaway_words: int
) -> Drop | None:
    """Return why a reason is not worth scoring, or None where it is.

    A reason is not worth scoring when it failed, was truncated, is empty, has no verdict, or states a verdict within
    its first `giveaway_words` words (then it copies the hint instead of reasoning). One that concludes the other
    verdict is scored: it may become the rejected side of a preference record.
    """
    stated = stated_verdicts(reason.text, prompt_file.verdict_phrases, prompt_file.verdict)
    if reason.finish_reason == "error":
        slug, detail = "engine_error", f"engine error: {reason.error}"
    elif reason.finish_reason == "length":
        slug = "truncated"
        detail = f"truncated at teachers.{reason.teacher}.max_tokens; raise it if this is frequent"
    elif not reason.text:
        slug, detail = "empty_reason", "the teacher wrote no text"
    elif reason.verdict is None:
        slug, detail = "no_verdict", "the teacher stated no verdict"
    elif stated and stated[0][0] < giveaway_words:
        slug, detail = "gives_verdict_away", f"verdict stated after {stated[0][0]} words"
    else:
        return None
    return Drop(reason.id, prompt.source, slug, detail, "reason")


def unselected_drops(group: Iterable[ScoredReason], choice: Choice | None, source: str) -> Iterator[Drop]:
    """Yield a Drop for every scored reason of a prompt that was not selected.

    Where none was selected, right reasons are `not_selected`: below the threshold, or without a majority.
    """
    for reason in group:
        if choice and reason.id == choice.reason.id:
            continue
        if reason.verdict == reason.winner:
            slug = "not_the_best" if choice else "not_selected"
            detail = f"log p(R|U) {reason.reason_logprob:.3f}, log p(A|U,R) {reason.verdict_logprob:.3f}"
        else:
            slug = "contradicts_verdict" if reason.mode == "hindsight" else "wrong_verdict"
            detail = f"it concludes {reason.verdict}, the label is {reason.winner}"
        yield Drop(reason.id, source, slug, detail, "reason")
