"""`reasongenrm scalar train | evaluate | score | best | rank`: one scalar head, from rows to its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from reasongenrm.answers.generate import generate
from reasongenrm.answers.table import read_answers
from reasongenrm.config.scalar import ScalarRecipe
from reasongenrm.console import say, stdout
from reasongenrm.data.clean import clean
from reasongenrm.data.ranked import has_ranks, read_ranked
from reasongenrm.data.sources import load_sources
from reasongenrm.data.split import prompt_id, split_pairs
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Drop, Message, PreferencePair, content_id
from reasongenrm.rows.files import json_lines
from reasongenrm.run import Run, file_hash
from reasongenrm.scalar.metrics import ScalarMetrics, ScoredAnswer, evaluate_scores
from reasongenrm.scalar.model import ScalarRewardModel, prompt_text
from reasongenrm.scalar.report import write_scalar_report
from reasongenrm.stages.ask import AnswersRow, print_drop, read_answer_rows
from reasongenrm.stages.train import scalar_summary
from reasongenrm.store import dump_line, jsonl_writer, to_json, write_jsonl
from reasongenrm.train.scalar import check_config, train_scalar

TRAIN, EVALUATE = "scalar-train", "scalar-evaluate"


@dataclass(frozen=True, slots=True)
class Unscored:
    """An answer before it is scored; see `ScoredAnswer`."""

    history: tuple[Message, ...]
    answer: str
    rank: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def load(recipe: ScalarRecipe) -> tuple[list[PreferencePair], list[Drop]]:
    """Return the pairs of all sources, each once, and what is left out.

    Raises:
        DataError: a source cannot be read, or no pair is left.
    """
    drops: list[Drop] = []
    rows = load_sources(recipe.sources, recipe.limit)
    pairs = list(clean(rows, drop_sources=recipe.drop_sources, on_drop=drops.append))
    if not pairs:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(d.reason for d in drops).items())
        raise DataError(
            f"no pair can be used ({reasons or 'no rows'})",
            location=", ".join(source.path for source in recipe.sources),
            hint="give each prompt two answers or more, of different ranks",
        )
    return pairs, drops


def train(recipe: ScalarRecipe) -> Path:
    """Train a head into `runs/<name>/scalar` and return that folder; what is left out is in `runs/<name>/dropped.jsonl`.

    Raises:
        ConfigError, DataError, EngineError: what the user can mend.
    """
    check_config(recipe.scalar)
    run = Run(recipe, TRAIN)
    with run.claim(_settings(recipe)):
        pairs, drops = load(recipe)
        write_jsonl(run.path("dropped.jsonl"), map(to_json, drops))
        say(f"{len(pairs)} pairs{_reasons(drops)}")
        report = train_scalar(pairs, recipe.scalar, output_dir=run.path("scalar"), seed=recipe.seed)
        say(scalar_summary(report, recipe.scalar))
    return run.path("scalar")


def _settings(recipe: ScalarRecipe) -> dict[str, Any]:
    """What a training depends on."""
    files = {path: file_hash(path) for path in (recipe.scalar.model, *(s.path for s in recipe.sources))}
    return recipe.model_dump(mode="json", exclude={"evaluate", "name"}) | {"files": files}


def _reasons(drops: Sequence[Drop]) -> str:
    counts = Counter(drop.reason for drop in drops)
    return "".join(f", {count} {reason}" for reason, count in counts.most_common())


def evaluate(recipe: ScalarRecipe) -> Path:
    """Score answers with the trained head, and write how the scores agree with the ranks; return the folder.

    It is `runs/<name>/evaluation` with `evaluation_results.csv`, `reward_scores.png`, `summary.md`, `metrics.json` and
    `dropped.jsonl`. The answers are those of a file, those of a model that is asked now, or those of the prompts that
    the training held out. Each evaluation takes the place of the one before.

    Raises:
        ConfigError: the head is not trained, nothing was held out, or it was another training that held it out.
        DataError, EngineError: what else the user can mend.
    """
    head = recipe.folder / "scalar"
    if not head.is_dir():
        raise ConfigError("no scalar head", location=str(head), hint="run reasongenrm scalar train first")
    run, config = Run(recipe, EVALUATE), recipe.evaluate
    out = run.path("evaluation")
    with run.claim({}):  # nothing is gone on with but new answers, and those know what they are of
        answers, drops = _answers(recipe, run)
        model = ScalarRewardModel.from_pretrained(head)
        scored = score_answers(model, answers, batch_size=config.batch_size)
        metrics = evaluate_scores(scored, seed=recipe.seed)
        shown = {"head": f"{recipe.name}/scalar", "answers": _origin(recipe), "seed": recipe.seed}
        write_scalar_report(out, scored, metrics, model=recipe.name, settings=shown)
        write_jsonl(out / "dropped.jsonl", map(to_json, drops))
        say(f"{len(scored)} answers scored{_reasons(drops)}")
        say(line(metrics))
        say(f"see {out / 'summary.md'}")
    return out


def line(metrics: ScalarMetrics) -> str:
    """Return the main numbers in one line."""

    def shown(name: str, value: float | None, interval: tuple[float, float] | None, scale: float = 1) -> str:
        if value is None:
            return f"{name} –"
        digits = 1 if scale == 100 else 2
        text = f"{name} {scale * value:.{digits}f}"
        return text + (
            f" [{scale * interval[0]:.{digits}f}, {scale * interval[1]:.{digits}f}]" if interval else ""
        )

    parts = (
        f"{metrics.pairs} pairs of {metrics.prompts} prompts",
        shown("accuracy", metrics.accuracy.value, metrics.accuracy.interval, 100),
        shown("Spearman", metrics.spearman.value, metrics.spearman.interval),
        shown("Kendall", metrics.kendall.value, metrics.kendall.interval),
    )
    return ", ".join(parts)


def _origin(recipe: ScalarRecipe) -> str:
    if recipe.evaluate.answers:
        return recipe.evaluate.answers
    return "generated" if recipe.evaluate.generate else "prompts held out of the training"


def _answers(recipe: ScalarRecipe, run: Run) -> tuple[list[Unscored], list[Drop]]:
    config = recipe.evaluate
    if config.answers is not None:
        return from_file(config.answers)
    if config.generate is not None:
        made = content_id(config.generate.model_dump(mode="json", exclude={"engine"}))
        path = run.path("evaluation", f"answers-{made[:8]}.jsonl")
        told = generate(config.generate, path, location="evaluate.generate")
        say(", ".join(f"{count} {name}" for name, count in told.items()))
        return from_file(str(path))
    return _held_out(recipe)


def from_file(path: str) -> tuple[list[Unscored], list[Drop]]:
    """Return the answers of a file, with the mean of their ranks where it has a column of ranks.

    Raises:
        DataError: it cannot be read, or holds no answer.
    """
    if has_ranks(path):
        prompts, drops = read_ranked(path)
        answers = [
            Unscored(prompt.history, answer.text, rank)
            for prompt in prompts
            for answer, rank in zip(
                prompt.answers, _mean_ranks(prompt.mean_ranks(), len(prompt.answers)), strict=True
            )
        ]
    else:
        found = read_answers(path)
        # An answer that stands alone cannot be ranked, but it can be scored.
        drops = [drop for drop in found.drops if drop.reason != "one_answer"]
        answers = [
            Unscored(prompt.history, answer.text, None, answer.extras)
            for prompt in (*found.prompts, *found.alone)
            for answer in prompt.answers
        ]
    if not answers:
        raise DataError("no answer can be used", location=path, hint="see dropped rows for why")
    return answers, drops


def _mean_ranks(ranks: dict[str, dict[int, float]], count: int) -> list[float | None]:
    found = []
    for place in range(count):
        given = [by_place[place] for by_place in ranks.values() if place in by_place]
        found.append(sum(given) / len(given) if given else None)
    return found


def _held_out(recipe: ScalarRecipe) -> tuple[list[Unscored], list[Drop]]:
    """The answers of the prompts that the training held out: those of pairs have ranks 1 and 2."""
    if not recipe.scalar.validation:
        raise ConfigError(
            "the training held nothing out",
            location="evaluate",
            hint="set evaluate.answers or evaluate.generate, or train with scalar.validation",
        )
    # With other sources or another seed, what looks held out may have been trained on.
    Run(recipe, TRAIN).check(_settings(recipe))
    pairs, drops = load(recipe)
    _, held = split_pairs(pairs, recipe.scalar.validation, recipe.seed)
    out = {prompt_id(pair) for pair in held}
    answers: list[Unscored] = []
    for source in (source for source in recipe.sources if source.kind == "ranked"):
        found, _ = from_file(source.path)
        answers += [one for one in found if content_id(one.history) in out]
    for pair in (pair for pair in held if pair.distance is None):
        for rank, text in ((1.0, pair.chosen), (2.0, pair.rejected)):
            answers.append(Unscored(pair.history, text, rank, {"source": pair.source, "pair": pair.id}))
    return answers, drops


def score_answers(
    model: ScalarRewardModel, answers: Sequence[Unscored], *, batch_size: int = 32
) -> list[ScoredAnswer]:
    """Return the answers with their scores, in their order.

    Raises:
        EngineError: a score is not finite.
    """
    histories = [one.history for one in answers]
    scores = model.score_batch(histories, [one.answer for one in answers], batch_size)
    return list(_scored(model, answers, scores))


def _scored(
    model: ScalarRewardModel, answers: Sequence[Unscored], scores: Sequence[float]
) -> Iterator[ScoredAnswer]:
    for one, score in zip(answers, scores, strict=True):
        tokens, cut = model.lengths(one.history, one.answer)
        # A prompt may stand in several pairs: their ranks do not compare with each other.
        name = content_id(one.history, one.extra["pair"]) if "pair" in one.extra else content_id(one.history)
        yield ScoredAnswer(
            name, prompt_text(one.history), one.answer, score, one.rank, tokens, cut, one.extra
        )


WINDOW = 1024
"""Rows that are scored together."""


COLUMNS: dict[str, tuple[str, ...]] = {"score": ("answer",), "best": (), "rank": ()}
"""Verb -> the columns that hold a row's answers; none: a list in the column `answers`."""


