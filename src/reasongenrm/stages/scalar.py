"""`reasongenrm scalar train | evaluate | score | best | rank`: train, evaluate and use one scalar head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from reasongenrm.answers.generate import generate
from reasongenrm.answers.table import read_answers
from reasongenrm.config.scalar import ScalarRecipe
from reasongenrm.console import say
from reasongenrm.data.clean import clean
from reasongenrm.data.ranked import has_ranks, read_ranked
from reasongenrm.data.sources import load_sources
from reasongenrm.data.split import split_pairs
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Drop, Message, PreferencePair, content_id
from reasongenrm.run import Run
from reasongenrm.scalar.metrics import AnswerScore, evaluate_scores
from reasongenrm.scalar.model import ScalarRewardModel, prompt_text
from reasongenrm.scalar.report import metrics_line, write_scalar_report
from reasongenrm.stages.ask import AnswersRow, Result, write_results
from reasongenrm.stages.fingerprints import hashed, settings
from reasongenrm.stages.train import train_head
from reasongenrm.steps import Step
from reasongenrm.store import to_json, write_jsonl
from reasongenrm.train.scalar import check_config

TRAIN, EVALUATE = "scalar-train", "scalar-evaluate"
"""Names of the two steps in the run folder."""


class EvaluationAnswer(NamedTuple):
    """An answer to score; the fields are those of `AnswerScore`."""

    history: tuple[Message, ...]
    answer: str
    rank: float | None
    extra: dict[str, Any]
    pair_id: str | None = None


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
    with run.claim(_steps(recipe), redo):
        pairs, drops = load(recipe)
        write_jsonl(run.path("dropped.jsonl"), map(to_json, drops))
        say(f"{len(pairs)} pairs{_drop_counts(drops)}")
        train_head(pairs, recipe.scalar, run, seed=recipe.seed)


def _steps(recipe: ScalarRecipe) -> dict[str, Step]:
    """Return the one step of a training."""
    values = recipe.model_dump(mode="json", exclude={"evaluate", "name"})
    files = [recipe.scalar.model, *(source.path for source in recipe.sources)]
    return hashed({"scalar": Step(settings(values, files), ("scalar", "scalar.partial"))}, recipe.folder)


def load(recipe: ScalarRecipe) -> tuple[list[PreferencePair], list[Drop]]:
    """Return the pairs of all sources, without duplicates, and the rows that cannot be used.

    Raises:
        DataError: a source cannot be read, or no pair is left.
    """
    drops: list[Drop] = []
    rows = load_sources(recipe.sources, recipe.limit)
    pairs = list(clean(rows, drop_sources=recipe.drop_sources, on_drop=drops.append))
    if not pairs:
        raise DataError(
            f"no pair can be used ({_drop_counts(drops).removeprefix(', ') or 'no rows'})",
            location=", ".join(source.path for source in recipe.sources),
            hint="give each prompt at least two answers of different ranks",
        )
    return pairs, drops


def _drop_counts(drops: Sequence[Drop]) -> str:
    counts = Counter(drop.reason for drop in drops)
    return "".join(f", {count} {reason}" for reason, count in counts.most_common())


def evaluate(recipe: ScalarRecipe) -> None:
    """Score answers with the trained head, and report in `runs/<name>/evaluation` how the scores agree with the ranks.

    The answers come from a file, are generated now, or are those of the prompts
    that the training held out. Each evaluation replaces the one before.

    Raises:
        ConfigError: the head is not trained, nothing was held out, or another training held it out.
        DataError, EngineError: an input file or a model that the user has to change.
    """
    folder = recipe.folder / "scalar"
    if not folder.is_dir():
        raise ConfigError("no scalar head", location=str(folder), hint="run reasongenrm scalar train first")
    run, config = Run(recipe, EVALUATE), recipe.evaluate
    out = run.path("evaluation")
    with run.claim({}):  # only generated answers are resumed, and they check their own settings
        answers, drops = _evaluation_answers(recipe, run)
        model = ScalarRewardModel.from_pretrained(folder)
        scores = _scored(model, answers, config.batch_size)
        metrics = evaluate_scores(scores, seed=recipe.seed)
        origin = config.answers or ("generated" if config.generate else "prompts held out of the training")
        facts = {"head": f"{recipe.name}/scalar", "answers": origin, "seed": recipe.seed}
        write_scalar_report(out, scores, metrics, model=recipe.name, settings=facts)
        write_jsonl(out / "dropped.jsonl", map(to_json, drops))
        say(f"{len(scores)} answers scored{_drop_counts(drops)}")
        say(metrics_line(metrics))
        say(f"report: {out / 'summary.md'}")


def _evaluation_answers(recipe: ScalarRecipe, run: Run) -> tuple[list[EvaluationAnswer], list[Drop]]:
    config = recipe.evaluate
    if config.answers is not None:
        return read_evaluation_answers(config.answers)
    if config.generate is not None:
        settings_hash = content_id(config.generate.model_dump(mode="json", exclude={"engine"}))
        path = run.path("evaluation", f"answers-{settings_hash[:8]}.jsonl")
        counts = generate(config.generate, path, location="evaluate.generate")
        say(", ".join(f"{count} {name}" for name, count in counts.items()))
        return read_evaluation_answers(str(path))
    return _held_out_answers(recipe)


def read_evaluation_answers(path: str) -> tuple[list[EvaluationAnswer], list[Drop]]:
    """Return the answers of a file, with their mean ranks where the file has a column of ranks.

    Raises:
        DataError: the file cannot be read, or holds no usable answer.
    """
    answers: list[EvaluationAnswer] = []
    if has_ranks(path):
        prompts, drops = read_ranked(path)
        for prompt in prompts:
            ranks_by_annotator = prompt.mean_ranks().values()
            for index, answer in enumerate(prompt.answers):
                ranks = [ranks[index] for ranks in ranks_by_annotator if index in ranks]
                mean = sum(ranks) / len(ranks) if ranks else None
                answers.append(EvaluationAnswer(prompt.history, answer.text, mean, {}))
    else:
        table = read_answers(path)
        # The only answer to a prompt cannot be ranked, but it can be scored.
        drops = [drop for drop in table.drops if drop.reason != "one_answer"]
        answers = [
            EvaluationAnswer(prompt.history, answer.text, None, answer.extras)
            for prompt in (*table.prompts, *table.single_answers)
            for answer in prompt.answers
        ]
    if not answers:
        raise DataError("no answer can be used", location=path, hint="the dropped rows have the reasons")
    return answers, drops


def _held_out_answers(recipe: ScalarRecipe) -> tuple[list[EvaluationAnswer], list[Drop]]:
    """Return the answers to the prompts that the training held out; those of a plain pair have the ranks 1 and 2."""
    if not recipe.scalar.validation:
        raise ConfigError(
            "the training held nothing out",
            location="evaluate",
            hint="set evaluate.answers or evaluate.generate, or train with scalar.validation",
        )
    # With other sources or another seed, the prompts held out now may have been trained on.
    Run(recipe, TRAIN).check(_steps(recipe))
    pairs, drops = load(recipe)
    _, held_out = split_pairs(pairs, recipe.scalar.validation, recipe.seed)
    prompt_ids = {content_id(pair.history) for pair in held_out}
    answers: list[EvaluationAnswer] = []
    for source in (source for source in recipe.sources if source.kind == "ranked"):
        ranked, _ = read_evaluation_answers(source.path)
        answers += [answer for answer in ranked if content_id(answer.history) in prompt_ids]
    for pair in (pair for pair in held_out if pair.distance is None):
        extra = {"source": pair.source, "pair": pair.id}
        for rank, text in ((1.0, pair.chosen), (2.0, pair.rejected)):
            answers.append(EvaluationAnswer(pair.history, text, rank, dict(extra), pair.id))
    return answers, drops


def _scored(
    model: ScalarRewardModel, answers: Sequence[EvaluationAnswer], batch_size: int
) -> list[AnswerScore]:
    scores = model.score_batch([a.history for a in answers], [a.answer for a in answers], batch_size)
    rows = []
    for (history, answer, rank, extra, pair_id), score in zip(answers, scores, strict=True):
        size = model.lengths(history, answer)
        prompt_id = content_id(history)
        rows.append(AnswerScore(prompt_id, prompt_text(history), answer, score, rank, *size, extra, pair_id))
    return rows


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
