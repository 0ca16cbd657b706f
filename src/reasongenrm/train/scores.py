"""Train a head on a judge's scores: transformers' Trainer with a loss for regression, for several criteria, or for ordered levels.

Rows are tokenized exactly as in serving; what it has in common with training on pairs is in `train/head.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from reasongenrm.checkpoints import load_checkpoint
from reasongenrm.config.distil import DistilRecipe
from reasongenrm.config.scalar import HeadConfig
from reasongenrm.errors import DataError
from reasongenrm.records import Conversation, Judgment, content_id
from reasongenrm.scalar.inputs import encode, load_base_tokenizer
from reasongenrm.scalar.scale import CONFIG_KEY, ScoreScale
from reasongenrm.train.head import (
    HeadTask,
    HeadTrainer,
    check_head,
    head_args,
    head_card,
    lora_config,
    start_error,
    train_folder,
    trainer_arguments,
    with_callbacks,
)

MISSING = -100.0
"""Label of a criterion without a score; transformers counts labels of this value as absent, too."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class JudgedReply:
    """A reply with its judgment, which has a score."""

    conversation: Conversation
    judgment: Judgment

    @property
    def score(self) -> float:
        """The judge's weighted score, 0 to 1."""
        assert self.judgment.score is not None
        return self.judgment.score


def train_scores(
    replies: Sequence[JudgedReply],
    held_out: Sequence[JudgedReply],
    recipe: DistilRecipe,
    *,
    output_dir: Path,
    key: str = "head",
) -> dict[str, Any]:
    """Train a head on a judge's scores into `output_dir`, and return a report.

    Called again with the same arguments it returns at once, or resumes a killed run and ends with the same weights as an
    undisturbed run (on one machine, CPU).

    The labels of `regression` and `dimensions` have mean 0 and standard deviation 1 over the training rows; the loss is the mean of
    their squared errors, or of Huber's loss (P. J. Huber, Annals of Mathematical Statistics 35, 1964), over all scores that are
    there. That of `ordinal` is `ordinal_loss`. As in TRL's RewardTrainer, the base has no dropout.

    Args:
        replies: the replies to learn, each with a score.
        held_out: those to evaluate on while training; may be empty without `head.patience`.
        recipe: objective and head.
        output_dir: folder of the head.
        key: section of the recipe, named in errors.

    Returns:
        `rows`: replies to learn; `truncated`: those cut to `max_length`, learned or held out; `steps`; `final_loss`: the last logged
        loss (None without one); `scale`: that of the head; `validation`: `rows` and `loss` of the held-out replies, or None.

    Raises:
        ConfigError: an unknown or reserved key, a value that the trainer rejects, a `max_length` above the base's limit, or an
            `output_dir` that holds another training.
        DataError: nothing can be learned, because there are no replies or all scores are equal.
        EngineError: the base cannot be loaded, or the loss is no longer a finite number.
    """
    config = recipe.head
    check_scores_config(config, key)
    scale = fit_scale(replies, recipe)
    arguments = trainer_arguments(config)
    settings = config.model_dump(mode="json") | {"args": arguments}
    settings |= {"objective": recipe.objective, "huber": recipe.huber, "scale": scale.model_dump(mode="json")}
    labels = [
        [(row.conversation.id, score_labels(row.judgment, scale)) for row in some]
        for some in (replies, held_out)
    ]
    task = HeadTask(config, output_dir, recipe.seed, key, settings, content_id(labels, settings, recipe.seed))

    def build(checkpoints: Path) -> HeadTrainer:
        tokenizer = load_base_tokenizer(config.model, config.revision, config.max_length)
        rows, cut = _tokenise(replies, tokenizer, scale, config.max_length)
        held_out_rows, held_out_cut = _tokenise(held_out, tokenizer, scale, config.max_length)
        args = _training_args(task, arguments, checkpoints, held_out=bool(held_out))
        trainer = _trainer(task, args, rows, held_out_rows, tokenizer, scale, loss_function(recipe))
        report = {
            "rows": len(rows),
            "truncated": cut + held_out_cut,
            "scale": scale.model_dump(mode="json", exclude_none=True),
            "validation": {"rows": len(held_out)} if held_out else None,
        }
        return HeadTrainer(trainer, report, [])

    def card(report: dict[str, Any]) -> str:
        return head_card(
            "score_card.md.jinja", config, report=report, scale=scale, seed=recipe.seed, huber=recipe.huber
        )

    return train_folder(task, build, card)


