"""Records for preference and reinforcement learning, from reasons that were sampled and scored: pure functions.

A reason is *right* when it concludes the label and does not lead the student away from it, P(A|U,R) >= 1/2; otherwise
it is *wrong*: it concludes the other verdict, or it leads there. It is *fluent* as far as the student would write it
itself, P(R|U). Both are the probabilities of R* (`reasons/select.py`): exponentials of mean log-probabilities, so
geometric means per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from reasongenrm.chat.grammar import DEFAULT, Grammar, verdict_text
from reasongenrm.config.prepare import Corner, DPOConfig, GRPOConfig
from reasongenrm.records import JudgePrompt, Letter, Message, Reason, ScoredReason


def p_reason(scored: ScoredReason) -> float:
    """Return P(R|U) in (0, 1], per token."""
    return math.exp(scored.reason_logprob)


def p_verdict(scored: ScoredReason) -> float:
    """Return P(A|U,R) of the right verdict in (0, 1], per token."""
    return math.exp(scored.verdict_logprob)


def is_right(scored: ScoredReason) -> bool:
    """Whether a reason concludes the label and does not lead the student to the other verdict."""
    return scored.verdict == scored.winner and p_verdict(scored) >= 0.5


CORNERS: dict[Corner, tuple[bool, Callable[[ScoredReason], float]]] = {
    "right_fluent": (True, lambda s: p_verdict(s) * p_reason(s)),
    "right_disfluent": (True, lambda s: p_verdict(s) * (1 - p_reason(s))),
    "wrong_fluent": (False, lambda s: (1 - p_verdict(s)) * p_reason(s)),
    "wrong_disfluent": (False, lambda s: (1 - p_verdict(s)) * (1 - p_reason(s))),
}
"""Corner -> whether its reasons are right, and its value in [0, 1]; the reason of the highest value stands in it."""


def in_corner(group: Iterable[ScoredReason], corner: Corner) -> ScoredReason | None:
    """Return the reason of one prompt that stands furthest in a corner, or None where none is right (or wrong).

    `wrong_fluent` is the argmin of −(1 − P(A|U,R))·P(R|U). Ties go to the lowest id.
    """
    right, value = CORNERS[corner]
    candidates = [scored for scored in group if is_right(scored) == right]
    return min(candidates, key=lambda scored: (-value(scored), scored.id), default=None)


def dpo_pair(group: Iterable[ScoredReason], config: DPOConfig) -> tuple[ScoredReason, ScoredReason] | None:
    """Return the chosen and the rejected reason of one prompt's group.

    None where a corner is empty, or where both corners hold the same text: it cannot be better than itself.
    """
    group = list(group)
    chosen, rejected = in_corner(group, config.chosen), in_corner(group, config.rejected)
    if chosen is None or rejected is None:
        return None
    same = _completion(chosen) == _completion(rejected)
    return None if same else (chosen, rejected)


def final_verdict(scored: ScoredReason) -> Letter:
    """Return the verdict that is written behind a reason: of a right one the label, of a wrong one the other.

    That is what the reason concludes, but for one that concludes the label and leads the student away from it: behind
    that one stands what the student would write, so that no rejected completion ends in the right verdict.
    """
    if is_right(scored):
        return scored.winner
    return "B" if scored.winner == "A" else "A"


def _completion(scored: ScoredReason, grammar: Grammar = DEFAULT) -> list[Message]:
    return [
        Message(role="reason", content=scored.text),
        Message(role="assistant", content=verdict_text(final_verdict(scored), grammar)),
    ]


def dpo_row(
    prompt: JudgePrompt, chosen: ScoredReason, rejected: ScoredReason, grammar: Grammar = DEFAULT
) -> dict[str, Any]:
    """Return a row of `dpo.jsonl` in TRL's conversational preference format (`prompt`, `chosen`, `rejected`).

    Beside these stand `id` (the judge prompt's), `pair_id`, `source`, and for both sides `scores` (P(R|U) as `reason`,
    P(A|U,R) as `verdict`) and `teachers`.
    """
    sides = {"chosen": chosen, "rejected": rejected}
    return {
        "prompt": list(prompt.messages),
        **{name: _completion(scored, grammar) for name, scored in sides.items()},
        "id": prompt.id,
        "pair_id": prompt.pair_id,
        "source": prompt.source,
        "scores": {
            name: {"reason": round(p_reason(scored), 6), "verdict": round(p_verdict(scored), 6)}
            for name, scored in sides.items()
        },
        "teachers": {name: scored.teacher for name, scored in sides.items()},
    }


def solve_rate(reasons: Sequence[Reason], winner: Letter) -> tuple[int, int]:
    """Return how many of the student's blind samples of one prompt end in the right verdict, and of how many.

    A sample that was cut, or states no verdict, is not solved; one that the engine failed on is not counted, nor is
    a reason in hindsight.

    Args:
        reasons: the student's samples of one prompt.
        winner: the right verdict.
    """
    counted = [r for r in reasons if r.mode == "blind" and r.finish_reason != "error"]
    solved = sum(r.verdict == winner and r.finish_reason != "length" for r in counted)
    return solved, len(counted)


def worth_learning(solved: int, samples: int, config: GRPOConfig) -> bool:
    """Whether a prompt's solve rate lies between the bounds, both excluded; never without a sample."""
    return samples > 0 and config.above < solved / samples < config.below


def grpo_row(prompt: JudgePrompt, solved: int, samples: int) -> dict[str, Any]:
    """Return a row of `grpo.jsonl`: TRL's conversational `prompt`; the other columns go to the reward function.

    These are `winner` (A or B), `solve_rate` in [0, 1] and the number of `samples` it is over, `id`, `pair_id` and
    `source`.

    Raises:
        ValueError: no samples.
    """
    if samples < 1:
        raise ValueError("a solve rate wants at least one sample")
    return {
        "prompt": list(prompt.messages),
        "winner": prompt.winner,
        "solve_rate": round(solved / samples, 6),
        "samples": samples,
        "id": prompt.id,
        "pair_id": prompt.pair_id,
        "source": prompt.source,
    }
