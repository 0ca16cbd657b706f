"""A judge's model card in the Hub's layout, from the run folder alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import yaml

from reasongenrm.errors import ConfigError
from reasongenrm.report.pages import printable
from reasongenrm.report.run_files import BASE, SCALAR, BenchmarkRun, ModelRun, RunFiles, read_json, read_run
from reasongenrm.report.run_table import facts, markdown, ordered
from reasongenrm.report.tables import escape_markdown, percent
from reasongenrm.store import write_text

_TEMPLATE = "model_card.md.jinja"
_LINE = 110
_PARTS = ("seed", "model", "data", "teachers", "select", "train")
_OWN = {"url", "urls", "api_key_env"}
"""Keys that say where somebody's servers are, and nothing about the judge."""


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
        known = ", ".join(judges) or "none"
        raise ConfigError(
            f"the run has no judge {judge!r}", location=str(folder), hint=f"its judges are: {known}"
        )
    path = folder / "judges" / judge / "README.md"
    training = path.with_name("training.json")
    told = read_json(training, dict) if training.exists() else {}
    write_text(path, printable(card(run, judge, told)))
    return path


def card(run: RunFiles, judge: str, training: Mapping[str, Any]) -> str:
    """Return the card.

    Args:
        run: the run; what its models said of the rows is not needed.
        judge: a judge of its recipe.
        training: what stage 2 says of the judge's training; may be empty.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Markdown has escapes of its own: every text goes through `md` or `code`.
    environment = Environment(
        loader=PackageLoader("reasongenrm", "report"), autoescape=False, undefined=StrictUndefined
    )
    environment.filters.update(md=escape_markdown, code=_fenced)
    recipe = run.manifest.recipe
    base, revision = recipe["model"]["path"], recipe["model"].get("revision")
    benchmarks = [_of(benchmark, judge) for benchmark in run.benchmarks]
    parts = {key: recipe[key] for key in _PARTS if key in recipe}
    return environment.get_template(_TEMPLATE).render(
        front=_yaml(_one_line(_front(run, judge))).rstrip("\n"),
        name=f"{run.name}-{judge}",
        template=recipe["judges"][judge].get("template", "reason"),
        base=_shown(base),
        revision=revision,
        base_is_local=_is_local(run, base),
        benchmarks=[
            {"name": b.name, "facts": facts(replace(b, path=_shown(b.path))), "table": markdown(b)}
            for b in benchmarks
        ],
        training=list(_training(run, training)),
        recipe=_yaml(_public({"judges": {judge: recipe["judges"][judge]}, **parts})).rstrip("\n"),
        usage=_usage(_shown(base), revision),
        limits=list(_limits(run, benchmarks, judge)),
    )


def _of(benchmark: BenchmarkRun, judge: str) -> BenchmarkRun:
    """Return the benchmark with this judge and what it is compared with."""
    models = tuple(model for model in benchmark.models if model.name in (BASE, judge, SCALAR))
    return replace(benchmark, models=models)


def _judged(benchmarks: list[BenchmarkRun], judge: str) -> Iterator[tuple[BenchmarkRun, ModelRun]]:
    for benchmark in benchmarks:
        for model in benchmark.models:
            if model.name == judge:
                yield benchmark, model


def _front(run: RunFiles, judge: str) -> dict[str, Any]:
    """Return the card's metadata: huggingface.co/docs/hub/model-cards, and the model-index of Papers with Code."""
    recipe = run.manifest.recipe
    results = [
        {
            "task": {"type": "text-generation", "name": "Pairwise preference judging"},
            "dataset": {"name": benchmark.name + (", partial" if model.score.partial else ""), "type": _dataset(run, benchmark)},
            "metrics": list(_metrics(benchmark, model)),
        }
        for benchmark, model in _judged(list(run.benchmarks), judge)
    ]  # fmt: skip
    template = recipe["judges"][judge].get("template", "reason")
    front: dict[str, Any] = {
        "base_model": _shown(recipe["model"]["path"]),
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["reasongenrm", "reward-model", "llm-as-a-judge", "lora", f"judge-template-{template}"],
    }
    if results:
        front["model-index"] = [{"name": f"{run.name}-{judge}", "results": results}]
    return front


