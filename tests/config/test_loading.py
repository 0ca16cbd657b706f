"""Recipes are strict: an error names file, dotted key and a hint, in one line."""

from __future__ import annotations

import copy
import errno
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.config.loading import load_config, load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.config.scalar import ScalarRecipe
from reasongenrm.errors import ConfigError
from reasongenrm.stages.distil import load_distil_recipe

pytestmark = pytest.mark.unit

SHIPPED = sorted(Path("configs").glob("*.yaml"))
MINIMAL: dict[str, Any] = {
    "name": "r",
    "model": {"path": "m"},
    "data": {"sources": [{"path": "a.jsonl"}, {"path": "b.csv", "kind": "ranked"}]},
    "teachers": {
        "t": {"model": {"path": "t"}},
        "fleet": {"server": {"kind": "openai", "urls": ["http://127.0.0.1:1/v1"], "model": "m"}},
        "claude": {"server": {"kind": "anthropic", "model": "m"}},
        "blind": {"mode": "blind"},
    },
    "records": {"dpo": {}, "grpo": {}, "general": [{"path": "g.jsonl", "weight": 0.1}]},
    "judges": {"mine": {"template": "reason"}, "path": {"template": "direct"}},
    "train": {"launch": "l.yaml"},
}


def write(folder: Path, tree: Any = MINIMAL) -> Path:
    path = folder / "r.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    return path


def changed(dotted: str, value: Any) -> dict[str, Any]:
    """Return the minimal recipe with one key set, sections made as needed."""
    tree = copy.deepcopy(MINIMAL)
    node: Any = tree
    *path, last = dotted.split(".")
    for part in path:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node[last] = value
    return tree


def refused(path: Path, *overrides: str, limit: int | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides, limit=limit)
    assert "\n" not in str(caught.value)
    return caught.value


def test_recipes_are_shipped() -> None:
    assert Path("configs/demo.yaml") in SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_recipe_loads_and_its_files_exist(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    for file in (recipe.prompts, recipe.train.launch, *recipe.templates.values()):
        assert Path(file).is_file(), file
    assert yaml.safe_load(Path(recipe.train.launch).read_text())["num_processes"] >= 1
    assert {judge.template for judge in recipe.judges.values()} <= recipe.templates.keys()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_resolved_recipe_is_the_same_recipe(path: Path, tmp_path: Path) -> None:
    # Stage 2 writes it for the training processes.
    recipe = load_recipe(path, ["train.args.learning_rate=1.0e-6"])
    again = load_recipe(write(tmp_path, recipe.model_dump(mode="json")))
    assert again == recipe
    assert again.train.args["learning_rate"] == 1e-6


TYPOS = [
    ("sed", "seed"),
    ("model.pth", "path"),
    ("engine.max_num_seq", "max_num_seqs"),
    ("data.max_token", "max_tokens"),
    ("data.sources.1.knd", "kind"),
    ("data.near_duplicates.treshold", "threshold"),
    ("data.decontaminate.ngram", "ngrams"),
    ("teachers.t.sample", "samples"),
    ("teachers.t.model.dtypes", "dtype"),
    ("teachers.fleet.server.url", "urls"),
    ("teachers.claude.server.poll_second", "poll_seconds"),
    ("records.dpoo", "dpo"),
    ("meta.max_lenght", "max_length"),
    ("records.dpo.choosen", "chosen"),
    ("records.general.0.wieght", "weight"),
    ("select.treshold", "threshold"),
    ("judges.mine.templte", "template"),
    ("judges.path.arg", "args"),  # a judge may be named like a key
    ("train.lanch", "launch"),
    ("scalar.max_lenght", "max_length"),
    ("evaluate.both_order", "both_orders"),
]


def test_there_is_a_typo_for_every_section() -> None:
    assert {typo.split(".")[0] for typo, _ in TYPOS} >= {
        name
        for name, field in Recipe.model_fields.items()
        if "Config" in str(field.annotation)  # sections; the other keys are plain
    }


@pytest.mark.parametrize(("typo", "right"), TYPOS, ids=lambda text: text)
def test_an_unknown_key_is_named_with_the_closest_one(typo: str, right: str, tmp_path: Path) -> None:
    path = write(tmp_path, changed(typo, 1))
    assert str(refused(path)) == f"{path}: {typo}: unknown key (did you mean {right!r}?)"
    assert typo in str(refused(write(tmp_path), f"{typo}=1"))  # as an override too


def test_a_misspelt_key_is_named_rather_than_the_one_it_leaves_missing(tmp_path: Path) -> None:
    tree = copy.deepcopy(MINIMAL)
    tree["modle"] = tree.pop("model")
    assert "modle: unknown key (did you mean 'model'?)" in str(refused(write(tmp_path, tree)))


def test_an_error_without_a_close_key_names_the_known_ones(tmp_path: Path) -> None:
    error = refused(write(tmp_path, changed("select.xyz", 1)))
    assert error.hint == (
        "known keys: selector, formula, rationale, threshold, verdict_tokens, min_kept, giveaway_words, scorer, batch_tokens"
    )
    error = refused(write(tmp_path, changed("data.sources.0.xyz", 1)))
    assert error.hint == "known keys: path, split, revision, kind, weight"


def test_keys_of_other_libraries_pass_through_unchanged(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path), ["train.args.xyz={a: [1]}", "train.lora.r=8", "engine.args.q=z"])
    assert recipe.train.args == {"xyz": {"a": [1]}}
    assert recipe.train.lora == {"r": 8} and recipe.engine.args == {"q": "z"}


