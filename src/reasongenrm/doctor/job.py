"""What the parts of a measurement share: its sizes and files, and the prompts, reasons and records that it makes up."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reasongenrm.chat.encoder import ChatEncoder, judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile, placed_prompts
from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.demo.world import NOUNS
from reasongenrm.records import JudgePrompt, PreferencePair, Reason
from reasongenrm.train.batches import PER_DEVICE

TRAINING_STEPS = 5
"""Optimizer steps that are timed, after one that is not."""

MEASURED_PASS = 2
"""Records that a process computes together where `per_device_train_batch_size` is not set."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        matrix: side of the square matrices of the matrix rate.
        prompts: sampled from and scored.
        samples: per prompt.
        prompt_words: words of an answer in a prompt; two answers make most of its tokens.
        reason_tokens: sampled per request; also the words of a scored reason.
        judgements: compared in two orders of the rows.
        compared: prompts whose P(A) is computed by vLLM and by transformers.
        record_tokens: median tokens of a training record.
        longest_record: tokens.
        passes: passes of a process per optimizer step.
    """

    matrix: int = 8192
    prompts: int = 64
    samples: int = 8
    prompt_words: int = 200
    reason_tokens: int = 300
    judgements: int = 200
    compared: int = 50
    record_tokens: int = 1050
    longest_record: int = 4096
    passes: int = 4


TINY = Sizes(512, 8, 2, 16, 16, 40, 8, 60, 160, 2)
"""For a machine without a GPU."""

TINY_MODEL = dict(
    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
)


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement.

    Attributes:
        folder: of its files; removed at the end.
        tiny: whether the model is TINY_MODEL instead of the recipe's.
        sizes: how much is measured.
    """

    folder: Path
    tiny: bool
    sizes: Sizes

    @classmethod
    def load(cls, folder: Path) -> Job:
        """Read a job from its folder."""
        saved = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        return cls(folder, saved["tiny"], Sizes(**saved["sizes"]))

    def save(self) -> None:
        """Write `job.json`."""
        saved = {"tiny": self.tiny, "sizes": asdict(self.sizes)}
        (self.folder / "job.json").write_text(json.dumps(saved), encoding="utf-8")

    @property
    def source(self) -> Recipe:
        """The user's recipe."""
        return load_recipe(self.folder / "source.yaml")

    @property
    def recipe(self) -> Recipe:
        """The recipe with the model of random weights."""
        return load_recipe(self.folder / "recipe.yaml")

    @property
    def model(self) -> Path:
        """Folder of the model of random weights."""
        return self.folder / "model"

    @property
    def adapter(self) -> Path:
        """Folder of an adapter of random weights."""
        return self.folder / "adapter"

    def add_row(self, part: str, **values: Any) -> None:
        """Append one result to `rows.jsonl`; it stays if the part fails later."""
        with (self.folder / "rows.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps({"part": part} | values) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """Return all results so far."""
        path = self.folder / "rows.jsonl"
        return (
            [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            if path.exists()
            else []
        )


def encoder_of(recipe: Recipe) -> ChatEncoder:
    """Return the encoder of the recipe's first judge with reasons."""
    return judge_encoder(recipe, recipe.student_template, load_tokenizer(recipe.model))


def words(count: int, seed: str) -> str:
    """Return random words."""
    return " ".join(random.Random(seed).choices(NOUNS, k=count))


def judge_prompts(recipe: Recipe, count: int, words_per_answer: int) -> list[JudgePrompt]:
    """Return judge prompts of random words, two per pair."""
    wording = PromptFile.load(recipe.prompts)
    prompts: list[JudgePrompt] = []
    for number in range(-(-count // 2)):
        question, good, bad = (words(words_per_answer, f"{number} {part}") for part in "qgb")
        history = [{"role": "user", "content": question[:200]}]
        pair = PreferencePair.make(history, good, bad, "doctor")  # type: ignore[arg-type]
        prompts += placed_prompts(pair, wording, seed=recipe.seed, both_orders=True)
    return prompts[:count]


def reasons_of(prompt: JudgePrompt, samples: int, count: int) -> list[Reason]:
    """Return reasons of random words for a prompt."""
    return [
        Reason(
            id=f"{prompt.id}#doctor#{number}",
            prompt_id=prompt.id,
            text=words(count, f"{prompt.id} {number}"),
            verdict=prompt.winner,
            tokens=count,
            finish_reason="stop",
            teacher="doctor",
            mode="blind",
        )
        for number in range(samples)
    ]


def record_lengths(sizes: Sizes, count: int) -> list[int]:
    """Return the tokens of training records.

    They are log-normal with a deviation of 0.55, as 500 real pairs of Skywork's kind are with reasons of 200 tokens
    (`bench/train.py` uses those), and at most `longest_record`.
    """
    draw = random.Random(0)
    lengths = (round(sizes.record_tokens * draw.lognormvariate(0, 0.55)) for _ in range(count))
    return [min(max(length, 32), sizes.longest_record) for length in lengths]


def measured_pass(recipe: Recipe) -> int:
    """Return the most records that a process of a timed training computes together."""
    return int(recipe.train.args.get(PER_DEVICE, MEASURED_PASS))
