"""`reasongenrm scalar train | evaluate | score | best | rank`: train, evaluate and use one scalar head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any

from reasongenrm.config.scalar import ScalarRecipe
from reasongenrm.console import say
from reasongenrm.errors import ConfigError
from reasongenrm.run import Run
from reasongenrm.scalar.metrics import evaluate_scores
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.scalar.report import metrics_line, write_scalar_report
from reasongenrm.stages.ask import AnswersRow, Result, write_results
from reasongenrm.stages.leave_one_out import leave_one_out
from reasongenrm.stages.scalar_answers import (
    EVALUATE,
    TRAIN,
    drop_counts,
    evaluation_answers,
    load,
    scored_answers,
    training_steps,
)
from reasongenrm.stages.train import train_head
from reasongenrm.store import to_json, write_jsonl
from reasongenrm.train.scalar import check_config


def train(recipe: ScalarRecipe, redo: Sequence[str] = ()) -> None:
    """Train a head into `runs/<name>/scalar`; `runs/<name>/dropped.jsonl` lists unused rows.

    Args:
        recipe: the resolved recipe.
        redo: `scalar` to train it again.

    Raises:
        ConfigError, DataError, EngineError: a setting, an input file or a model that the user has to change.
    """
    check_config(recipe.scalar)
    run = Run(recipe, TRAIN)
    with run.claim(training_steps(recipe), redo):
        pairs, drops = load(recipe)
        write_jsonl(run.path("dropped.jsonl"), map(to_json, drops))
        say(f"{len(pairs)} pairs{drop_counts(drops)}")
        train_head(pairs, recipe.scalar, run, seed=recipe.seed)


def evaluate(recipe: ScalarRecipe) -> None:
    """Score answers, and report in `runs/<name>/evaluation` how the scores agree with the ranks.

    The trained head scores the prompts that its training held out, a file, or answers generated now; with `leave_one_out`, one
    head per prompt of the sources is trained instead. Each evaluation replaces the one before.

    Raises:
        ConfigError: the head is not trained, nothing was held out, or another training held it out.
        DataError, EngineError: an input file or a model that the user has to change.
    """
    check_trained(recipe)
    run = Run(recipe, EVALUATE)
    out = run.path("evaluation")
    with run.claim({}):  # only generated answers and heads are resumed, and they check their own settings
        if recipe.evaluate.leave_one_out:
            scores, facts, drops = leave_one_out(recipe, run)
            title = f"{recipe.name}, one prompt left out"
        else:
            found = evaluation_answers(recipe, run)
            head = ScalarRewardModel.from_pretrained(recipe.folder / "scalar")
            scores = scored_answers(head, found.rows(), recipe.evaluate.batch_size)
            facts = {"head": f"{recipe.name}/scalar", "answers": found.origin, **found.facts}
            title, drops = recipe.name, found.drops
        metrics = evaluate_scores(scores, seed=recipe.seed)
        write_scalar_report(out, scores, metrics, model=title, settings=facts | {"seed": recipe.seed})
        write_jsonl(out / "dropped.jsonl", map(to_json, drops))
        say(f"{len(scores)} answers scored{drop_counts(drops)}")
        say(metrics_line(metrics))
        say(f"report: {out / 'summary.md'}")


def check_trained(recipe: ScalarRecipe) -> None:
    """Raise a ConfigError where the evaluation needs a head, and the run has none yet."""
    folder = recipe.folder / "scalar"
    if not recipe.evaluate.leave_one_out and not folder.is_dir():
        raise ConfigError("no scalar head", location=str(folder), hint="run reasongenrm scalar train first")


def score_rows(verb: str, model: str, source: str, target: str, *, batch_size: int = 32) -> None:
    """Score every row of `source` and write one result per row to `target`, as `write_results`.

    The result of `score` is `{"id", "score"}`, of `rank` `{"id", "order", "scores"}` (indices of the answers, the best
    first), of `best` `{"id", "index", "answer", "scores"}`.

    Args:
        verb: `score`, `rank` or `best`.
        model: folder of a trained head.
        source, target: see `write_results`.
        batch_size: answers per forward pass.

    Raises:
        ConfigError, DataError: see `write_results`.
        EngineError: the folder does not hold a trained head.
    """
    head = cache(lambda: ScalarRewardModel.from_pretrained(model))

    def results(rows: Sequence[AnswersRow]) -> Iterator[Result]:
        prompts = [row.prompt for row in rows for _ in row.answers]
        answers = [text for row in rows for text in row.answers]
        all_scores = iter(head().score_batch(prompts, answers, batch_size))
        for row in rows:
            scores = list(islice(all_scores, len(row.answers)))
            order = sorted(range(len(scores)), key=lambda i: -scores[i])
            columns: dict[str, dict[str, Any]] = {
                "score": {"score": scores[0]},
                "rank": {"order": order, "scores": scores},
                "best": {"index": order[0], "answer": row.answers[order[0]], "scores": scores},
            }
            yield {"id": row.id} | columns[verb], []

    write_results(results, ("answer",) if verb == "score" else (), source, target)