BAD_VALUES: list[tuple[str, Any]] = [
    ("name", "../up"),
    ("name", "r\n"),
    ("name", ""),
    ("name", 3),
    ("seed", "many"),
    ("seed", None),
    ("seed", -1),
    ("seed", 2**32),
    ("limit", 0),
    ("limit", 1.5),
    ("model", "m"),
    ("model.path", None),
    ("model.dtype", "int8"),
    ("engine.max_model_len", 1),
    ("engine.gpu_memory_utilization", 1.5),
    ("engine.args", [1]),
    ("data.sources", []),
    ("data.sources", "a.jsonl"),
    ("data.sources.0.kind", "sky"),
    ("data.drop_sources", "magpie_ultra"),
    ("data.both_orders", "perhaps"),
    ("data.near_duplicates.threshold", 0),
    ("data.decontaminate", {"drop_prompt": 9}),
    ("teachers", {}),
    ("teachers.t.samples", 0),
    ("teachers.t.mode", "told"),
    ("teachers.t.temperature", -1),
    ("teachers.t.top_p", 0),
    ("teachers.fleet.server.urls", []),
    ("teachers.fleet.server", {"kind": "cohere"}),
    ("select.selector", "best"),
    ("records.dpo.chosen", "right"),
    ("records.grpo", {"above": 0.9, "below": 0.1}),
    ("records.general.0.weight", 0),
    ("select.threshold", "high"),
    ("judges", {}),
    ("judges.mine.template", "thinking"),
    ("train.launch", None),
    ("train.tokens", 0),
    ("train.attention", "fast"),
    ("train.lora", None),
    ("scalar.max_length", 1),
    ("evaluate.max_tokens", 0),
]


@pytest.mark.parametrize(("key", "value"), BAD_VALUES, ids=lambda item: str(item).strip() or "empty")
def test_a_bad_value_is_refused_by_its_key(key: str, value: Any, tmp_path: Path) -> None:
    path = write(tmp_path, changed(key, value))
    error = refused(path)
    assert error.location == f"{path}: {key}"
    assert error.problem


@pytest.mark.parametrize(
    "key", ["name", "model", "model.path", "data", "data.sources", "judges", "train", "train.launch"]
)
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    tree = copy.deepcopy(MINIMAL)
    *path, last = key.split(".")
    node = tree
    for part in path:
        node = node[part]
    del node[last]
    error = refused(write(tmp_path, tree))
    assert error.location.endswith(f": {key}") and "required" in error.problem


@pytest.mark.parametrize("section", ["teachers", "evaluate.benchmarks", "evaluate.others"])
def test_other_names_must_be_valid_as_a_folder(section: str, tmp_path: Path) -> None:
    path = write(tmp_path, changed(section, {"../up": {}}))
    location = str(refused(path)).split(": name '../up': use letters")[0]
    assert location == f"{path}: {section}.../up"


