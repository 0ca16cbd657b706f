"""Every key of a recipe changes the settings of a step, or is in the table of keys that change no result."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from reasongenrm.config.recipe import Recipe
from reasongenrm.stages.fingerprints import (
    NEUTRAL,
    TRAINED_BY,
    evaluate_steps,
    is_neutral,
    prepare_steps,
    train_steps,
)
from reasongenrm.steps import Step, changed_keys, with_later

pytestmark = pytest.mark.unit

SERVER = {"kind": "openai", "urls": ["http://127.0.0.1:1/v1"], "model": "teacher", "api_key_env": "KEY"}
ANTHROPIC = {"kind": "anthropic", "model": "claude", "url": "http://127.0.0.1:1"}
MODEL = {"path": "data/other", "revision": "main"}
FULL: dict[str, Any] = {
    "name": "all-keys",
    "seed": 17,
    "limit": 5,
    "model": {"path": "data/toy-base", "revision": "main", "dtype": "float32"},
    "engine": {"args": {"quantization": "fp8", "block_size": 16}, "max_num_seqs": 8},
    "prompts": "configs/prompts/toy.yaml",
    "data": {
        "sources": [{"path": "train.jsonl", "revision": "main"}],
        "decontaminate": {"against": [{"path": "other.jsonl", "revision": "main"}]},
    },
    "teachers": {
        "student": {"max_tokens": 64},
        "blind": {"mode": "blind", "max_tokens": 64},
        "other": {"model": MODEL, "max_tokens": 64},
        "fleet": {"server": SERVER, "model": MODEL},
        "claude": {"server": ANTHROPIC},
    },
    "select": {"batch_tokens": 64},
    "records": {"dpo": {}, "grpo": {}, "general": [{"path": "general.jsonl", "weight": 0.1, "revision": "main"}]},
    "judges": {
        "reasongenrm": {"general": True, "args": {"learning_rate": 0.1, "save_steps": 4}},
        "thinker": {"template": "think", "steps": ["sft", "dpo"]},
        "genrm": {"template": "direct"},
        "lists": {"template": "listwise"},
        "reasoned": {"template": "listwise-reason"},
        "rater": {"template": "pointwise"},
    },
    "train": {
        "launch": "configs/accelerate/cpu-2proc.yaml",
        "launch_args": "--num_processes 1",
        "tokens": 500,
        "lora": {"r": 8},
        "steps": ["sft", "round", "dpo", "grpo"],
        "margin": {},
        "dpo": {"refresh": 2, "args": {"beta": 0.2, "save_steps": 4}},
        "grpo": {
            "rewards": {"consistency": 1.0}, "baseline": "pair",
            "args": {"beta": 0.1, "save_steps": 4, "scale_rewards": "none"},
        },
        "round": {"tokens": 500, "args": {"learning_rate": 0.1, "save_steps": 4}},
        "args": {"weight_decay": 0.1, "logging_steps": 2, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    },
    "scalar": {
        "revision": "main", "validation": 0.1, "patience": 3, "lora": {"r": 8}, "args": {"max_steps": 4},
    },
    "meta": {
        "revision": "main", "validation": 0.1, "patience": 3, "lora": {"r": 8}, "args": {"max_steps": 4},
    },
    "evaluate": {
        "benchmarks": {
            "toy": {"path": "toy.jsonl", "split": "test", "revision": "main", "limit": 9},
            "prior": {"prior_sets": True, "prior_path": "prior.jsonl", "max_messages": 4},
            "styles": {"kind": "rmbench", "safety": "halves"},
        },
        "temperature": 0.5,
        "others": {
            "served": {"server": SERVER, "model": MODEL},
            "claude": {"server": ANTHROPIC},
        },
    },
}  # fmt: skip
BENCHMARKS = tuple(FULL["evaluate"]["benchmarks"])
OTHER: dict[str, Any] = {
    "engine.workers": 2,
    "train.grpo.refresh": 2,
    **{
        f"{place}.claude.server.{key}": value
        for place in ("teachers", "evaluate.others")
        for key, value in (("mode", "direct"), ("effort", "low"))
    },
    "judges.thinker.template": "reason",
    "judges.genrm.template": "reason",
    "data.decontaminate.ngrams": [8, 13, 20],
    "data.decontaminate.drop_prompt": 8,
    "data.decontaminate.drop_answer": 8,
    "evaluate.benchmarks.toy.kind": "pairs",
    "evaluate.benchmarks.prior.kind": None,  # only rewardbench has prior sets
    "evaluate.benchmarks.prior.prior_sets": None,
    "evaluate.benchmarks.prior.safety": None,  # only rmbench has it
    "evaluate.benchmarks.toy.safety": None,
    "evaluate.benchmarks.styles.kind": None,
    "evaluate.benchmarks.styles.prior_sets": None,
    "evaluate.benchmarks.styles.max_messages": None,
    "evaluate.benchmarks.styles.safety": "pooled",
    "evaluate.benchmarks.toy.max_messages": 4,
    "train.report_to": "tensorboard",
    "scalar.validation": 0.2,
    "meta.validation": 0.2,
    "train.packing": False,
    "train.steps": ["sft", "dpo", "round", "grpo"],
    "judges.thinker.steps": ["sft", "round"],
    "judges.reasongenrm.steps": ["sft"],
    **dict.fromkeys(
        f"judges.{name}.steps" for name in ("genrm", "lists", "reasoned", "rater")
    ),  # these have SFT alone
    "train.grpo.both_orders": None,  # the consistency reward needs it
    "train.grpo.batch": 16,
    "train.parameters": None,  # with train.lora there is none; see test_training_all_weights_is_another_step
    "records.general": [{"path": "general.jsonl", "weight": 0.2, "revision": "main"}],
    "data.sources": [{"path": "train.jsonl", "revision": "next"}],
    "data.decontaminate.against": [{"path": "other.jsonl", "revision": "next"}],
    "evaluate.votes": 3,
    **dict.fromkeys(
        f"teachers.blind.{key}" for key in ("mode", "model", "server")
    ),  # records.grpo needs a blind student
}
"""Another valid value of keys for which `another` finds none; None: there is none."""


@pytest.fixture(scope="module", autouse=True)
def _nothing_to_hash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work in an empty folder, where no input file exists and every hash is `absent`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("empty"))
        yield


def leaves(value: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from leaves(item, (*key, name))
    else:
        yield key


@cache
def full() -> Recipe:
    """The recipe with every key; its settings are not changed."""
    return Recipe.model_validate(FULL)


def with_values(changes: Mapping[tuple[str, ...], Any]) -> Recipe:
    values = full().model_dump(mode="json")
    for key, value in changes.items():
        node = values
        for part in key[:-1]:
            node = node[part]
        node[key[-1]] = value
    return Recipe.model_validate(values)


def all_steps(recipe: Recipe) -> dict[str, Step]:
    return prepare_steps(recipe) | train_steps(recipe) | evaluate_steps(recipe)


@cache
def steps_of_full() -> dict[str, Step]:
    return all_steps(full())


def changed(before: Recipe, after: Recipe) -> set[str]:
    """Names of the steps with other settings, or that only one of the recipes has."""
    old, new = steps_of_full() if before is full() else all_steps(before), all_steps(after)
    differing = {n for n in old.keys() & new.keys() if changed_keys(old[n].settings, new[n].settings)}
    return differing | (old.keys() ^ new.keys())


LEAVES = list(leaves(Recipe.model_validate(FULL).model_dump(mode="json")))
LITERALS = {
    "dtype": "float16", "mode": "ratings", "kind": "ranked", "selector": "longest_correct", "scorer": "vllm",
    "verdict_tokens": "letter", "chosen": "right_disfluent", "rejected": "wrong_disfluent", "api": "chat",
    "attention": "eager", "quantization": "nf4", "combine": "majority", "template": "think", "reference": "base",
    "rollouts": "vllm", "baseline": "prompt",
}  # fmt: skip


def others(value: Any, key: Sequence[str]) -> list[Any]:
    """Other values of a key, some of which may not be valid."""
    if (dotted := ".".join(key)) in OTHER:
        return [] if OTHER[dotted] is None else [OTHER[dotted]]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value / 2, value + 0.01]
    if isinstance(value, list):
        return [[*value, "x"], value[1:]]
    if value is None:
        return [1, "x", MODEL, SERVER]
    if not value:  # an empty mapping
        return [{"x": 1}]
    mode = {"blind": "hindsight", "hindsight": "blind"}.get(value)
    return [one for one in (mode, LITERALS.get(key[-1]), f"{value}x") if one is not None]


def other_recipe(key: tuple[str, ...]) -> Recipe | None:
    value: Any = full().model_dump(mode="json")
    for part in key:
        value = value[part]
    for other in others(copy.deepcopy(value), key):
        if other == value:
            continue
        try:
            return with_values({key: other})
        except ValidationError:
            continue
    return None


@pytest.mark.parametrize("key", LEAVES, ids=".".join)
def test_every_key_is_in_a_fingerprint_or_in_the_table(key: tuple[str, ...]) -> None:
    dotted = ".".join(key)
    if dotted.startswith("evaluate.base"):
        return  # see `test_a_judge_more_or_less_changes_no_other_step`
    recipe = other_recipe(key)
    if recipe is None:
        assert key[-1] == "kind" or OTHER.get(dotted, "") is None, (
            f"{dotted}: no other valid value; add one to OTHER"
        )
        return
    steps = changed(full(), recipe)
    own = dotted.startswith("evaluate.benchmarks") and key[-1] == "path"
    assert bool(steps) != is_neutral(dotted), (dotted, steps)
    assert not own or {step.split(".")[1] for step in steps} == {key[2]}


def models(kind: Any) -> Iterator[type[BaseModel]]:
    """The settings' classes inside a type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from models(part)


