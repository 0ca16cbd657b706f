"""Recipes: one YAML file holds every setting of the three stages; an unknown key fails.

Paths in a recipe are relative to the folder the command is run in (the three scripts run in the repository root).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from reasongenrm.config.engines import EngineConfig, ModelConfig, Strict
from reasongenrm.config.evaluate import EvaluateConfig
from reasongenrm.config.prepare import DataConfig, RecordsConfig, SelectConfig, TeacherConfig
from reasongenrm.config.scalar import ScalarConfig

Template = Literal["reason", "think", "direct"]


class JudgeConfig(Strict):
    """One judge to train and to evaluate.

    Attributes:
        template: `reason` (a turn of reasons, then the verdict's), `think` (reasons between think tags, as servers'
            reasoning parsers read them) or `direct` (verdict only, GenRM).
        general: mix `general.jsonl` into its records (a wGen model).
        args: `trl.SFTConfig` keys that replace those of `train.args` for this judge.
    """

    template: Template = "reason"
    general: bool = False
    args: dict[str, Any] = {}


class TrainConfig(Strict):
    """Fine-tuning of the judges with TRL, peft, accelerate and DeepSpeed.

    Attributes:
        launch: accelerate config file.
        launch_args: further arguments of `accelerate launch`, as on a command line, such as `--num_processes 4`.
        tokens: stop after about this many training tokens (each judge gets the same compute); otherwise the
            epochs or steps in `args` decide.
        attention: `auto` takes flash attention where it is installed, else PyTorch's own; records are packed
            only with flash attention, which keeps packed records apart.
        lora: `peft.LoraConfig` keys, passed through untouched.
        args: `trl.SFTConfig` keys, passed through untouched.
        merge: also save the base with the adapter merged in.
    """

    launch: str
    launch_args: str = ""
    tokens: int | None = Field(None, ge=1)
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "auto"
    lora: dict[str, Any] = {}
    args: dict[str, Any] = {}
    merge: bool = False


TEMPLATES: dict[Template, str] = {
    "reason": "configs/prompts/reason.jinja",
    "think": "configs/prompts/think.jinja",
    "direct": "configs/prompts/direct.jinja",
}


def is_blind_student(teacher: TeacherConfig) -> bool:
    """Whether a teacher is the student itself, judging blind: its right verdicts are the student's solve rate."""
    return teacher.mode == "blind" and teacher.model is None and teacher.server is None


class Recipe(Strict):
    """Everything a run needs; the three stages read the same file.

    Attributes:
        name: the run folder is `runs/<name>`.
        seed: placement, sampling, training.
        limit: use N rows of the data, a share of every source, and the first N rows of each benchmark.
        model: the student, which is trained into the judge.
        prompts: prompt file.
        templates: chat template file for each judge template; one that is not given is the shipped one.
        teachers: who writes the reasons, by name; the reasons of several compete for each prompt.
        judges: the judges to train, by name.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = 17
    limit: int | None = Field(None, ge=1)
    model: ModelConfig
    engine: EngineConfig = EngineConfig()
    prompts: str = "configs/prompts/judge.yaml"
    templates: dict[Template, str] = TEMPLATES
    data: DataConfig
    teachers: Annotated[dict[str, TeacherConfig], Field(min_length=1)] = {"student": TeacherConfig()}
    select: SelectConfig = SelectConfig()
    records: RecordsConfig = RecordsConfig()
    judges: Annotated[dict[str, JudgeConfig], Field(min_length=1)]
    train: TrainConfig
    scalar: ScalarConfig | None = ScalarConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @field_validator("templates")
    @classmethod
    def _all_templates(cls, given: dict[Template, str]) -> dict[Template, str]:
        return TEMPLATES | given

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        for name in self.judges:
            if name in ("base", "scalar") or not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(
                    f"judge name {name!r}: use letters, digits, '-', '_'; not 'base' or 'scalar'"
                )
        for name, teacher in self.teachers.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                raise ValueError(f"teacher name {name!r}: use letters, digits, '_', '-' and '.'")
            if teacher.max_tokens >= self.engine.max_model_len:
                raise ValueError(f"teachers.{name}.max_tokens must be below engine.max_model_len")
        if taken := self.evaluate.others.keys() & {"base", "scalar", *self.judges}:
            raise ValueError(f"evaluate.others: the name {min(taken)!r} is taken")
        if self.records.grpo and not any(map(is_blind_student, self.teachers.values())):
            raise ValueError("records.grpo wants the student's own solve rate: add a teacher {mode: blind}")
        if any(judge.general for judge in self.judges.values()) and not self.records.general:
            raise ValueError("a judge with general: true wants records.general, which is empty")
        if self.evaluate.max_tokens >= self.engine.max_model_len:
            raise ValueError("evaluate.max_tokens must be below engine.max_model_len")
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path("runs") / self.name

    @property
    def student_template(self) -> Template:
        """The template under which reasons are scored, and the base is asked: the first reasoning judge's."""
        return next((j.template for j in self.judges.values() if j.template != "direct"), "direct")

    def needs_reasons(self) -> bool:
        """Whether any judge reasons, so that reasons have to be sampled."""
        return self.student_template != "direct"
