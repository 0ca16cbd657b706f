"""Stage 3's ratings mode: a judge rates every answer of a benchmark alone, and ratings are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reasongenrm.chat.prompts import PromptFile, rating_prompt
from reasongenrm.config.evaluate import BenchmarkKind
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import say
from reasongenrm.errors import ConfigError
from reasongenrm.judge.ask import read_all, sampling_settings
from reasongenrm.judge.rate import RatingTask
from reasongenrm.metrics.diagnostics import Diagnostics
from reasongenrm.records import PairResult, PreferencePair, Rating, Row
from reasongenrm.run import Run
from reasongenrm.stages.judging import Judges, ModelResults
from reasongenrm.store import read_jsonl, to_json, write_json, write_jsonl

UNREAD: dict[BenchmarkKind, float] = {"rewardbench2": -1.0}
"""What a benchmark's own code counts a rating as that cannot be read: a score below all others. RewardBench 2:
`_get_single_rating` in upstream's `generative_v2.py`; four such answers of a row share its 0.25."""

OUTCOMES = ("ok", "unparsed", "truncated", "error")


def check_rating(recipe: Recipe) -> None:
    """Refuse a recipe that rates answers without saying how, before anything is loaded.

    Raises:
        ConfigError: its prompt file has no key `rating`.
    """
    rated = [name for name, config in recipe.evaluate.benchmarks.items() if config.mode == "ratings"]
    if rated and PromptFile.load(recipe.prompts).rating is None:
        raise ConfigError(
            f"{recipe.prompts} says nothing of rating one answer alone",
            location=f"evaluate.benchmarks.{rated[0]}.mode",
            hint="give it the keys `rating` and `rating_delimiters`, as configs/prompts/judge.yaml has them",
        )


def rated_results(
    recipe: Recipe, run: Run, judges: Judges, name: str, benchmark: str, rows: Sequence[Row]
) -> ModelResults:
    """Have one model rate every answer of a benchmark's rows; what is done already is not asked again.

    Two rows that hold the same answer to the same conversation share its rating.
    """
    wording = PromptFile.load(recipe.prompts)
    placed = [[rating_prompt(row.history, answer, wording) for answer in row.answers] for row in rows]
    prompts = list({prompt.id: prompt for of_row in placed for prompt in of_row}.values())
    asking = sampling_settings(recipe.evaluate, recipe.seed)
    rater = RatingTask(asking, judges.encoder(name), judges.context(name))
    store = judges.ask(name, benchmark, "rating", prompts, rater)
    folder = store.final.parent
    found = {rated.id: rated for rated in read_all(prompts, rater, store)}
    told = [[found[prompt.id] for prompt in of_row] for of_row in placed]
    _keep(folder, f"{benchmark}: rated by {name}", rows, told)
    unread = UNREAD.get(recipe.evaluate.benchmarks[benchmark].kind)
    results = {
        pair.id: rating_result(pair, of_row[right], of_row[wrong], unread=unread)
        for row, of_row in zip(rows, told, strict=True)
        for pair, (right, wrong) in zip(row.pairs, row.places, strict=True)
    }
    cost = {
        "requests": sum(1 for _ in read_jsonl(store.final)),
        "prompt_tokens": sum(rated.prompt_tokens for rated in found.values()),
        "tokens": sum(rated.tokens for rated in found.values()),
    }
    return ModelResults(results, cost)


def rating_result(
    pair: PreferencePair, right: Rating, wrong: Rating, *, unread: float | None = None
) -> PairResult:
    """Return a comparison of two answers that were rated alone: credit 1 where the right one's rating is the higher.

    Equal ratings are a tie, and have credit 0.5 as a judge's ties do. Where an answer has no rating, the outcome is
    that of the first that has none, and the credit 0.5.

    Args:
        pair: the right answer is the chosen one.
        right, wrong: what was said of them.
        unread: the score of an answer without a rating; None where there is none, and the comparison then has no
            scores.
    """
    scores = [unread if rated.rating is None else rated.rating for rated in (right, wrong)]
    known = None if scores[0] is None or scores[1] is None else (scores[0], scores[1])
    failed = next((rated.outcome for rated in (right, wrong) if rated.rating is None), None)
    if failed or known is None or known[0] == known[1]:
        credit, outcome = 0.5, str(failed or "tie")
    else:
        better = known[0] > known[1]
        credit, outcome = float(better), "correct" if better else "wrong"
    rescued = right.rescued or wrong.rescued
    return PairResult(pair.id, pair.source, (), (credit,), (outcome,), known, rescued)


def rating_counts(told: Sequence[Rating]) -> dict[str, int]:
    """Return how many answers there are, how many of each outcome, and how many of the `ok` ones were rescued.

    `answers = ok + unparsed + truncated + error` always holds.
    """
    outcomes: Counter[str] = Counter(rated.outcome for rated in told)
    counts = {"answers": len(told)} | {name: outcomes[name] for name in OUTCOMES}
    assert counts["answers"] == sum(counts[name] for name in OUTCOMES), f"outcomes do not add up: {outcomes}"
    return counts | {"rescued": sum(rated.rescued for rated in told)}


def uncalibrated(diagnostics: Diagnostics) -> Diagnostics:
    """Return diagnostics without calibration: the difference of two ratings is no log-odds, as a scalar head's is."""
    return replace(diagnostics, calibrated=0, ece=None, brier=None, reliability=())


def _keep(folder: Path, title: str, rows: Sequence[Row], told: Sequence[Sequence[Rating]]) -> None:
    """Write ratings.jsonl (one line per answer of every row) and rating_counts.json, and say the counts."""
    write_jsonl(
        folder / "ratings.jsonl",
        (
            {"row": row.id, "answer": place, "right": place < row.right} | to_json(rated)
            for row, of_row in zip(rows, told, strict=True)
            for place, rated in enumerate(of_row)
        ),
    )
    counts = rating_counts([rated for of_row in told for rated in of_row])
    write_json(folder / "rating_counts.json", counts)
    say(f"{title}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