def score_rows(verb: str, model: str, source: str, target: str, *, batch_size: int = 32) -> None:
    """Score every row of `source` and write one result per row to `target`, in their order.

    A row of `score` gets `{"id", "score"}`, one of `rank` `{"id", "order", "scores"}` (places of the answers, the best
    first), one of `best` `{"id", "index", "answer", "scores"}`. Memory does not grow with the rows. A file is written
    as a whole. Rows that cannot be read are counted, and written to `<target>.dropped.jsonl`, or to stderr where the
    results go to stdout.

    Args:
        verb: a key of COLUMNS.
        model: folder of a trained head.
        source: a JSONL file, or `-` for stdin.
        target: a JSONL file, or `-` for stdout.
        batch_size: answers per forward pass.

    Raises:
        ConfigError: `target` is there already.
        DataError: `source` cannot be opened, or no row can be read.
        EngineError: the folder holds no trained head.
    """
    if target != "-" and Path(target).exists():
        raise ConfigError("it is there already", location=target, hint="name another file, or remove it")
    head = ScalarRewardModel.from_pretrained(model)
    questions = read_answer_rows(json_lines(source), COLUMNS[verb])
    with ExitStack() as stack:
        write: Callable[[dict[str, Any]], None] = lambda row: print(dump_line(row), end="", file=stdout())  # noqa: E731
        drop: Callable[[Drop], None] = print_drop
        if target != "-":
            write = stack.enter_context(jsonl_writer(Path(target)))
            drops = stack.enter_context(jsonl_writer(Path(f"{target}.dropped.jsonl")))
            drop = lambda one: drops(to_json(one))  # noqa: E731
        done = dropped = 0
        while window := list(islice(questions, WINDOW)):
            for item in window:
                if isinstance(item, Drop):
                    dropped += 1
                    drop(item)
            for row in _rows(verb, head, [item for item in window if isinstance(item, AnswersRow)], batch_size):
                done += 1
                write(row)
            stdout().flush()
        if not done:
            raise DataError("no row can be read", location=source, hint=f"a row has {_wanted(verb)}")
    if target != "-":
        if not dropped:
            Path(f"{target}.dropped.jsonl").unlink()
        say(f"{target}: {done} rows" + (f", {dropped} dropped" if dropped else ""))


def _wanted(verb: str) -> str:
    return "prompt, answer" if verb == "score" else "prompt, answers"


def _rows(
    verb: str, head: ScalarRewardModel, questions: Iterable[AnswersRow], batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yield a result per row; the answers of all rows are scored together."""
    rows = list(questions)
    prompts = [row.prompt for row in rows for _ in row.answers]
    scores = iter(head.score_batch(prompts, [text for row in rows for text in row.answers], batch_size))
    for row in rows:
        own = list(islice(scores, len(row.answers)))
        order = sorted(range(len(own)), key=lambda i: -own[i])
        if verb == "score":
            yield {"id": row.id, "score": own[0]}
        elif verb == "rank":
            yield {"id": row.id, "order": order, "scores": own}
        else:
            yield {"id": row.id, "index": order[0], "answer": row.answers[order[0]], "scores": own}
