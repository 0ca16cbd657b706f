"""Steps of the three stages: the settings and input files that change each result, and those that change none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from reasongenrm.chat.own_template import base_template
from reasongenrm.config.evaluate import BenchmarkConfig, EvaluateConfig
from reasongenrm.config.models import ModelsRecipe
from reasongenrm.config.prepare import GRPOConfig
from reasongenrm.config.recipe import (
    POINTWISE,
    REASONED,
    TEMPLATES,
    Recipe,
    Template,
    TrainStep,
    list_templates,
)
from reasongenrm.config.steps import CADENCE_ARGS, MEMORY_ARGS
from reasongenrm.redaction import MASK
from reasongenrm.run import file_hash
from reasongenrm.steps import FILE, Settings, Step
from reasongenrm.train.tokens import SAMPLING_KEYS, input_files, is_on_policy

MEMORY = "memory and speed"
PLACE = "where the work is done"
CADENCE = "how often something is written"
TRAINED_BY = ("train", "judges.*", "train.dpo", "train.grpo", "train.round")
"""Keys of a recipe with arguments of a judge's trainer."""
NEUTRAL: dict[str, str] = {
    "name": "names the folder",
    "model.trust_remote_code": "a permission",
    "engine.max_num_seqs": MEMORY,
    "engine.gpu_memory_utilization": MEMORY,
    "engine.cpu_kv_gib": MEMORY,
    "engine.tensor_parallel": PLACE,
    "engine.workers": PLACE,
    "engine.ray": PLACE,
    "engine.enforce_eager": MEMORY,
    **dict.fromkeys(
        (f"engine.args.{name}" for name in (
            "block_size", "cpu_offload_gb", "disable_custom_all_reduce", "disable_log_stats", "distributed_executor_backend",
            "download_dir", "enable_chunked_prefill", "kv_cache_memory_bytes", "max_num_batched_tokens",
            "num_gpu_blocks_override", "pipeline_parallel_size",
        )),
        MEMORY,
    ),
    "teachers.*.model.trust_remote_code": "a permission",
    "evaluate.others.*.model.trust_remote_code": "a permission",
    **dict.fromkeys(
        (f"{place}.server.{name}" for place in ("teachers.*", "evaluate.others.*") for name in (
            "urls", "url", "api_key_env", "max_concurrent", "timeout", "max_retries", "batch", "poll_seconds",
            "mode",
        )),
        PLACE,
    ),
    "select.scorer": MEMORY,
    "select.batch_tokens": MEMORY,
    "train.launch": PLACE,
    "train.launch_args": PLACE,
    "train.packing": "the records of a step and the loss stay the same",
    "train.attention": MEMORY,
    "train.merge": "adds a folder beside the adapter",
    "train.report_to": "where curves are shown",
    **dict.fromkeys(
        (f"{place}.args.{name}" for place in TRAINED_BY for name in MEMORY_ARGS),
        MEMORY + "; `train.batch` has the records of a step",
    ),
    **dict.fromkeys(
        (f"{place}.args.{name}" for place in TRAINED_BY for name in CADENCE_ARGS),
        CADENCE,
    ),
    "evaluate.base": "adds or leaves out a judge",
    "evaluate.combine": "completions are read again at every start",
    "evaluate.meta": "completions are read again at every start",
    "evaluate.benchmarks.*.safety": "scores are computed again at every start",
    "evaluate.margin": "completions are read again at every start",
}  # fmt: skip
"""Keys of a recipe, `*` for any name, that may change between two starts of a run -> why they change no result.

So may keys and passwords, which are nowhere recorded (`config.arguments`). Results are the same up to rounding: on a GPU, batch shapes and kernels change the last digits (see `engine.batch_invariant`).
Any other key of `engine.args` or `train.args` counts as one that changes the result, as do all keys
of the scalar head, which trains in minutes.
"""

CHOICE_KEYS = ("selector", "formula", "rationale", "threshold", "giveaway_words", "min_kept")
"""Keys of `select` that only choose among scored reasons."""

RECORDS = (
    "sft", "genrm", "dpo", "grpo", "listwise", "listwise-reason", "pointwise", "general", "general_dropped",
    "reasons_dropped",
)  # fmt: skip


def settings(values: Mapping[str, Any], files: Iterable[Any] = ()) -> Settings:
    """Return nested values of a recipe by dotted key, without those that change no result, and the paths of files."""
    kept = {key: value for key, value in _leaves("", values) if value not in (None, [], MASK)}
    return {key: value for key, value in kept.items() if not is_neutral(key)} | {
        f"{FILE}{p}": p for p in files
    }