NO_NAMES = ["../../x", "a/b", "..", ".", "", "-a", "a b", "a\n", "a\0b", "é", "x" * 101, "C:x", "a\\b"]


@pytest.mark.parametrize("name", NO_NAMES)
@pytest.mark.parametrize("key", ["name", "teachers", "judges", "evaluate.benchmarks", "evaluate.others"])
def test_a_name_cannot_leave_its_folder(key: str, name: str, tmp_path: Path) -> None:
    error = refused(write(tmp_path, changed(key, name if key == "name" else {name: {}})))
    assert (
        "use letters, digits" in error.problem or "is not a text" in error.problem or "NUL" in error.problem
    )


@pytest.mark.parametrize("name", NO_NAMES)
def test_the_name_of_a_scalar_recipe_cannot_leave_its_folder(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, {"name": name, "sources": [{"path": "a.csv"}]})
    with pytest.raises(ConfigError, match=r"name: (name .*: use letters|the text holds a NUL)"):
        load_config(ScalarRecipe, path)


@pytest.mark.parametrize(
    "name", ["a.part", "a.earlier", "a.partial", "a.batches", "rows.jsonl", "X.JSON", "a.tmp"]
)
def test_a_name_is_not_that_of_another_file(name: str, tmp_path: Path) -> None:
    error = refused(write(tmp_path, changed("teachers", {name: {}})))
    assert f"names that end in .{name.lower().partition('.')[2]} are used by the suite" in error.problem
    assert load_recipe(write(tmp_path), ["name=part"]).name == "part"


@pytest.mark.parametrize("name", ["base", "scalar", "a/b", "a b", "", "..", "a\nb"])
def test_a_judge_name_must_be_valid_as_a_folder(name: str, tmp_path: Path) -> None:
    assert f"name {name!r}: use letters" in str(refused(write(tmp_path, changed("judges", {name: {}}))))


def test_an_unknown_template_is_named_with_the_known_ones(tmp_path: Path) -> None:
    error = refused(write(tmp_path, changed("templates.reson", "x.jinja")))
    assert (
        "templates.reson" in error.location
        and "'reason', 'think', 'direct', 'listwise', 'listwise-reason' or 'pointwise'" in error.problem
    )


@pytest.mark.parametrize("section", ["teachers.t", "evaluate"])
def test_a_completion_must_fit_into_the_context(section: str, tmp_path: Path) -> None:
    def teachers(tokens: int) -> list[str]:
        return [f"teachers.{name}.max_tokens={tokens}" for name in MINIMAL["teachers"]]

    path = write(tmp_path)
    load_recipe(path, ["engine.max_model_len=512", *teachers(511), "evaluate.max_tokens=511"])
    small = ["engine.max_model_len=512", *teachers(1), "evaluate.max_tokens=1"]
    error = refused(path, *small, f"{section}.max_tokens=512")
    assert error.problem == f"{section}.max_tokens must be below engine.max_model_len"


def test_overrides_are_yaml_at_dotted_keys(tmp_path: Path) -> None:
    path = write(tmp_path)
    before = path.read_bytes()
    recipe = load_recipe(
        path,
        [
            "seed=5",
            "seed=6",  # the last one counts
            "scalar=null",
            "limit=",
            "select.threshold=-1e-1",
            "data.sources.1.path=c=d.csv",  # only the first sign of equality separates
            "data.drop_sources=[a, 'b c']",
            "data.both_orders=true",
            "engine={max_model_len: 2048, enforce_eager: true}",
            "engine.cpu_kv_gib=3",
            "judges.new.template=direct",
            "train.args.learning_rate=1.0e-5",
            'model.revision="1"',
            "evaluate.rescue=no",
        ],
        limit=9,
    )
    assert (recipe.seed, recipe.scalar, recipe.limit) == (6, None, 9)
    assert recipe.select.threshold == -0.1
    assert [source.path for source in recipe.data.sources] == ["a.jsonl", "c=d.csv"]
    assert recipe.data.sources[1].kind == "ranked"
    assert recipe.data.drop_sources == ["a", "b c"] and recipe.data.both_orders
    assert (recipe.engine.max_model_len, recipe.engine.cpu_kv_gib, recipe.engine.enforce_eager) == (
        2048,
        3,
        True,
    )
    assert list(recipe.judges) == ["mine", "path", "new"] and recipe.judges["new"].template == "direct"
    assert recipe.train.args == {"learning_rate": 1e-5}
    assert recipe.model.revision == "1" and recipe.evaluate.rescue is False
    assert path.read_bytes() == before


