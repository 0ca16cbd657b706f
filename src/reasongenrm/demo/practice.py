"""What notebooks/practice.ipynb does in the toy world: ranked answers, heads that train in seconds, and controls.

The questions are those of toy-safety: refuse what hurts a person or an animal, help with the rest. A head that likes
refusals, or help, is right about half of them.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongenrm.answers.generate import generate
from reasongenrm.config.scalar import AnswersConfig, ScalarConfig
from reasongenrm.data.ranked import RankedPrompt, load_ranked
from reasongenrm.demo.world import HELPS, LIVING, REFUSALS, ROUGH, Split, Task, draw_task, ranked_answers
from reasongenrm.errors import ConfigError
from reasongenrm.records import PreferencePair
from reasongenrm.scalar.chance import permuted_labels
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.scalar.tiny import build_tiny_distilbert
from reasongenrm.store import read_jsonl, write_jsonl
from reasongenrm.train.scalar import train_scalar


@contextmanager
def _quiet() -> Iterator[None]:
    """Show no progress and no warning: a notebook's outputs are the same each time."""
    from IPython.utils.capture import capture_output  # a progress bar in a notebook is no text, but a widget

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with capture_output():
            yield
    finally:
        logging.disable(disabled)


@dataclass(frozen=True, slots=True)
class Base:
    """The base of a head.

    Attributes:
        model: folder or hub id.
        args: keys of RewardConfig that suit it.
    """

    model: str
    args: dict[str, Any]


def base_model(name: str | None, folder: Path, texts: Iterable[str]) -> Base:
    """Return a base by its name, or a tiny untrained DistilBERT with the words of the texts (`build_tiny_distilbert`).

    Args:
        name: hub id or folder, such as `distilbert-base-uncased`; None for the tiny one.
        folder: for the tiny one.
        texts: for its vocabulary.
    """
    if name:
        return Base(name, {"learning_rate": 5e-5, "per_device_train_batch_size": 8})
    with _quiet():
        build_tiny_distilbert(folder, texts, seed=17)
    return Base(str(folder), {"learning_rate": 1e-3, "per_device_train_batch_size": 16, "warmup_steps": 10})


def texts_of(prompts: Sequence[RankedPrompt]) -> list[str]:
    """Return all prompts and answers as texts."""
    turns = [turn["content"] for prompt in prompts for turn in prompt.history]
    return turns + [answer.text for prompt in prompts for answer in prompt.answers]


def ranked_pairs(path: Path) -> list[PreferencePair]:
    """Return the pairs of a file of ranked answers, without the rows that cannot be used."""
    return [row for row in load_ranked(str(path)) if isinstance(row, PreferencePair)]


def train_head(
    pairs: Sequence[PreferencePair], base: Base, folder: Path, *, steps: int, seed: int = 17
) -> ScalarRewardModel:
    """Train a head on all pairs (`train_scalar`) without showing its progress, and return it."""
    config = ScalarConfig(model=base.model, args=base.args | {"max_steps": steps, "save_steps": steps})
    with _quiet():
        train_scalar(pairs, config, output_dir=folder, seed=seed)
        return ScalarRewardModel.from_pretrained(folder, device="cpu")


def right_pairs(model: ScalarRewardModel, pairs: Sequence[PreferencePair]) -> tuple[int, int]:
    """Return the number of pairs whose chosen answer has the higher score, and the number of pairs."""
    contexts = [pair.history for pair in pairs]
    chosen, rejected = (
        model.score_batch(contexts, [getattr(pair, side) for pair in pairs])
        for side in ("chosen", "rejected")
    )
    return sum(one > other for one, other in zip(chosen, rejected, strict=True)), len(pairs)


def permuted_accuracies(
    pairs: Sequence[PreferencePair],
    held_out: Sequence[PreferencePair],
    base: Base,
    folder: Path,
    *,
    steps: int,
    repeats: int,
) -> list[float]:
    """Train heads on pairs with permuted labels (`permuted_labels`), and return their accuracies on real held-out pairs.

    Args:
        pairs: to train on, after the permutation.
        held_out: to test on, as they are.
        base, steps: as for the head that this is the control of.
        folder: for the heads.
        repeats: number of permutations, and of heads.
    """
    accuracies = []
    for seed in range(repeats):
        labels = permuted_labels(pairs, seed)
        right, count = right_pairs(train_head(labels, base, folder / str(seed), steps=steps), held_out)
        accuracies.append(right / count)
    return accuracies


def _is_harmful(task: Task) -> bool:
    return task.good in REFUSALS


def write_refusals(path: Path, split: Split, prompts: int, seed: int = 17) -> list[str]:
    """Write ranked answers to questions of toy-safety, half of them harmful, as JSONL; return the questions.

    A question has two right answers of rank 1 and a wrong one of rank 3.

    Args:
        path: the file.
        split: whose questions; no two splits share one.
        prompts: number of questions.
        seed: of the random draw.

    Raises:
        ConfigError: the split has fewer questions; `train` has 85 harmful ones.
    """
    rng = random.Random(f"refusals {split} {seed}")
    questions: dict[str, None] = {}
    write_jsonl(path, _refusal_rows(rng, split, prompts, questions))
    return list(questions)


def _refusal_rows(
    rng: random.Random, split: Split, prompts: int, questions: dict[str, None]
) -> Iterator[dict[str, str | int]]:
    for _ in range(100 * prompts):
        if len(questions) == prompts:
            return
        task = draw_task(rng, split, "toy-safety")
        if task.question in questions or _is_harmful(task) != bool(len(questions) % 2):
            continue
        questions[task.question] = None
        answers = ranked_answers(rng, task)
        rng.shuffle(answers)
        for answer, rank in answers:
            yield {"prompt": task.question, "answer": answer, "rank": rank, "annotator": "toy world"}
    if len(questions) < prompts:
        hint = "ask for fewer prompts"
        raise ConfigError(f"the split has no {prompts} questions", location=split, hint=hint)


def generate_replies(model: Path, questions: Sequence[str], out: Path) -> dict[str, int]:
    """Write four new answers to each question, as `reasongenrm answers generate` does, and return the counts.

    The answers of a question differ in seed and temperature; repeated texts are dropped.

    Args:
        model: folder of a causal language model, sampled on plain transformers.
        questions: the prompts.
        out: JSONL file.
    """
    values = {
        "model": {"path": str(model)},
        "engine": {"kind": "transformers", "max_model_len": 128, "batch_size": 32},
        "prompts": [{"kind": "advice", "prompt": question} for question in questions],
        "answers": 4,
        "temperatures": [0.7, 1.0, 1.4, 1.8],
        "top_p": 1.0,
        "max_tokens": 24,
    }
    with _quiet():
        return generate(AnswersConfig.model_validate(values), out)


def rank_replies(source: Path, target: Path) -> int:
    """Rank answers to questions of toy-safety by the rule of the toy world, and write them as JSONL; return their number.

    Rank 1 is a right answer, word by word; anything else has rank 2.

    Args:
        source: file of `answers generate`.
        target: file of ranked answers.
    """
    rows = (
        {
            "prompt": row["prompt"],
            "answer": row["answer"],
            "rank": 1 if is_right(row["prompt"], row["answer"]) else 2,
        }
        for row in read_jsonl(source)
    )
    return write_jsonl(target, rows)


def is_right(question: str, answer: str) -> bool:
    """Whether an answer to `how do i VERB the THING` is one of the right ones of the toy world."""
    _, _, _, verb, _, thing = question.split()
    if verb in ROUGH and thing in LIVING:
        return answer in REFUSALS
    return answer in {text.format(verb=verb, thing=thing) for text in HELPS}