def fields(kind: type[BaseModel], key: str = "") -> Iterator[str]:
    """The dotted keys of a model, with `*` for the names of a mapping's items."""
    for name, field in kind.model_fields.items():
        inner = list(models(field.annotation))
        if getattr(field.annotation, "__origin__", None) is list:
            inner = []  # compared as a whole
        mapping = "*." if str(field.annotation).startswith("dict") else ""
        yield from [f"{key}{name}"] if not inner else ()
        for one in inner:
            yield from fields(one, f"{key}{name}.{mapping}")


def test_the_recipe_of_these_tests_has_every_key() -> None:
    values = [".".join(key) for key in LEAVES]
    generic = {
        ".".join(part if part in known else "*" for part in value.split("."))
        for value in values
        for known in [KNOWN]
    }
    assert (
        sorted(
            key
            for key in fields(Recipe)
            if key not in generic and not any(g.startswith(key + ".") for g in generic)
        )
        == []
    )


KNOWN = {part for key in fields(Recipe) for part in key.split(".")} - {"*"}


def test_the_table_names_no_key_that_does_not_exist() -> None:
    dynamic = ("engine.args.", *(f"{place}.args." for place in TRAINED_BY))
    known = set(fields(Recipe))
    assert [key for key in NEUTRAL if not key.startswith(dynamic) and key not in known] == []


