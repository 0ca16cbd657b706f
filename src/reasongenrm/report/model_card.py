"""A judge's model card in the Hub's layout, from the run folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import yaml

from reasongenrm.errors import ConfigError
from reasongenrm.report.pages import printable, render
from reasongenrm.report.run_files import BASE, SCALAR, BenchmarkRun, ModelRun, RunFiles, read_json, read_run
from reasongenrm.report.run_table import facts, ordered, run_table
from reasongenrm.report.tables import one_line
from reasongenrm.store import write_text

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

_RECIPE_PARTS = ("seed", "model", "data", "teachers", "select", "train")
_PRIVATE_KEYS = {"url", "urls", "api_key_env"}
"""Keys that name servers, and say nothing about the judge."""


def write_model_card(folder: Path, judge: str) -> Path:
    """Write `judges/<judge>/README.md` into a run folder, and return its path.

    Args:
        folder: a run folder after stage 3; nothing outside it is read.
        judge: a judge of the run's recipe.

    Raises:
        ConfigError: the run has no such judge.
        DataError: a file of the folder is missing or broken, or the card cannot be written.
    """
    run = read_run(folder, results=False)
    judges = run.manifest.recipe.get("judges", {})
    if judge not in judges:
        hint = f"its judges are: {', '.join(judges) or 'none'}"
        raise ConfigError(f"the run has no judge {judge!r}", location=str(folder), hint=hint)
    path = folder / "judges" / judge / "README.md"
    training = path.with_name("training.json")
    write_text(path, printable(card(run, judge, read_json(training, dict) if training.exists() else {})))
    return path


def card(run: RunFiles, judge: str, training: Mapping[str, Any]) -> str:
    """Return the card; huggingface_hub writes its metadata, and reads them again to check them.

    Args:
        run: the run; the results of single rows are not needed.
        judge: a judge of its recipe.
        training: the training report of stage 2 for this judge; may be empty.
    """
    from huggingface_hub import ModelCard

    recipe = run.manifest.recipe
    base, revision = recipe["model"]["path"], recipe["model"].get("revision")
    compared = (BASE, judge, SCALAR)
    benchmarks = [
        replace(b, path=_public_path(b.path), models=tuple(m for m in b.models if m.name in compared))
        for b in run.benchmarks
    ]
    parts = {key: recipe[key] for key in _RECIPE_PARTS if key in recipe}
    body = render(
        "model_card.md.jinja",
        name=f"{run.name}-{judge}",
        template=recipe["judges"][judge].get("template", "reason"),
        base=_public_path(base),
        revision=revision,
        base_is_local=_is_local(run, base),
        benchmarks=[
            {"name": b.name, "facts": facts(b), "table": run_table(b).markdown()} for b in benchmarks
        ],
        sources=[_public_path(str(one.get("path"))) for one in recipe.get("data", {}).get("sources", ())],
        training=training,
        manifest=run.manifest,
        recipe=_yaml(_public({"judges": {judge: recipe["judges"][judge]}, **parts})),
        usage=_usage(_public_path(base), revision),
        judged=list(_judged(run, judge)),
        limited=recipe.get("limit") is not None,
    )
    return str(ModelCard(f"---\n{_metadata(run, judge).to_yaml()}\n---\n\n{body}"))


def _metadata(run: RunFiles, judge: str) -> ModelCardData:
    """Return the card's metadata: huggingface.co/docs/hub/model-cards."""
    from huggingface_hub import ModelCardData

    recipe = run.manifest.recipe
    template = recipe["judges"][judge].get("template", "reason")
    results = list(_eval_results(run, judge))
    return ModelCardData(
        base_model=one_line(_public_path(recipe["model"]["path"])),
        base_model_relation="adapter",
        library_name="peft",
        pipeline_tag="text-generation",
        tags=[
            "reasongenrm",
            "reward-model",
            "llm-as-a-judge",
            "lora",
            one_line(f"judge-template-{template}"),
        ],
        model_name=one_line(f"{run.name}-{judge}") if results else None,
        eval_results=results or None,
    )


def _eval_results(run: RunFiles, judge: str) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    judged = list(_judged(run, judge))
    # A hub id; of a local file the kind of benchmark, since its path means nothing on another machine.
    datasets = [b.kind if _is_local(run, b.path) else b.path for b, _ in judged]
    for dataset, (benchmark, model) in zip(datasets, judged, strict=True):
        score = model.score
        shares = {"score": score.score, **{name: score.sections.get(name) for name in ordered(benchmark)[0]}}
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


def _judged(run: RunFiles, judge: str) -> Iterator[tuple[BenchmarkRun, ModelRun]]:
    for benchmark in run.benchmarks:
        yield from ((benchmark, model) for model in benchmark.models if model.name == judge)


def _usage(base: str, revision: str | None) -> str:
    model = repr({"path": base, "revision": revision}) if revision else repr(base)
    return f"""from reasongenrm import Judge

with Judge.from_pretrained({model}, adapter="adapter") as judge:
    comparison = judge.compare("What is 2 + 2?", "4", "5")
    print(comparison.winner, comparison.prob_a, comparison.reason)"""


def _is_local(run: RunFiles, path: str) -> bool:
    """Whether a path was a file or folder of the machine: the manifest has its hash, or it is not a hub id."""
    known = run.manifest.settings.get("files", {}).get(path)
    if known is not None:
        return bool(known != "absent")
    return re.fullmatch(r"[\w.-]+/[\w.-]+", path) is None


def _public_path(path: str) -> str:
    """Return an absolute path without its folders, which are those of one machine."""
    return PurePath(path).name if PurePath(path).is_absolute() else path


def _public(value: Any) -> Any:
    """Return a part of the recipe without what belongs to one machine or its network."""
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items() if key not in _PRIVATE_KEYS}
    if isinstance(value, list):
        return [_public(item) for item in value]
    return _public_path(value) if isinstance(value, str) else value


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110).rstrip("\n")
