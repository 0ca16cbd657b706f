"""The pairs that a scalar head learns, and the answers that an evaluation scores: of a file, held out, or generated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from reasongenrm.answers.generate import generate
from reasongenrm.answers.table import read_answers
from reasongenrm.config.scalar import AnswersConfig, ScalarRecipe
from reasongenrm.console import say
from reasongenrm.data.clean import clean
from reasongenrm.data.ranked import has_ranks, read_ranked
from reasongenrm.data.sources import load_sources
from reasongenrm.data.split import split_pairs
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Drop, Message, PreferencePair, content_id
from reasongenrm.run import Run
from reasongenrm.scalar.inputs import prompt_text
from reasongenrm.scalar.metrics import AnswerScore
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.stages.fingerprints import hashed, settings
from reasongenrm.steps import Step

TRAIN, EVALUATE = "scalar-train", "scalar-evaluate"
"""Names of the two stages in the run folder."""

HELD_OUT, GENERATED = "prompts held out of the training", "generated"
"""What an evaluation scores, as its report names it."""


class EvaluationAnswer(NamedTuple):
    """An answer to score; the fields are those of `AnswerScore`."""

    history: tuple[Message, ...]
    answer: str
    rank: float | None
    extra: dict[str, Any]
    pair_id: str | None = None


@dataclass
class EvaluationAnswers:
    """The answers of an evaluation.

    Attributes:
        by_origin: the answers of each file or part.
        drops: rows that cannot be used.
        facts: what the report says about the answers, besides their origin.
    """

    by_origin: dict[str, list[EvaluationAnswer]] = field(default_factory=dict)
    drops: list[Drop] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """The origins in one text."""
        return " and ".join(self.by_origin)

    def rows(self) -> list[EvaluationAnswer]:
        """Return all answers; of several origins each has its own in the extra column `origin`."""
        if len(self.by_origin) == 1:
            return next(iter(self.by_origin.values()))
        return [
            one._replace(extra=one.extra | {"origin": origin})
            for origin, answers in self.by_origin.items()
            for one in answers
        ]


def training_steps(recipe: ScalarRecipe) -> dict[str, Step]:
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
            f"no pair can be used ({drop_counts(drops).removeprefix(', ') or 'no rows'})",
            location=", ".join(source.path for source in recipe.sources),
            hint="give each prompt at least two answers of different ranks",
        )
    return pairs, drops


def drop_counts(drops: Sequence[Drop]) -> str:
    """Return `, 3 reason` for each reason."""
    counts = Counter(drop.reason for drop in drops)
    return "".join(f", {count} {reason}" for reason, count in counts.most_common())


def evaluation_answers(recipe: ScalarRecipe, run: Run) -> EvaluationAnswers:
    """Return the answers that `scalar evaluate` scores; new ones are generated now, or were before.

    Raises:
        ConfigError: nothing was held out, or another training held it out.
        DataError, EngineError: an input file or a model that the user has to change.
    """
    config, found = recipe.evaluate, EvaluationAnswers()
    if config.scores_held_out:
        found.by_origin[HELD_OUT], found.drops = held_out_answers(recipe)
    if config.answers is not None:
        found.by_origin[config.answers], drops = read_evaluation_answers(config.answers)
        found.drops += drops
    if config.generate is not None:
        path = generated_file(recipe, config.generate)
        counts = generate(config.generate, path, location="evaluate.generate")
        say(", ".join(f"{count} {name}" for name, count in counts.items()))
        found.by_origin[GENERATED], drops = read_evaluation_answers(str(path))
        found.drops += drops
        if known := known_prompts(recipe, config.generate):
            note = f"{len(known)} of {len(config.generate.prompts)} prompts are in the training"
            found.facts["new answers"] = note
            say(f"evaluate.generate: {note}: the scores of their answers say little about new prompts")
    return found


def generated_file(recipe: ScalarRecipe, config: AnswersConfig) -> Path:
    """Return the file of the generated answers; other settings have another one."""
    values = config.model_dump(mode="json", exclude={"engine"})
    if kind := config.sampling().get("engine"):
        values["engine"] = kind
    return recipe.folder / "evaluation" / f"answers-{content_id(values)[:8]}.jsonl"


def known_prompts(recipe: ScalarRecipe, config: AnswersConfig) -> list[str]:
    """Return the prompts that the head was trained on.

    Raises:
        DataError: a source of the training cannot be read.
    """
    pairs, _ = split_pairs(load(recipe)[0], recipe.scalar.validation, recipe.seed)
    trained = {content_id(pair.history) for pair in pairs}
    return [
        one.prompt
        for one in config.prompts
        if content_id((Message(role="user", content=one.prompt),)) in trained
    ]


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


def held_out_answers(recipe: ScalarRecipe) -> tuple[list[EvaluationAnswer], list[Drop]]:
    """Return the answers to the prompts that the training held out.

    Raises:
        ConfigError: the training held nothing out, or had other settings.
        DataError: a source cannot be read.
    """
    if not recipe.scalar.validation:
        raise ConfigError(
            "the training held nothing out",
            location="evaluate",
            hint="set evaluate.answers, evaluate.generate or evaluate.leave_one_out, or train with scalar.validation",
        )
    # With other sources or another seed, the prompts held out now may have been trained on.
    Run(recipe, TRAIN).check(training_steps(recipe))
    pairs, drops = load(recipe)
    _, held_out = split_pairs(pairs, recipe.scalar.validation, recipe.seed)
    return answers_of_pairs(recipe, held_out), drops


def answers_of_pairs(recipe: ScalarRecipe, pairs: Collection[PreferencePair]) -> list[EvaluationAnswer]:
    """Return the ranked answers to the prompts of some pairs; those of a plain pair have the ranks 1 and 2."""
    prompt_ids = {content_id(pair.history) for pair in pairs}
    answers: list[EvaluationAnswer] = []
    for source in (source for source in recipe.sources if source.kind == "ranked"):
        ranked, _ = read_evaluation_answers(source.path)
        answers += [answer for answer in ranked if content_id(answer.history) in prompt_ids]
    for pair in (pair for pair in pairs if pair.distance is None):
        extra = {"source": pair.source, "pair": pair.id}
        for rank, text in ((1.0, pair.chosen), (2.0, pair.rejected)):
            answers.append(EvaluationAnswer(pair.history, text, rank, dict(extra), pair.id))
    return answers


def scored_answers(
    model: ScalarRewardModel, answers: Sequence[EvaluationAnswer], batch_size: int = 32
) -> list[AnswerScore]:
    """Return the answers with their scores and lengths, in their order; `batch_size` answers per forward pass."""
    scores = model.score_batch([a.history for a in answers], [a.answer for a in answers], batch_size)
    rows = []
    for (history, answer, rank, extra, pair_id), score in zip(answers, scores, strict=True):
        size = model.lengths(history, answer)
        prompt_id = content_id(history)
        rows.append(AnswerScore(prompt_id, prompt_text(history), answer, score, rank, *size, extra, pair_id))
    return rows