def test_the_page_lists_the_keys_of_the_table() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "runs.md").read_text(encoding="utf-8")
    assert [
        key for key in NEUTRAL if f"`{key}`" not in page and f"`{key.rpartition('.')[2]}`" not in page
    ] == []


@pytest.mark.slow  # it imports vLLM
def test_the_pass_through_keys_of_the_table_are_keys_of_the_libraries() -> None:
    from dataclasses import fields as names_of

    from trl import SFTConfig
    from vllm import EngineArgs

    engine = {field.name for field in names_of(EngineArgs)}
    trainer = {field.name for field in names_of(SFTConfig)}
    for key in NEUTRAL:
        place, _, name = key.rpartition(".args.")
        if place:
            assert name in (engine if place == "engine" else trainer), key


@pytest.mark.parametrize(
    ("key", "value", "steps"),
    [
        ("data.both_orders", True, {"pairs", "lists"}),
        ("teachers.blind.samples", 9, {"reasons.blind"}),
        ("select.threshold", 0.9, {"records"}),
        ("select.verdict_tokens", "letter", {"scores", "lists"}),
        ("train.batch", 64, {f"judges.{name}" for name in (*FULL["judges"], "reasongenrm@round")}),
        (
            "train.round.temperature",
            0.5,
            {"votes.reasongenrm@round", "votes.reasongenrm@dpo", "votes.thinker@dpo"},
        ),
        ("train.round.samples", 9, {"votes.reasongenrm@round"}),
        ("train.round.fill", True, {"judges.reasongenrm@round"}),
        (
            "train.round.rationale",
            0.5,
            {"judges.reasongenrm@round", "judges.reasongenrm@dpo", "judges.thinker@dpo"},
        ),
        ("train.grpo.batch", 16, {"judges.reasongenrm@grpo"}),
        ("judges.genrm.args", {"weight_decay": 0.2}, {"judges.genrm"}),
        ("scalar.margin", 1.0, {"scalar"}),
    ],
)
def test_a_key_belongs_to_the_steps_whose_results_it_changes(key: str, value: Any, steps: set[str]) -> None:
    assert changed(full(), with_values({tuple(key.split(".")): value})) == steps


@pytest.mark.parametrize(
    ("key", "value", "kinds"),
    [
        ("engine.max_model_len", 2048, ("grpo",)),
        ("engine.args", {"dtype": "float32"}, ()),
        ("data.max_tokens", 4000, ("round", "dpo")),
        ("prompts", "other.yaml", ("round", "dpo", "grpo")),
    ],
)
def test_what_a_training_step_samples_and_renders_with_belongs_to_it_or_to_its_votes(
    key: str, value: Any, kinds: tuple[str, ...]
) -> None:
    trained = full().trained
    steps = changed(full(), with_values({tuple(key.split(".")): value}))
    votes = {name for name in all_steps(full()) if name.startswith("votes.")}
    assert votes == {"votes.reasongenrm@round", "votes.reasongenrm@dpo", "votes.thinker@dpo"}
    assert votes & steps == (set() if key == "data.max_tokens" else votes)
    assert {name for name in trained if f"judges.{name}" in steps} == {
        name for name, step in trained.items() if step.kind in kinds
    }