def check_scores_config(config: HeadConfig, key: str = "head") -> None:
    """Check the names of the trainer's and peft's keys, and that numbers are numbers; loads no model.

    Raises:
        ConfigError: names the key, and the closest valid one.
    """
    from transformers import TrainingArguments

    check_head(config, TrainingArguments, key)


def fit_scale(replies: Sequence[JudgedReply], recipe: DistilRecipe) -> ScoreScale:
    """Return the scale of a head for these training rows.

    Raises:
        DataError: there are no replies, or all scores are equal.
    """
    if len({reply.score for reply in replies}) < 2:
        problem = "all training scores are equal" if replies else "no training row has a score"
        raise DataError(problem, location="head", hint="judge more conversations, or check judgments.jsonl")
    if recipe.objective == "ordinal":
        return ScoreScale(objective="ordinal", levels=recipe.levels)
    if recipe.objective == "regression":
        columns = [[reply.score for reply in replies]]
        rubric = None
    else:
        rubric = recipe.judge.rubric
        scores = [reply.judgment.scores for reply in replies]
        columns = [[row[c.name] for row in scores if c.name in row] for c in rubric.criteria]
    for number, column in enumerate(columns):
        if not column and rubric is not None:
            name = rubric.criteria[number].name
            hint = "use the rubric of the judgments"
            raise DataError(f"no training row has a score for {name}", location="judge.rubric", hint=hint)
    # A criterion with one score everywhere is predicted by its mean.
    mean, sd = tuple(map(fmean, columns)), tuple(pstdev(column) or 1.0 for column in columns)
    return ScoreScale(objective=recipe.objective, mean=mean, sd=sd, rubric=rubric)


def score_labels(judgment: Judgment, scale: ScoreScale) -> list[float]:
    """Return a label per logit: standardised scores, `MISSING` where there is none, or P(level > k) for each level k but the highest.

    A score between two levels counts as both, in proportion to its distance: with five levels, 0.6 is level 2 and level 3 with
    weights 0.6 and 0.4.
    """
    assert judgment.score is not None
    if scale.levels is not None:
        place = judgment.score * (scale.levels - 1)
        return [min(1.0, max(0.0, place - level)) for level in range(scale.levels - 1)]
    if scale.rubric is None:
        values: list[float | None] = [judgment.score]
    else:
        values = [judgment.scores.get(criterion.name) for criterion in scale.rubric.criteria]
    return [
        MISSING if value is None else (value - mean) / sd
        for value, mean, sd in zip(values, scale.mean, scale.sd, strict=True)
    ]


def loss_function(recipe: DistilRecipe) -> Callable[..., Any]:
    """Return the `compute_loss_func` of transformers' Trainer.

    It takes the outputs of the model, the labels of shape (rows, logits), and the number of labels that are not `MISSING` in all batches
    of an optimizer step; so a step does not depend on how its rows are split into batches.
    """

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        total = (
            ordinal_loss(outputs.logits, labels)
            if recipe.objective == "ordinal"
            else score_loss(outputs.logits, labels, recipe.huber)
        )
        count = (labels != MISSING).sum() if num_items_in_batch is None else num_items_in_batch
        return total / max(int(count), 1)

    return loss


def score_loss(logits: Any, labels: Any, huber: float | None) -> Any:
    """Return the sum of squared errors, or of Huber's loss times two, over the labels that are not `MISSING`."""
    from torch.nn import functional

    known = labels != MISSING
    errors = (logits.float()[known], labels.float()[known])
    if huber is None:
        return functional.mse_loss(*errors, reduction="sum")
    return 2 * functional.huber_loss(
        *errors, delta=huber, reduction="sum"
    )  # for small errors equal to the squared error