def test_a_custom_template_leaves_the_other_unchanged(tmp_path: Path) -> None:
    templates = load_recipe(write(tmp_path), ["templates.direct=own.jinja"]).templates
    files = {"reason": "reason", "think": "think", "listwise": "direct", "listwise-reason": "reason", "pointwise": "direct"}  # fmt: skip
    shipped = {name: f"configs/prompts/{file}.jinja" for name, file in files.items()}
    assert templates == shipped | {"direct": "own.jinja"}
    assert load_recipe(write(tmp_path)).templates["direct"] == "configs/prompts/direct.jinja"


def test_an_override_may_open_a_section_that_the_recipe_leaves_out(tmp_path: Path) -> None:
    tree = {key: value for key, value in MINIMAL.items() if key not in ("teachers", "records")}
    assert list(load_recipe(write(tmp_path, tree)).teachers) == ["student"]
    recipe = load_recipe(write(tmp_path, tree), ["teachers.t.model.path=t", "scalar.max_length=128"])
    assert recipe.teachers["t"].model is not None and recipe.teachers["t"].model.path == "t"
    assert recipe.scalar is not None and recipe.scalar.max_length == 128


@pytest.mark.parametrize(
    ("override", "location", "problem"),
    [
        ("seed", "command line", "'seed' is not an override"),
        ("=1", "command line", "'=1' is not an override"),
        ("seed=[1", "seed", "'[1' is not a YAML value"),
        ("seed={a: b: c}", "seed", "not a YAML value"),
        ("seed=!!python/name:os.system", "seed", "not a YAML value"),
        ("seed=2026-99-99", "seed", "not a YAML value"),
        ("seed=\x00", "seed", "not a YAML value"),
        ("name.deep=1", "name.deep", "'deep' is nested under a scalar value"),
        ("name.a.b=1", "name.a.b", "'a' is nested under a scalar value"),
        ("data.sources.2.path=x", "data.sources.2.path", "'2' is not an index of a list of 2"),
        ("data.sources.-1.path=x", "data.sources.-1.path", "'-1' is not an index"),
        ("data.sources.².path=x", "data.sources.².path", "'²' is not an index"),
        ("seed=" + "[" * 3000, "seed", "not a YAML value"),
        ("seed=!!bool x", "seed", "not a YAML value"),
        ("data.sources.x=1", "data.sources.x", "'x' is not an index"),
        ("select.threshold=", "select.threshold", "valid number"),
    ],
)  # fmt: skip
def test_an_override_that_cannot_be_applied(
    override: str, location: str, problem: str, tmp_path: Path
) -> None:
    error = refused(write(tmp_path), override)
    assert error.location.endswith(location) and problem in error.problem


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    for limit in (0, -1):
        assert refused(write(tmp_path), limit=limit).location.endswith(": limit")


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_missing_recipe(kind: str, tmp_path: Path) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "none.yaml"
    assert str(refused(path)) == f"{path}: recipe not found (see configs/ for examples)"