@cache
def is_neutral(key: str) -> bool:
    """Whether a dotted key of a recipe changes no result."""
    return any(fnmatchcase(key, pattern) or fnmatchcase(key, f"{pattern}.*") for pattern in NEUTRAL)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield key, value
    else:
        for name, item in value.items():
            yield from _leaves(f"{key}.{name}" if key else str(name), item)


def hashed(steps: Mapping[str, Step], folder: Path) -> dict[str, Step]:
    """Return steps whose settings have the hashes of their files, each computed once; the paths of the run's own files are
    inside `folder`, so that a run may be renamed."""
    file_hash_once = cache(file_hash)

    def with_hashes(settings: Settings) -> Iterator[tuple[str, Any]]:
        for key, value in settings.items():
            if key.startswith(FILE):
                yield key.replace(f"{FILE}{folder}/", FILE), file_hash_once(value)
            else:
                yield key, value

    return {name: replace(step, settings=dict(with_hashes(step.settings))) for name, step in steps.items()}


def _template(recipe: Recipe, name: str) -> str:
    return recipe.templates[name]  # type: ignore[index]


def prepare_steps(recipe: Recipe) -> dict[str, Step]:
    """Return the steps of stage 1.

    The benchmarks of `evaluate` are not settings of the pairs: those that are new are compared with the pairs of a run
    (`stages/pairs.py`). Nor are teachers and judges, although pairs too long for them are dropped when pairs are written:
    for one that is added later, a prompt that is too long has an error in place of a reason, and a record that is too long
    under its template is an error of stage 2.
    """
    values = recipe.model_dump(mode="json")
    common = {"seed": recipe.seed}
    model = {key: values["model"][key] for key in ("path", "revision")}
    inputs = [recipe.prompts, recipe.model.path, *(source.path for source in recipe.data.sources)]
    if recipe.data.decontaminate:
        inputs += [file.path for file in recipe.data.decontaminate.against]
    pairs = settings(common | {"limit": recipe.limit, "model": model, "data": values["data"]}, inputs)
    names = ("pairs", "prompts", "dropped", "contamination")
    steps = {"pairs": Step(pairs, (*(f"{name}.jsonl" for name in names), "pairs_report.json"))}
    choices = {key: values["select"].pop(key) for key in CHOICE_KEYS if key in values["select"]}
    if not choices.get("rationale"):  # the default is in no fingerprint, so that older runs keep theirs
        choices.pop("rationale", None)
    if recipe.needs_reasons():
        steps |= {f"reasons.{name}": _reasons_step(recipe, values, name) for name in recipe.teachers}
        template = _template(recipe, recipe.student_template)
        scores = {"model": values["model"], "select": values["select"]}
        scores |= {"templates": {recipe.student_template: template}}
        steps["scores"] = Step(
            settings(scores, [recipe.prompts, recipe.model.path, template]),
            ("scored*.jsonl",),
            after=tuple(name for name in steps if name != "pairs"),
        )
    lists = {name: _template(recipe, name) for name in list_templates(recipe)}
    if REASONED in lists:
        own = {
            "model": values["model"],
            "select": values["select"],
            "templates": {REASONED: lists[REASONED]},
            "data": {key: values["data"][key] for key in ("max_tokens", "both_orders")},
            "engine": {"max_model_len": values["engine"]["max_model_len"]},
        }
        files = ("lists", "prompts", "reasons/*", "scored*")
        steps["lists"] = Step(
            settings(common | own, [recipe.prompts, recipe.model.path, lists[REASONED]]),
            tuple(f"lists/{name}.jsonl" for name in files),
            after=tuple(steps),
        )
    judges = sorted({judge.template for judge in recipe.judges.values()})
    records = common | {
        "select": choices,
        "records": {
            key: value for key, value in values["records"].items() if key != "ratings" or POINTWISE in judges
        },
        "data": {"max_tokens": recipe.data.max_tokens},
        "teachers": sorted(recipe.teachers),
        "judges": judges,
        "templates": lists,
    }
    files_read = [recipe.prompts, *(general.path for general in recipe.records.general), *lists.values()]
    steps["records"] = Step(
        settings(records, files_read),
        (*(f"{name}.jsonl" for name in RECORDS), "data_report.*"),
        after=tuple(steps),
        marker="data_report.json",
    )
    return hashed(steps, recipe.folder)


