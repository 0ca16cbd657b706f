"""A judge's model card in the Hub's layout, from the run folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import yaml

from reasongenrm.errors import ConfigError
from reasongenrm.report.pages import printable, render
from reasongenrm.report.run_files import (
    BASES,
    SCALAR,
    BenchmarkRun,
    Manifest,
    ModelRun,
    RunFiles,
    read_json,
    read_run,
)
from reasongenrm.report.run_table import facts, run_table, sections_and_subsets
from reasongenrm.report.tables import one_line
from reasongenrm.report.training_steps import (
    Steps,
    TrainedStep,
    chain_of,
    read_steps,
    step_table,
    training_alarms,
)
from reasongenrm.store import write_text

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_RECIPE_PARTS = {
    "seed": "train",
    "model": "train",
    "data": "prepare",
    "teachers": "prepare",
    "select": "prepare",
    "train": "train",
}
"""Parts of the recipe, and the stage that has used each; the recipe of stage 3 may say something else by then."""
_PRIVATE_KEYS = {"url", "urls", "api_key_env"}
"""Keys that name servers, and say nothing about the judge."""


def write_model_card(folder: Path, judge: str) -> Path:
    """Write `judges/<judge>/README.md` into a run folder, and return its path.

    Args:
        folder: a run folder after stage 3; nothing outside it is read.
        judge: a judge of the run's recipe, or `<judge>@<step>` of its training.

    Raises:
        ConfigError: the run has no such judge.
        DataError: a file of the folder is missing or broken, or the card cannot be written.
    """
    run = read_run(folder)
    judges = run.manifest.recipe.get("judges", {})
    if _owner(judge) not in judges:
        hint = f"its judges are: {', '.join(judges) or 'none'}"
        raise ConfigError(f"the run has no judge {judge!r}", location=str(folder), hint=hint)
    path = folder / "judges" / judge / "README.md"
    write_text(path, printable(_card(folder, run, judge, read_steps(folder, list(judges)))))
    return path


def _recipe_of_training(folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of stage 3 with what the stages before it have used."""
    paths = {stage: folder / "manifest" / f"{stage}.json" for stage in _RECIPE_PARTS.values()}
    used = {stage: read_json(path, Manifest).recipe for stage, path in paths.items() if path.exists()}
    return recipe | {key: used[s][key] for key, s in _RECIPE_PARTS.items() if key in used.get(s, {})}


def _card(folder: Path, run: RunFiles, judge: str, steps: Steps) -> str:
    """Return the card; huggingface_hub writes its metadata, and reads them again to check them."""
    from huggingface_hub import ModelCard, ModelCardData

    recipe, name = _recipe_of_training(folder, run.manifest.recipe), f"{run.name}-{judge}"
    path, revision = recipe["model"]["path"], recipe["model"].get("revision")
    base = _public(path)
    settings = recipe["judges"][_owner(judge)]
    template, whole = settings.get("template", "reason"), recipe["train"].get("parameters") == "all"
    judged = [(b, b.models[judge]) for b in run.benchmarks if judge in b.models]
    results = list(_eval_results(run, judged))
    chain = [_with_own_keys(step, recipe["train"]) for step in chain_of(steps, judge)]
    metadata = ModelCardData(  # huggingface.co/docs/hub/model-cards
        base_model=one_line(base),
        base_model_relation="finetune" if whole else "adapter",
        library_name="transformers" if whole else "peft",
        pipeline_tag="text-generation",
        tags=[
            *("reasongenrm", "reward-model", "llm-as-a-judge", *["lora"] * (not whole)),
            one_line(f"judge-template-{template}"),
        ],
        model_name=one_line(name) if results else None,
        eval_results=results or None,
    )
    parts = {"judges": {_owner(judge): settings}}
    parts |= {key: recipe[key] for key in _RECIPE_PARTS if key in recipe}
    body = render(
        "model_card.md.jinja",
        name=name,
        template=template,
        whole=whole,
        base=base,
        revision=revision,
        base_is_local=_is_local(run, path),
        benchmarks=[_public_benchmark(benchmark, judge) for benchmark in run.benchmarks],
        sources=[_public(str(one.get("path"))) for one in recipe.get("data", {}).get("sources", ())],
        training=steps.get(judge),
        steps=step_table(chain, run.benchmarks) if len(chain) > 1 else None,
        alarms=training_alarms(run, {step.model: step for step in chain}),
        manifest=run.manifest,
        recipe=yaml.safe_dump(_public(parts), sort_keys=False, allow_unicode=True, width=110).rstrip("\n"),
        model=repr({"path": base, "revision": revision} if revision else base),
        judged=judged,
        limited=recipe.get("limit") is not None,
    )
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}"))


def _with_own_keys(step: TrainedStep, train: dict[str, Any]) -> TrainedStep:
    """Return a step with the recipe's keys beside the argument of the trainer that they set: of GRPO with the baseline `pair`,
    `num_generations` counts the completions of both orders."""
    settings: dict[str, Any] = {}
    for name, value in step.settings.items():
        settings[name] = value
        if name == "num_generations":
            settings |= {
                key: train["grpo"][key] for key in ("samples", "baseline") if key in train.get("grpo", {})
            }
    return replace(step, settings=settings)


def _owner(judge: str) -> str:
    """Return the judge of the recipe that a step has trained."""
    return judge.partition("@")[0]


def _public_benchmark(benchmark: BenchmarkRun, judge: str) -> dict[str, str]:
    """Return the facts and the table of a benchmark, with the judge, the base and the scalar head."""
    compared = {name: model for name, model in benchmark.models.items() if name in (*BASES, judge, SCALAR)}
    benchmark = replace(benchmark, path=_public(benchmark.path), models=compared)
    return {"name": benchmark.name, "facts": facts(benchmark), "table": run_table(benchmark).markdown()}


def _eval_results(run: RunFiles, judged: Sequence[tuple[BenchmarkRun, ModelRun]]) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    # A hub id; of a local file the kind of benchmark, since its path means nothing on another machine.
    datasets = [b.kind if _is_local(run, b.path) else b.path for b, _ in judged]
    for dataset, (benchmark, model) in zip(datasets, judged, strict=True):
        score = model.score
        shares = {
            "score": score.score,
            **{name: score.sections.get(name) for name in sections_and_subsets(benchmark)[0]},
        }
        shares |= {"strict": score.strict, "consistency": model.diagnostics.consistency}
        for name, share in shares.items():
            if share is not None:
                yield EvalResult(
                    task_type="text-generation",
                    task_name="Pairwise preference judging",
                    dataset_type=one_line(dataset),
                    dataset_name=one_line(benchmark.name + (", partial" if score.partial else "")),
                    # Results of one dataset and configuration are one entry of the model index.
                    dataset_config=benchmark.key if datasets.count(dataset) > 1 else None,
                    metric_type="accuracy",
                    metric_name=one_line(f"{name} (%)"),
                    metric_value=round(100 * share, 2),
                )


def _is_local(run: RunFiles, path: str) -> bool:
    """Whether a path was a file or folder of the machine: the manifest has its hash, or it is not a hub id."""
    known = run.manifest.file_hashes.get(path)
    if known is not None:
        return bool(known != "absent")
    return re.fullmatch(r"[\w.-]+/[\w.-]+", path) is None


def _public(value: Any) -> Any:
    """Return a part of the recipe without servers, and without the folders of absolute paths, which are one machine's."""
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items() if key not in _PRIVATE_KEYS}
    if isinstance(value, list):
        return [_public(item) for item in value]
    if isinstance(value, str) and PurePath(value).is_absolute():
        return PurePath(value).name
    return value
