"""`Recipe`: all settings of the three stages, in one YAML file; an unknown key is an error.

Paths in a recipe are relative to the current directory (the three scripts change to the repository root).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from reasongenrm.config.arguments import Arguments
from reasongenrm.config.engines import EngineConfig, FolderName, ModelConfig, Seed, Strict
from reasongenrm.config.evaluate import EvaluateConfig
from reasongenrm.config.prepare import DataConfig, RecordsConfig, SelectConfig, TeacherConfig
from reasongenrm.config.scalar import ScalarConfig
from reasongenrm.config.steps import DPOStep, GRPOStep, MarginConfig, RoundStep, StepKind

Template = Literal["reason", "think", "direct", "listwise", "listwise-reason", "pointwise"]
POINTWISE: Template = "pointwise"
"""The template of judges that rate one answer, without a reason."""
VERDICT_ONLY: tuple[Template, ...] = ("direct", "listwise", POINTWISE)
"""Templates without a reason."""
LISTWISE: tuple[Template, ...] = ("listwise", "listwise-reason")
"""Templates of judges that name the best of two to eight answers."""
STEP_TEMPLATES: tuple[Template, ...] = ("reason", "think")
"""Templates of judges that can be trained beyond SFT."""
REASONED: Template = "listwise-reason"
"""The template of judges of lists that write a reason."""


def _check_steps(steps: list[StepKind]) -> list[StepKind]:
    if steps[0] != "sft" or steps.count("sft") > 1:
        raise ValueError("the first step, and no other, is sft")
    return steps


Steps = Annotated[list[StepKind], Field(min_length=1), AfterValidator(_check_steps)]
"""Steps of a training; each starts from the adapter of the step before it."""


class JudgeConfig(Strict):
    """One judge to train and to evaluate.

    Attributes:
        template: `reason` (a reason turn, then a verdict turn), `think` (the reason between think tags, for the
            reasoning parsers of servers), `direct` (verdict only, GenRM), `listwise` (verdict only, on the best of two to
            eight answers), `listwise-reason` (the same with a reason turn) or `pointwise` (a rating of one answer alone).
        general: also train on `general.jsonl` (a wGen model).
        steps: of its training; null: `train.steps` for the templates `reason` and `think`, and `sft` for the others.
        args: `trl.SFTConfig` keys that override `train.args` for this judge.
    """

    template: Template = "reason"
    general: bool = False
    steps: Steps | None = None
    args: Arguments = {}


class TrainConfig(Strict):
    """Fine-tuning of the judges with TRL, peft, accelerate and DeepSpeed.

    Attributes:
        launch: accelerate config file. On GPUs all visible ones train, whatever number the file names.
        launch_args: further arguments of `accelerate launch`, as on a command line, such as `--num_processes 4`.
        batch: records of an optimizer step, on all devices together; the steps of gradient accumulation follow from it,
            from `args.per_device_train_batch_size` and from the number of processes.
        tokens: stop after about this many training tokens, so that each judge gets the same compute; null: the epochs
            or steps in `args` decide.
        packing: join the records of a device into one row without padding, in which each attends to itself alone.
            `auto` packs where the model has plain attention. Neither the records of a step nor the loss change.
        attention: `auto` is variable-length flash attention (a GPU) or one call per record (a CPU) where records are
            packed, else PyTorch's.
        parameters: `lora` trains an adapter; `all` trains every weight, and the result of a step is a whole model. With ZeRO-3
            the processes share weights, gradients and optimizer, about 16 bytes per weight together.
        quantization: `nf4` trains the adapter on a base of 4 bits (QLoRA); it needs the package bitsandbytes.
        lora: `peft.LoraConfig` keys, passed through unchanged.
        steps: of the judges with reasons, such as [sft, round, round, dpo, grpo].
        margin: a hinge loss at the verdict, in `sft` and `round`; null: none.
        dpo, grpo, round: settings of these steps.
        args: `trl.SFTConfig` keys, passed through unchanged.
        merge: also save the base with the adapter merged into it.
        report_to: a tracker that shows the curves live, besides `metrics.jsonl`; offline in `runs/<name>/tracking`, unless
            the environment says otherwise (`WANDB_MODE`, `TRACKIO_SPACE_ID`), from which its keys come, too.
    """

    launch: str
    launch_args: str = ""
    batch: int = Field(128, ge=1)
    tokens: int | None = Field(None, ge=1)
    packing: Literal["auto"] | bool = "auto"
    attention: Literal[
        "auto", "sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3"
    ] = "auto"
    parameters: Literal["lora", "all"] = "lora"
    quantization: Literal["none", "nf4"] = "none"
    lora: Arguments = {}
    steps: Steps = ["sft"]
    margin: MarginConfig | None = None
    dpo: DPOStep = DPOStep()
    grpo: GRPOStep = GRPOStep()
    round: RoundStep = RoundStep()
    args: Arguments = {}
    merge: bool = False
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = "none"

    @model_validator(mode="after")
    def _adapter_keys(self) -> TrainConfig:
        keys = ["lora"] * bool(self.lora) + ["merge"] * self.merge
        keys += ["quantization"] * (self.quantization != "none")
        if self.parameters == "all" and keys:
            raise ValueError(
                f"{keys[0]} is of an adapter, and parameters: all trains none; remove it, or set parameters: lora"
            )
        return self


class TrainStep(NamedTuple):
    """One step of a judge's training.

    Attributes:
        model: name of the result, in `judges/` and in stage 3: the judge's for `sft`, then `<judge>@dpo`, `<judge>@round-2`.
        judge: name of the judge in the recipe.
        kind: what the step does.
        previous: the model that the step starts from; None for the first.
    """

    model: str
    judge: str
    kind: StepKind
    previous: str | None


RESERVED = ("base", "base-direct", "scalar")
"""Names of models that are not trained judges, in results and their folders."""

TEMPLATES: dict[Template, str] = {
    "reason": "configs/prompts/reason.jinja",
    "think": "configs/prompts/think.jinja",
    "direct": "configs/prompts/direct.jinja",
    "listwise": "configs/prompts/direct.jinja",
    "listwise-reason": "configs/prompts/reason.jinja",
    "pointwise": "configs/prompts/direct.jinja",
}
"""Chat template file of each judge template."""


def list_templates(recipe: Recipe) -> list[Template]:
    """Return the templates of a recipe's judges of lists."""
    used = {judge.template for judge in recipe.judges.values()}
    return [template for template in LISTWISE if template in used]