def _metrics(benchmark: BenchmarkRun, model: ModelRun) -> Iterator[dict[str, Any]]:
    score = model.score
    shares = {"score": score.score, **{name: score.sections.get(name) for name in ordered(benchmark)[0]}}
    shares |= {"strict": score.strict, "consistency": model.diagnostics.consistency}
    for name, share in shares.items():
        if share is not None:
            yield {"type": "accuracy", "name": f"{name} (%)", "value": round(100 * share, 2)}


def _dataset(run: RunFiles, benchmark: BenchmarkRun) -> str:
    """Return a hub id; of a local file the kind of benchmark, since its path says nothing elsewhere."""
    return benchmark.kind if _is_local(run, benchmark.path) else benchmark.path


def _training(run: RunFiles, training: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    recipe, manifest = run.manifest.recipe, run.manifest
    sources = [_shown(str(source.get("path"))) for source in recipe.get("data", {}).get("sources", ())]
    if sources:
        yield "Preference pairs", ", ".join(sources)
    counted = (
        ("records", "Training records"),
        ("tokens_seen", "Training tokens"),
        ("steps", "Optimiser steps"),
    )
    for key, label in counted:
        if key in training:
            yield label, f"{training[key]:,}"
    if isinstance(training.get("final_loss"), float):
        yield "Final loss", f"{training['final_loss']:.4g} nats per token"
    yield "Packages", ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))
    yield "Code", f"git {manifest.git}, Python {manifest.python}"


def _limits(run: RunFiles, benchmarks: list[BenchmarkRun], judge: str) -> Iterator[str]:
    """Yield what the numbers say against the judge."""
    for benchmark, model in _judged(benchmarks, judge):
        found = model.diagnostics
        if found.consistency is not None:
            yield (
                f"{benchmark.name}: it names the same answer in both orders in {percent(found.consistency)}% of the "
                f"comparisons, and answer A in {percent(found.position_bias)}% of its verdicts."
            )
        if found.length_bias is not None:
            verb = "more" if found.length_bias > 0 else "less"
            yield (
                f"{benchmark.name}: it takes the longer answer {percent(abs(found.length_bias))} points {verb} often "
                "than the longer one is right."
            )
        if model.score.toy:
            yield f"{benchmark.name} is a toy benchmark: its numbers compare with nothing published."
        elif model.score.partial:
            yield f"{benchmark.name} was judged in part: its score does not compare with published ones."
    if run.manifest.recipe.get("limit") is not None:
        yield "The run was limited to the first rows of its data and benchmarks."


def _usage(base: str, revision: str | None) -> str:
    model = repr({"path": base, "revision": revision}) if revision else repr(base)
    return f"""from reasongenrm.judge.api import Judge

with Judge.from_pretrained({model}, adapter="adapter") as judge:
    said = judge.compare("What is 2 + 2?", "4", "5")
    print(said.winner, said.prob_a, said.reason)"""


def _is_local(run: RunFiles, path: str) -> bool:
    """Whether a path was a file or folder of the machine: the manifest has its hash, or it looks like nothing else."""
    known = run.manifest.settings.get("files", {}).get(path)
    if known is not None:
        return bool(known != "absent")
    return re.fullmatch(r"[\w.-]+/[\w.-]+", path) is None


def _shown(path: str) -> str:
    """Return a path without the folders of the machine it lay on."""
    return PurePath(path).name if PurePath(path).is_absolute() else path


def _public(value: Any) -> Any:
    """Return a part of the recipe without what is of this machine or of its network."""
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items() if key not in _OWN}
    if isinstance(value, list):
        return [_public(item) for item in value]
    return _shown(value) if isinstance(value, str) else value


def _one_line(value: Any) -> Any:
    """Return metadata in which no text has a line of its own, such as one that ends the metadata."""
    if isinstance(value, dict):
        return {key: _one_line(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_one_line(item) for item in value]
    return " ".join(value.split()) if isinstance(value, str) else value


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=_LINE)


def _fenced(text: str, language: str) -> str:
    """Return text as a code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