def _reasons_step(recipe: Recipe, values: Mapping[str, Any], name: str) -> Step:
    teacher = recipe.teachers[name]
    own = {"seed": recipe.seed, "teachers": {name: values["teachers"][name]}}
    files = [recipe.prompts]
    if teacher.model is not None:
        files.append(teacher.model.path)
    elif (
        teacher.server is None or getattr(teacher.server, "api", "") == "completions"
    ):  # which takes token ids
        own["model"] = values["model"]
        files.append(recipe.model.path)
    if teacher.server is None:
        own["engine"] = values["engine"]
    outputs = (f"reasons/{name}.jsonl", f"reasons/{name}.part.jsonl", f"reasons/{name}.batches.jsonl")
    return Step(settings(own, files), outputs, after=("pairs",))


def blind_reasons(recipe: Recipe) -> list[Path]:
    """Return the files of reasons by blind teachers, which judge."""
    blind = [name for name, teacher in recipe.teachers.items() if teacher.mode == "blind"]
    return [recipe.folder / "reasons" / f"{name}.jsonl" for name in blind]


def train_steps(recipe: Recipe) -> dict[str, Step]:
    """Return the steps of stage 2."""
    values = recipe.model_dump(mode="json")
    steps = {}
    for step in recipe.trained.values():
        if is_on_policy(recipe, step):
            steps[f"votes.{step.model}"] = _votes_step(recipe, values, step)
        steps[f"judges.{step.model}"] = _judge_step(recipe, values, step)
    if recipe.scalar is not None:
        own = {"seed": recipe.seed, "scalar": values["scalar"]}
        files = [recipe.scalar.model, recipe.folder / "pairs.jsonl"]
        steps["scalar"] = Step(settings(own, files), ("scalar", "scalar.partial"))
    if recipe.meta is not None:
        own = {"seed": recipe.seed, "meta": values["meta"]}
        files = [recipe.meta.model, recipe.prompts, recipe.folder / "prompts.jsonl", *blind_reasons(recipe)]
        steps["meta"] = Step(settings(own, files), ("meta", "meta.partial"))
    return hashed(steps, recipe.folder)


def _votes_step(recipe: Recipe, values: Mapping[str, Any], step: TrainStep) -> Step:
    """Return the sampling of a training step from the judge that it starts from."""
    template, train = recipe.judges[step.judge].template, values["train"]
    keys = SAMPLING_KEYS[step.kind].items()
    own = {
        "seed": recipe.seed, "model": values["model"], "engine": values["engine"],
        "judges": {step.judge: {"template": template}},
        "train": {section: {key: train[section][key] for key in names} for section, names in keys}
        | {"steps": recipe.chain(step)[:-1]},
    }  # fmt: skip
    files = [recipe.model.path, _template(recipe, template), recipe.prompts, recipe.folder / "prompts.jsonl"]
    return Step(settings(own, files), (f"votes/{step.model}",), after=(f"judges.{step.previous}",))


def _judge_step(recipe: Recipe, values: Mapping[str, Any], step: TrainStep) -> Step:
    judge = recipe.judges[step.judge]
    own = {
        "seed": recipe.seed,
        "model": values["model"],
        "judges": {step.judge: values["judges"][step.judge] | {"steps": None}},
    }
    steps = {key: values["train"][key] for key in ("dpo", "grpo", "round")}
    train = {key: value for key, value in values["train"].items() if key not in (*steps, "steps")}
    # The memory and cadence keys of `train.args` hold for all steps, and change no result.
    train["args"] = {key: value for key, value in train["args"].items() if key not in judge.args}
    if step.kind in ("dpo", "grpo"):
        train = {key: train[key] for key in ("lora", "quantization", "parameters")}
        own["judges"] = {step.judge: {"template": judge.template}}
    if train["parameters"] == "lora":  # the default is in no fingerprint, so that older runs keep theirs
        del train["parameters"]
    if step.previous is not None:
        # What it samples with before its training belongs to its votes; GRPO samples in its training, too.
        names = ("refresh",) if step.kind == "grpo" else SAMPLING_KEYS[step.kind][step.kind]
        steps[step.kind] = {key: value for key, value in steps[step.kind].items() if key not in names}
        train |= {step.kind: steps[step.kind], "steps": recipe.chain(step)}
    if step.kind == "dpo" and recipe.train.dpo.refresh:
        train["round"] = {"rationale": recipe.train.round.rationale}
    own["train"] = train
    files = [recipe.model.path, _template(recipe, judge.template), *input_files(recipe, step)]
    if step.kind == "grpo":
        own["engine"] = {"max_model_len": values["engine"]["max_model_len"]}
        if is_on_policy(recipe, step):
            bounds = recipe.records.grpo or GRPOConfig()
            own["records"] = {"grpo": bounds.model_dump(mode="json")}
    elif is_on_policy(recipe, step):  # it drops records that are too long
        own["data"] = {"max_tokens": values["data"]["max_tokens"]}
    if is_on_policy(recipe, step) or step.kind == "grpo":  # verdicts and prompts in the recipe's wording
        files.append(recipe.prompts)
    outputs = (f"judges/{step.model}", f"judges/{step.model}.partial", f"rounds/{step.model}")
    after: tuple[str, ...] = (f"judges.{step.previous}",) if step.previous else ()
    if is_on_policy(recipe, step):
        after += (f"votes.{step.model}",)
    return Step(settings(own, files), outputs, after=after)


