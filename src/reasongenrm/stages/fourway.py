"""Four-way mode of stage 3: RewardBench 2's official protocol, one prompt with all four answers of a row in a seeded order.

Upstream (`scripts/run_generative_v2.py`) swaps the right answer into a random place without a seed, and rates the answers of
Ties one by one, as is done here too.
"""

from __future__ import annotations

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import EvaluationSettings
from reasongenrm.errors import ConfigError
from reasongenrm.records import ListVerdict, PairResult, Row


def check_fourway(recipe: EvaluationSettings) -> None:
    """Check that the prompt file has the wordings for lists and for ratings, if a benchmark needs them.

    Raises:
        ConfigError: the prompt file lacks the key `listwise` or `rating`.
    """
    names = [name for name, config in recipe.evaluate.benchmarks.items() if config.mode == "fourway"]
    if not names:
        return
    prompts = PromptFile.load(recipe.prompts)
    missing = [key for key in ("listwise", "rating") if getattr(prompts, key) is None]
    if missing:
        raise ConfigError(
            f"{recipe.prompts} has no key `{missing[0]}`",
            location=f"evaluate.benchmarks.{names[0]}.mode",
            hint=f"add `{missing[0]}` and `{missing[0]}_delimiters`, as in configs/prompts/judge.yaml",
        )


def list_results(row: Row, verdict: ListVerdict) -> dict[str, PairResult]:
    """Return a verdict on all answers of a row as results of the row's comparisons, pair id -> result.

    The best answer has the score 1, every other one 0: `rewardbench2.best_of_n` then gives 1 for the right answer and 0 for
    another one. Answers that share the highest probability all have the score 1; without a readable verdict all have
    0, so that four of them give upstream's 0.25. All comparisons of a row have the outcome of its verdict.
    """
    top = max(verdict.probs) if verdict.probs else None
    scores = [
        float(n == verdict.winner or (verdict.outcome == "tie" and (top is None or verdict.probs[n] == top)))  # type: ignore[index]
        for n in range(len(row.answers))
    ]
    outcome: str = verdict.outcome
    if outcome == "ok":
        outcome = "correct" if verdict.winner is not None and verdict.winner < row.right else "wrong"
    credit = {"correct": 1.0, "wrong": 0.0}.get(outcome, 0.5)
    return {
        pair.id: PairResult(
            pair.id, row.subset, (), (credit,), (outcome,), (scores[right], scores[wrong]), verdict.rescued
        )
        for pair, (right, wrong) in zip(row.pairs, row.places, strict=True)
    }