@pytest.mark.parametrize(
    ("name", "problem"),
    [("file/x", "Not a directory"), ("x" * 300, "File name too long"), ("closed/x", "Permission denied")],
)
def test_a_recipe_that_cannot_be_read(
    name: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    if name == "closed/x":  # root may read everything

        def read_text(path: Path, **_: Any) -> str:
            raise PermissionError(errno.EACCES, problem, str(path))

        monkeypatch.setattr(Path, "read_text", read_text)
    path = tmp_path / name
    assert str(refused(path)) == f"{path}: cannot be read: {problem} (check the path and its permissions)"


def test_broken_yaml_is_named_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "name: r\nseed: 1\nmodel: {path: [m}\n")
    error = refused(path)
    assert error.location == f"{path}:3" and error.problem == "invalid YAML"
    path = write(tmp_path, "name: r\n\tseed: 1\n")
    assert refused(path).location == f"{path}:2"


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("name: r\n? [a, b]\n: 1\n", ":2", "a key is a list or a mapping; write a name"),
        ("name: {{ x }}\n", ":1", "a key is a list or a mapping; write a name"),
        ("!!map [a]\n", ":1", "expected a mapping node, but found sequence"),
        ("a: " + "[" * 3000, "", "nested too deeply"),
    ],
    ids=["list as key", "mapping as key", "list as mapping", "deep"],
)
def test_odd_yaml_is_refused_in_one_line(text: str, line: str, hint: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    assert str(refused(path)) == f"{path}{line}: invalid YAML ({hint})"


@pytest.mark.parametrize(
    "data",
    [b"name: \xff\n", b"name: \x00\n", b"name: 2026-99-99\n", b"name: !!bool x\n", b"name: !!int ''\n"],
)
def test_a_file_that_is_not_yaml(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(data)
    error = refused(path)
    assert error.location == str(path) and error.problem == "invalid YAML" and error.hint


@pytest.mark.parametrize("text", ["", "- a\n", "text\n", "# only a comment\n"])
def test_a_recipe_must_be_a_mapping(text: str, tmp_path: Path) -> None:
    assert refused(write(tmp_path, text)).problem == "not a mapping of keys"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("train: {args: {x: 2026-01-01}}", "train.args.x: YAML reads this value as date (put quotes"),
        ("train: {args: {x: !!binary aGk=}}", "train.args.x: YAML reads this value as bytes"),
        ("train: {args: {x: !!set {a}}}", "train.args.x: YAML reads this value as set"),
        ("train: {args: {x: .nan}}", "train.args.x: not a finite number"),
        ("limit: .inf", "limit: not a finite number"),
        ("train: {args: {1: x}}", "train.args: the key 1 is not a text (put quotes"),
        ("2026-01-01: x", "the key datetime.date(2026, 1, 1) is not a text"),
        ('model: {path: "a\\0b"}', "model.path: the text holds a NUL or half of a surrogate pair"),
        ('prompts: "\\ud800"', "prompts: the text holds a NUL or half of a surrogate pair"),
        ("train: {args: {x: " + "[" * 60 + "]" * 60 + "}}", ": nested too deeply, or too large"),
        ("x: &a [*a]", ": nested too deeply, or too large"),
        ("a0: &a0 [1]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(8)),
         ": nested too deeply, or too large"),
    ],
)  # fmt: skip
def test_values_that_no_recipe_can_hold(text: str, problem: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"name: r\n{text}\n")
    error = refused(path)
    assert problem in str(error) and "\n" not in str(error) and str(error).startswith(str(path))


def test_a_key_is_not_shown_by_an_error(tmp_path: Path) -> None:
    for override in ("train.args.hub_token=[hf_123456789012", "train.args.hub_token: hf_123456789012"):
        with pytest.raises(ConfigError) as caught:
            load_recipe(write(tmp_path), [override])
        assert "hf_1234" not in str(caught.value) and "***" in str(caught.value)


def test_a_recipe_knows_its_folder_and_whether_it_needs_reasons(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    assert recipe.folder == Path("runs/r") and recipe.needs_reasons()
    assert not load_recipe(write(tmp_path), ["judges.mine.template=direct"]).needs_reasons()


def test_a_key_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\nseed: 1\nmodel: {path: m}\nseed: 2\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_recipe(path)
    assert refused.value.location == f"{path}:4" and "'seed' occurs twice" in str(refused.value)


def test_the_shipped_recipe_of_distil_has_levels_with_whole_numbers() -> None:
    recipe = load_distil_recipe("configs/distil/reward_model.yaml", ["head.patience=null"])
    assert recipe.judge.rubric.criteria[0].levels.keys() == {1, 2, 3, 4, 5}
    assert recipe.head.patience is None
