"""Settings of `reasongenrm agree`: labelled rows, the judge that is compared with people, and the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from reasongenrm.config.engines import EngineConfig, FolderName, Seed, Strict
from reasongenrm.config.evaluate import JudgingConfig, OtherJudge
from reasongenrm.config.own_judge import OwnJudge


class AnyJudge(Strict):
    """A judge: of a recipe, of a model on vLLM, or on a server.

    Attributes:
        recipe: a judge of a recipe; its own settings count, and all keys below but `name` are left out.
        model: hub id or folder of a chat model.
        adapter: LoRA folder of a judge on this model.
        reasons: whether this model writes a reason before its verdict.
        other: a judge on a server, as in a recipe's `evaluate.others`.
        prompts: prompt file; null: the one beside the adapter or model, or the shipped one.
        judging: orders, sampling and votes.
        engine: serving options of the model.
    """

    recipe: OwnJudge | None = None
    model: str | None = None
    adapter: str | None = None
    reasons: bool = True
    other: OtherJudge | None = None
    prompts: str | None = None
    judging: JudgingConfig = JudgingConfig()
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(place is not None for place in (self.recipe, self.model, self.other)) != 1:
            raise ValueError("give one of recipe, model and other")
        if self.adapter is not None and self.model is None:
            raise ValueError("an adapter needs its base: give --model, without --server")
        return self


class Gate(Strict):
    """What a judge's kappa with people must not fall below.

    Attributes:
        min_kappa: least kappa with the majority.
        baseline: `agreement.json` of an earlier call.
        max_drop: most by which kappa may be below the baseline's.
    """

    min_kappa: float | None = Field(None, ge=-1, le=1)
    baseline: str | None = None
    max_drop: float = Field(0.05, ge=0, le=2)


class AgreeConfig(Strict):
    """Settings of one call.

    Attributes:
        labels: file or hub id of the labelled rows.
        out: folder of the results.
        columns: words `ours=theirs`, see `rows.labels.read_columns`.
        verdicts: judge's name -> file of `judge compare` (or `judge rate`) with the rows' ids.
        judge: a judge that judges the rows now.
        judge_name: its name in the tables.
        rubric: YAML file with criteria, by each of which it judges alone.
        pass_score: score in [0, 1] from which on a single answer passes.
        seed: of the intervals.
    """

    labels: str
    out: str
    columns: list[str] = []
    verdicts: dict[str, str] = {}
    judge: AnyJudge | None = None
    judge_name: FolderName | None = None
    rubric: str | None = None
    pass_score: float = Field(0.5, ge=0, le=1)
    gate: Gate = Gate()
    seed: Seed = 17

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        return Path(self.out).expanduser()