def evaluate_steps(recipe: Recipe) -> dict[str, Step]:
    """Return the steps of stage 3: one per benchmark and model."""
    values = recipe.model_dump(mode="json")
    return _judging_steps(recipe, values, dict(_models(recipe, values)))


def models_steps(recipe: ModelsRecipe, head: Path | None) -> dict[str, Step]:
    """Return the steps of `evaluate --model`: one per benchmark and model; `head` is the folder of the scalar head."""
    values = recipe.model_dump(mode="json")
    served = settings({"model": values["model"], "engine": values["engine"]})
    models: dict[str, tuple[Settings, list[Any]]] = {}
    if recipe.model is not None:
        files = [recipe.prompts, recipe.model.path]
        models |= dict.fromkeys(recipe.base_names or (), (served, files))
        if recipe.adapter is not None and recipe.adapter_name is not None:
            models[recipe.adapter_name] = (served, [*files, recipe.adapter])
    models |= _others(recipe.evaluate, TEMPLATES, recipe.prompts, values)
    if head is not None:
        models["scalar"] = ({}, [head])
    return _judging_steps(recipe, values, models)


def _judging_steps(
    recipe: Recipe | ModelsRecipe, values: Mapping[str, Any], models: Mapping[str, tuple[Settings, list[Any]]]
) -> dict[str, Step]:
    """Return one step per benchmark and model, from each model's own settings and files."""
    judging = {
        key: value for key, value in values["evaluate"].items() if key not in ("benchmarks", "others", "base")
    }
    steps = {}
    for name, benchmark in recipe.evaluate.benchmarks.items():
        rows = {
            "limit": recipe.limit,
            "evaluate": {"benchmarks": {name: values["evaluate"]["benchmarks"][name]}},
        }
        for model, (own, files) in models.items():
            asked = settings({"seed": recipe.seed, "evaluate": judging}) if model != "scalar" else {}
            steps[f"evaluate.{name}.{model}"] = Step(
                {**settings(rows, _benchmark_files(benchmark)), **asked, **own, **settings({}, files)},
                (f"evaluate/{name}/{model}",),
                marker=f"evaluate/{name}/scalar/scores*.jsonl" if model == "scalar" else "",
            )
    return hashed(steps, recipe.folder)


def _benchmark_files(benchmark: BenchmarkConfig) -> list[str]:
    return [benchmark.location, *filter(None, [benchmark.prior_path])]


def _models(recipe: Recipe, values: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Settings, list[Any]]]]:
    """Yield every model's name, settings and files."""
    served = {"model": values["model"], "engine": values["engine"]}
    if recipe.evaluate.base:
        for name, layout in (
            ("base", base_template(recipe, True)),
            ("base-direct", base_template(recipe, False)),
        ):
            # The judges' template is used where the base has none.
            yield name, (settings(served), [recipe.prompts, recipe.model.path, _template(recipe, layout)])
    for name, step in recipe.trained.items():
        judge = recipe.judges[step.judge]
        template = _template(recipe, judge.template)
        weights = [recipe.weights(name) / "adapter_model.safetensors"]
        if recipe.train.parameters == "all":
            # Of a large file only the size counts, and any training gives the same: its losses tell two apart.
            weights = [recipe.weights(name), recipe.folder / "judges" / name / "loss.json"]
        own = settings(served | {"judges": {step.judge: {"template": judge.template}}})
        yield name, (own, [recipe.prompts, recipe.model.path, template, *weights])
    yield from _others(recipe.evaluate, recipe.templates, recipe.prompts, values).items()
    if recipe.scalar is not None:
        yield "scalar", ({}, [recipe.folder / "scalar" / "model.safetensors"])


def _others(
    config: EvaluateConfig, templates: Mapping[Template, str], prompts: str, values: Mapping[str, Any]
) -> dict[str, tuple[Settings, list[Any]]]:
    """Return the settings and files of the judges on servers, by name."""
    models = {}
    for name, other in config.others.items():
        files = [prompts, *([other.model.path] if other.model else [])]
        if other.template != "own":
            files.append(templates[other.template])
        models[name] = (settings({"evaluate": {"others": {name: values["evaluate"]["others"][name]}}}), files)
    return models