def test_votes_are_kept_where_only_their_use_changes() -> None:
    """A reward, or the choice among votes, asks nothing again; another temperature does, and then the judge is trained again, too."""
    before = with_values({("train", "grpo", "refresh"): 4})
    old = all_steps(before)
    for key, value, redone in (
        ("train.grpo.rewards.length", 0.1, {"judges.reasongenrm@grpo"}),
        ("records.grpo", None, set()),
        ("train.grpo.refresh", 8, {"votes.reasongenrm@grpo"}),
        ("train.grpo.temperature", 0.5, {"votes.reasongenrm@grpo", "judges.reasongenrm@grpo"}),
    ):
        new = all_steps(with_values({("train", "grpo", "refresh"): 4, tuple(key.split(".")): value}))
        assert {n for n in old if n.split(".")[0] in ("votes", "judges") and changed_keys(old[n].settings, new[n].settings)} == redone  # fmt: skip
    assert "judges.reasongenrm@grpo" in with_later({"votes.reasongenrm@grpo"}, old)


def test_judging_changes_all_steps_of_judges_but_no_scores_of_the_scalar_head() -> None:
    steps = changed(full(), with_values({("evaluate", "max_tokens"): 99}))
    models = ("base", "base-direct", *full().trained, "served", "claude")
    assert steps == {f"evaluate.{name}.{model}" for name in BENCHMARKS for model in models}


def test_a_teacher_a_benchmark_or_a_judge_more_or_less_changes_no_other_step() -> None:
    values = full().model_dump(mode="json")
    teachers = values["teachers"] | {"new": {"mode": "hindsight"}}
    assert changed(full(), with_values({("teachers",): teachers})) == {"reasons.new", "records"}
    benchmarks = values["evaluate"]["benchmarks"] | {"new": {"path": "new.jsonl"}}
    steps = changed(full(), with_values({("evaluate", "benchmarks"): benchmarks}))
    assert steps and all(step.startswith("evaluate.new.") for step in steps)
    steps = changed(
        full(),
        with_values({("judges",): values["judges"] | {"new": {"template": "think", "steps": ["sft"]}}}),
    )
    assert steps == {"judges.new", *(f"evaluate.{name}.new" for name in BENCHMARKS)}
    assert changed(full(), with_values({("evaluate", "base"): False})) == {
        f"evaluate.{name}.{base}" for name in BENCHMARKS for base in ("base", "base-direct")
    }


def test_no_file_belongs_to_two_steps() -> None:
    """A redo of one step moves nothing of another, such as the batches that are under way for another benchmark."""
    for stage in (prepare_steps, train_steps, evaluate_steps):
        outputs = [path for step in stage(full()).values() for path in step.outputs]
        for path in outputs:
            same = [p for p in outputs if p == path or p.startswith(f"{path}/") or fnmatchcase(p, path)]
            assert same == [path]


def test_files_are_part_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def changed_by(path: Path) -> set[str]:
        before = all_steps(full())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("new")
        after = all_steps(full())
        return {name for name in before if changed_keys(before[name].settings, after[name].settings)}

    run = full().folder
    assert changed_by(Path("train.jsonl")) == {"pairs"}
    assert changed_by(Path("general.jsonl")) == {"records"}
    assert changed_by(run / "sft.jsonl") == {"judges.reasongenrm", "judges.thinker"}
    assert changed_by(run / "pairs.jsonl") == {"scalar", "judges.reasongenrm@grpo"}
    adapter = run / "judges" / "genrm" / "adapter" / "adapter_model.safetensors"
    assert changed_by(adapter) == {f"evaluate.{name}.genrm" for name in BENCHMARKS}
    assert all(step.startswith("evaluate.toy.") for step in changed_by(Path("toy.jsonl")))


def test_training_all_weights_is_another_step() -> None:
    adapters = with_values({("train", "lora"): {}})
    whole = with_values({("train", "lora"): {}, ("train", "parameters"): "all"})
    names = [f"judges.{name}" for name in full().trained]
    judged = [f"evaluate.{benchmark}.{name}" for benchmark in BENCHMARKS for name in full().trained]
    assert changed(adapters, whole) == {*names, *judged}
    settings = [step.settings for step in train_steps(adapters).values()]
    assert not any("train.parameters" in one for one in settings), "a run of adapters is as before"
