"""Choose one reason per prompt: pure functions over a prompt's scored reasons, behind one interface.

`rstar` follows R* (ReasonGRM, arXiv 2506.16712): it favours reasons that the student would write itself and that lead
it to the verdict. With the shipped formula, exp(mean log p(R|U)) · (2·exp(mean log p(A|U,R)) − 1), it lies in (−1, 1)
and is above 0 where the student finds the verdict likelier than not. The other selectors are what papers compare with:
rejection sampling (a random, the longest or the shortest right reason; STaR, arXiv 2203.14465), the reason after which
the verdict is surest, and self-consistency (arXiv 2203.11171).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.chat.verdict import stated_verdicts
from reasongenrm.config.prepare import SelectConfig, Selector
from reasongenrm.errors import ConfigError, first_line
from reasongenrm.records import Drop, JudgePrompt, Reason, ScoredReason, unit_hash

Formula = Callable[[float, float], float]
"""R* from the mean log-probabilities of reason and verdict, in nats per token."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The reason kept for a prompt, and the value its selector gave it."""

    reason: ScoredReason
    value: float


Rule = Callable[[Sequence[ScoredReason]], Choice | None]
"""What every selector is: the scored reasons of one prompt, in any order, to the one that is kept."""


def formula(text: str) -> Formula:
    """Compile a formula of `reason`, `verdict`, `exp` and `log`, in Jinja2's sandboxed expression language.

    Raises:
        ConfigError: it is no expression, or gives no number.
    """
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    try:
        compiled: Any = environment.compile_expression(text, undefined_to_none=False)
    except jinja2.TemplateError as error:
        raise _no_formula(text, error) from None

    def value(reason: float, verdict: float) -> float:
        try:
            return float(compiled(reason=reason, verdict=verdict, exp=math.exp, log=math.log))
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError) as error:
            raise _no_formula(text, error) from None

    value(-0.5, -0.25)  # an unknown name, or a value that is no number
    return value


def _no_formula(text: str, error: Exception) -> ConfigError:
    hint = "write an expression such as exp(reason) * (2 * exp(verdict) - 1)"
    return ConfigError(f"{text!r} does not work: {first_line(error)}", location="select.formula", hint=hint)


def right(group: Iterable[ScoredReason]) -> list[ScoredReason]:
    """Return the reasons that conclude the label."""
    return [reason for reason in group if reason.verdict == reason.winner]


def _best(group: Sequence[ScoredReason], value: Callable[[ScoredReason], float]) -> Choice | None:
    """The right reason of the highest value; ties go to the lowest id."""
    candidates = right(group)
    if not candidates:
        return None
    valued = [(value(reason), reason) for reason in candidates]
    best, reason = min(valued, key=lambda pair: (-pair[0], pair[1].id))
    return Choice(reason, round(best, 6))


def selector(config: SelectConfig, seed: int, name: Selector | None = None) -> Rule:
    """Return a selector as a function of one prompt's scored reasons.

    All of them keep reasons that conclude the label alone; `rstar` also wants a value above `config.threshold`.
    Ties go to the lowest id.

    Args:
        config: names the selector, and holds R*'s formula and threshold.
        seed: of `random_correct`.
        name: another selector than the config's.

    Raises:
        ConfigError: the formula does not work.
    """
    value = formula(config.formula)

    def rstar(group: Sequence[ScoredReason]) -> Choice | None:
        best = _best(group, lambda r: value(r.reason_logprob, r.verdict_logprob))
        # Not the rounded value: a threshold compares with what the formula gave.
        return (
            best
            if best and value(best.reason.reason_logprob, best.reason.verdict_logprob) > config.threshold
            else None
        )

    rules: dict[Selector, Rule] = {
        "rstar": rstar,
        "random_correct": lambda group: _best(group, lambda r: unit_hash("select", seed, r.id)),
        "longest_correct": lambda group: _best(group, lambda r: r.tokens),
        "shortest_correct": lambda group: _best(group, lambda r: -r.tokens),
        "max_p_verdict": lambda group: _best(group, lambda r: r.verdict_logprob),
        "self_consistency": _self_consistency,
    }
    return rules[name or config.selector]


def _self_consistency(group: Sequence[ScoredReason]) -> Choice | None:
    """The likeliest right reason, where most samples conclude the label; valued by their share.

    Where there are blind samples they alone vote: the others were told.
    """
    voters = [reason for reason in group if reason.mode == "blind"] or list(group)
    share = len(right(voters)) / len(voters) if voters else 0.0
    best = _best(group, lambda r: r.reason_logprob)
    return Choice(best.reason, round(share, 6)) if best and share > 0.5 else None


def groups(scored: Iterable[ScoredReason]) -> Iterator[tuple[str, list[ScoredReason]]]:
    """Yield each prompt's id and scored reasons; a prompt's reasons stand together, as in `scored.jsonl`."""
    for prompt_id, group in groupby(scored, key=lambda reason: reason.prompt_id):
        yield prompt_id, list(group)


def _drop(reason: Reason | ScoredReason, source: str, slug: str, detail: str) -> Drop:
    return Drop(reason.id, source, slug, detail, "reason")


def unfit(reason: Reason, prompt: JudgePrompt, prompts: PromptFile, giveaway_words: int) -> Drop | None:
    """Return why a reason is not worth scoring, or None.

    A reason is unfit when it failed, was cut, is empty, reaches no verdict, or states a verdict within its first
    `giveaway_words` words (it was copied from the hint instead of reasoned). One that concludes the other verdict
    is scored: it may become the rejected side of a preference record.
    """
    if reason.finish_reason == "error":
        return _drop(reason, prompt.source, "engine_error", f"the engine says: {reason.error}")
    if reason.finish_reason == "length":
        detail = f"the reason hit teachers.{reason.teacher}.max_tokens; raise it if there are many"
        return _drop(reason, prompt.source, "truncated", detail)
    if not reason.text:
        return _drop(reason, prompt.source, "empty_reason", "the teacher wrote nothing")
    if reason.verdict is None:
        return _drop(reason, prompt.source, "no_verdict", "the blind teacher stated no verdict")
    stated = stated_verdicts(reason.text, prompts.verdict_phrases, prompts.verdict)
    if stated and stated[0][0] < giveaway_words:
        detail = f"verdict stated after {stated[0][0]} words"
        return _drop(reason, prompt.source, "gives_verdict_away", detail)
    return None


def losers(group: Iterable[ScoredReason], kept: Choice | None, source: str) -> Iterator[Drop]:
    """Yield a Drop for every scored reason of a prompt that was not kept.

    Where nothing was kept, right reasons are `not_selected`: below the threshold, or without a majority.
    """
    for reason in group:
        if kept and reason.id == kept.reason.id:
            continue
        if reason.verdict != reason.winner:
            slug = "contradicts_verdict" if reason.mode == "hindsight" else "wrong_verdict"
            detail = f"it ends in {reason.verdict}, the label is {reason.winner}"
            yield _drop(reason, source, slug, detail)
        else:
            odds = f"log p(R|U) {reason.reason_logprob:.3f}, log p(A|U,R) {reason.verdict_logprob:.3f}"
            yield _drop(reason, source, "not_the_best" if kept else "not_selected", odds)