def is_blind_student(teacher: TeacherConfig) -> bool:
    """Whether a teacher is the student in blind mode: its share of right verdicts is the student's solve rate."""
    return teacher.mode == "blind" and teacher.model is None and teacher.server is None


class Recipe(Strict):
    """All settings of a run; the three stages read the same file.

    Attributes:
        name: the run folder is `runs/<name>`.
        seed: of the A/B order, sampling and training.
        limit: use N rows of the data, a share of every source, and the first N rows of each benchmark.
        model: the student, from which the judges are trained.
        prompts: prompt file.
        templates: chat template file for each judge template; the shipped ones are the default.
        teachers: the models that write reasons, by name; the reasons of several teachers compete for each prompt.
        judges: the judges to train, by name.
        meta: the judge of judges, a head that learns right from wrong judgements from the blind teachers of stage 1; for
            `evaluate.combine: meta`.
    """

    name: FolderName
    seed: Seed = 17
    limit: int | None = Field(None, ge=1)
    model: ModelConfig
    engine: EngineConfig = EngineConfig()
    prompts: str = "configs/prompts/judge.yaml"
    templates: Annotated[dict[Template, str], AfterValidator(lambda own: TEMPLATES | own)] = TEMPLATES
    data: DataConfig
    teachers: Annotated[dict[FolderName, TeacherConfig], Field(min_length=1)] = {"student": TeacherConfig()}
    select: SelectConfig = SelectConfig()
    records: RecordsConfig = RecordsConfig()
    judges: Annotated[dict[FolderName, JudgeConfig], Field(min_length=1)]
    train: TrainConfig
    scalar: ScalarConfig | None = ScalarConfig()
    meta: ScalarConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        for name in self.judges:
            if name in RESERVED or not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(
                    f"judge name {name!r}: use letters, digits, '-', '_'; not {', '.join(RESERVED)}"
                )
        for name, teacher in self.teachers.items():
            if teacher.max_tokens >= self.engine.max_model_len:
                raise ValueError(f"teachers.{name}.max_tokens must be below engine.max_model_len")
        if names := self.evaluate.others.keys() & {*RESERVED, *self.judges}:
            raise ValueError(f"evaluate.others: the name {min(names)!r} is in use")
        kinds = {step.kind for step in self.trained.values()}
        refreshed = "grpo" in kinds and self.train.grpo.refresh is not None
        if self.records.grpo and not refreshed and not any(map(is_blind_student, self.teachers.values())):
            others = ", or set train.grpo.refresh" if "grpo" in kinds else ""
            raise ValueError(
                f"records.grpo needs the solve rate of the student: add a teacher {{mode: blind}}{others}"
            )
        if self.meta is not None and all(teacher.mode != "blind" for teacher in self.teachers.values()):
            raise ValueError("meta learns from right and wrong judgements: add a teacher {mode: blind}")
        if self.evaluate.combine == "meta" and self.meta is None and self.evaluate.meta is None:
            raise ValueError("evaluate.combine: meta needs the section meta: {}, or evaluate.meta")
        if "grpo" in kinds and self.train.grpo.max_tokens >= self.engine.max_model_len:
            raise ValueError("train.grpo.max_tokens must be below engine.max_model_len")
        if "dpo" in kinds and self.records.dpo is None and self.train.dpo.refresh is None:
            raise ValueError("the step dpo needs records.dpo: {}, or train.dpo.refresh")
        if "grpo" in kinds and self.records.grpo is None and not refreshed:
            raise ValueError("the step grpo needs records.grpo: {}, or train.grpo.refresh")
        for name, judge in self.judges.items():
            if judge.template not in STEP_TEMPLATES and judge.steps not in (None, ["sft"]):
                raise ValueError(
                    f"judges.{name}: only the templates {', '.join(STEP_TEMPLATES)} have more steps than sft"
                )
        if any(judge.general for judge in self.judges.values()) and not self.records.general:
            raise ValueError("a judge with general: true needs records.general, which is empty")
        if self.evaluate.max_tokens >= self.engine.max_model_len:
            raise ValueError("evaluate.max_tokens must be below engine.max_model_len")
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path("runs") / self.name

    @property
    def student_template(self) -> Template:
        """The template for scoring reasons: that of the first judge with reasons (on pairs, if there is one)."""
        templates = [judge.template for judge in self.judges.values() if judge.template not in VERDICT_ONLY]
        return next((name for name in templates if name not in LISTWISE), next(iter(templates), "direct"))

    @property
    def trained(self) -> dict[str, TrainStep]:
        """The training steps of all judges by the name of their result, in the order of training."""
        steps: dict[str, TrainStep] = {}
        for name, judge in self.judges.items():
            default: Steps = self.train.steps if judge.template in STEP_TEMPLATES else ["sft"]
            previous: str | None = None
            counts: Counter[str] = Counter()
            for kind in judge.steps or default:
                counts[kind] += 1
                suffix = f"-{counts[kind]}" if counts[kind] > 1 else ""
                model = f"{name}@{kind}{suffix}" if previous else name
                steps[model] = TrainStep(model, name, kind, previous)
                previous = model
        return steps

    def weights(self, name: str) -> Path:
        """Return the folder of a trained model's weights: an adapter, or a whole model (`train.parameters: all`)."""
        return self.folder / "judges" / name / ("adapter" if self.train.parameters == "lora" else "model")

    def serving(self, name: str) -> tuple[ModelConfig, Path | None]:
        """Return the model that serves a trained judge, and the adapter on it, if it has one."""
        folder = self.weights(name)
        if self.train.parameters == "lora":
            return self.model, folder
        return self.model.model_copy(update={"path": str(folder), "revision": None}), None

    def chain(self, step: TrainStep) -> list[StepKind]:
        """Return the kinds of the steps up to a step of its judge."""
        before = self.chain(self.trained[step.previous]) if step.previous else []
        return [*before, step.kind]

    @property
    def judging(self) -> EvaluateConfig:
        """The section `evaluate`, with the folder of this run's judge of judges where it combines votes."""
        if self.evaluate.combine != "meta" or self.evaluate.meta is not None:
            return self.evaluate
        return self.evaluate.model_copy(update={"meta": str(self.folder / "meta")})

    def needs_reasons(self) -> bool:
        """Whether any judge writes reasons, so that reasons have to be sampled."""
        return self.student_template != "direct"