def ordinal_loss(logits: Any, labels: Any) -> Any:
    """Return the sum of the conditional cross-entropies of CORN (arXiv 2111.08851).

    Logit k is that of P(level > k | level > k - 1), so it is learned from rows above level k - 1 only, and the products of these
    probabilities cannot increase with k; logits of their own, as in CORAL (W. Cao, V. Mirjalili and S. Raschka, Pattern Recognition
    Letters 140, 2020, arXiv 1901.07884), would need a last layer with shared weights, which plain transformers do not have. A row between
    two levels has a part in both: labels are P(level > k), and the weight of a row in k is P(level > k - 1).

    Args:
        logits, labels: shape (rows, levels - 1).
    """
    import torch
    from torch.nn import functional

    labels = labels.float()
    weights = torch.cat([torch.ones_like(labels[:, :1]), labels[:, :-1]], dim=1)
    # P(level > k) = P(level > k | level > k - 1) · P(level > k - 1): the products are labels themselves.
    positive, negative = functional.logsigmoid(logits.float()), functional.logsigmoid(-logits.float())
    return -(labels * positive + (weights - labels) * negative).sum()


def _tokenise(
    replies: Sequence[JudgedReply], tokenizer: Any, scale: ScoreScale, limit: int
) -> tuple[Rows, int]:
    """Return the trainer's rows, and the number of truncated ones."""
    rows, truncated = [], 0
    for reply in replies:
        texts = reply.conversation.history, reply.conversation.response
        ids = encode(tokenizer, *texts, limit)["input_ids"]
        # Only a sequence of `limit` tokens can have been cut; the others are not tokenized twice.
        truncated += len(ids) >= limit and len(encode(tokenizer, *texts, None)["input_ids"]) > limit
        labels = score_labels(reply.judgment, scale)
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return rows, truncated


def _training_args(task: HeadTask, arguments: dict[str, Any], checkpoints: Path, *, held_out: bool) -> Any:
    from transformers import TrainingArguments

    # The labels are not an output of the tokenizer; the head's forward pass would compute a loss of its own with them.
    own = {"label_names": ["labels"], "remove_unused_columns": False}
    return head_args(TrainingArguments, task, arguments | own, checkpoints, held_out=held_out)


def _trainer(
    task: HeadTask,
    args: Any,
    rows: Rows,
    held_out: Rows,
    tokenizer: Any,
    scale: ScoreScale,
    loss: Callable[..., Any],
) -> Any:
    """Return transformers' Trainer with the base loaded."""
    from datasets import Dataset
    from transformers import DataCollatorWithPadding, Trainer

    try:
        trainer = Trainer(
            model=_model(task, tokenizer, scale),
            args=args,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(held_out) if held_out else None,
            processing_class=tokenizer,
            compute_loss_func=loss,
        )
    except (OSError, ValueError) as error:
        raise start_error(error, task) from error
    return with_callbacks(trainer, task.config)


def _model(task: HeadTask, tokenizer: Any, scale: ScoreScale) -> Any:
    """Return the base with a new head, and LoRA where the recipe has it; the scale is in its configuration."""
    import torch
    from transformers import set_seed
    from trl.trainer.utils import disable_dropout_in_model

    config = task.config
    names = [criterion.name for criterion in scale.rubric.criteria] if scale.rubric else []
    set_seed(task.seed)  # of the new head's weights
    model = load_checkpoint(
        "AutoModelForSequenceClassification",
        config.model,
        revision=config.revision,
        num_labels=scale.logits,
        dtype=torch.float32,
    )
    disable_dropout_in_model(model)
    model.config.get_text_config().pad_token_id = (
        tokenizer.pad_token_id
    )  # a causal head reads the last token before it
    model.config.problem_type = "regression"  # vLLM and pipelines then apply no softmax to the logits
    setattr(model.config, CONFIG_KEY, scale.model_dump(mode="json", exclude_none=True))
    if names:
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: number for number, name in enumerate(names)}
    lora = lora_config(config, task.key, scale.logits)
    if lora is None:
        return model
    from peft import get_peft_model

    return get_peft_model(model, lora)
