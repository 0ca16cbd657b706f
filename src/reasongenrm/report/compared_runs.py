"""Read the runs of a comparison, compare their models, and list the settings that differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.report.comparison import ComparedModel, ModelComparison, compare_models, correct_p_values
from reasongenrm.report.pages import printable
from reasongenrm.report.run_files import Manifest, RunFiles, read_run
from reasongenrm.report.tables import one_line

_LONGEST_VALUE = 100
_FIRST_SETTINGS = tuple("model prompts templates judges seed limit evaluate data select train".split())


@dataclass(frozen=True, slots=True)
class SettingDifference:
    """A setting that is not the same in two runs.

    Attributes:
        setting: a dotted key of the recipe, `file PATH`, a package, or another entry of the manifest.
        before, after: its values, shortened; `none` where there is none.
    """

    setting: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run that is compared.

    Attributes:
        label: its name in the comparison.
        models: those that are compared.
        git: the commit it was evaluated with.
        differences: the settings that are not those of the first run.
    """

    label: str
    models: tuple[str, ...]
    git: str
    differences: tuple[SettingDifference, ...]


@dataclass(frozen=True, slots=True)
class RunsComparison:
    """Some models of one or several runs.

    Attributes:
        comparisons: those of a benchmark follow each other.
        notes: what was not compared, and why.
        runs: the first model of the first run is the reference.
    """

    comparisons: tuple[ModelComparison, ...]
    notes: tuple[str, ...]
    runs: tuple[ComparedRun, ...]


def read_runs(paths: Sequence[Path]) -> tuple[dict[str, RunFiles], list[tuple[str, str]]]:
    """Return the runs by label, and the (run label, model) pairs to compare, each once."""
    targets = [_target(path) for path in paths]
    files: dict[Path, RunFiles] = {}
    for folder, _ in targets:
        if folder.resolve() not in files:
            files[folder.resolve()] = read_run(folder)
    labels = dict(zip(files, _labels(list(files), [run.name for run in files.values()]), strict=True))
    models: dict[tuple[str, str], None] = {}
    for folder, model in targets:
        key = folder.resolve()
        names = list(dict.fromkeys(m.name for benchmark in files[key].benchmarks for m in benchmark.models))
        if model is not None and model not in names:
            hint = f"it has {', '.join(names)}"
            raise ConfigError(f"no model {model!r} in this run", location=str(folder), hint=hint)
        models |= dict.fromkeys((labels[key], name) for name in (names if model is None else [model]))
    if len(models) < 2:
        hint = "name a second run, or a run of several models"
        raise ConfigError("there is only one model, so nothing to compare", hint=hint)
    return {labels[key]: run for key, run in files.items()}, list(models)


def _target(path: Path) -> tuple[Path, str | None]:
    """Return a run folder, and a model of it, or None for all of them."""
    if path.is_dir():
        return path, None
    folder, colon, model = str(path).rpartition(":")
    if colon and Path(folder).is_dir():
        return Path(folder), model
    hint = "give a folder that stage 3 has written, or FOLDER:MODEL for one of its models"
    raise DataError("not a run folder", location=str(path), hint=hint)


def _labels(folders: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Return a label for every run: its name, or for runs of one name as many parts of the path as tell them apart."""
    for depth in range(max(len(folder.parts) for folder in folders) + 1):
        labels = [
            _plain("/".join(folder.parts[-depth:]) if depth and names.count(name) > 1 else name)
            for folder, name in zip(folders, names, strict=True)
        ]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({number})" for number, label in enumerate(labels, 1)]


def _plain(name: str) -> str:
    """Return a name on one line that any terminal can show."""
    return "".join(c if c.isprintable() else "?" for c in one_line(printable(name))) or "?"


def compare_all(files: Mapping[str, RunFiles], models: Sequence[tuple[str, str]]) -> RunsComparison:
    """Compare the models, each a pair (run label, name).

    Raises:
        DataError: a model shares no row with any other.
    """
    by_benchmark: dict[tuple[str, str], list[ComparedModel]] = {}
    for run, name in models:
        seed = files[run].manifest.recipe.get("seed", 0)
        for benchmark in files[run].benchmarks:
            for model in benchmark.models:
                if model.name == name:
                    compared = ComparedModel(f"{run}/{name}", benchmark, model, seed)
                    by_benchmark.setdefault((benchmark.key, benchmark.kind), []).append(compared)
    labels = [f"{run}/{name}" for run, name in models]
    comparisons: list[ModelComparison] = []
    notes: list[str] = []
    for (key, kind), (reference, *others) in by_benchmark.items():
        if not others:
            notes.append(f"{key} ({kind}) was judged only by {reference.label}, and is not compared.")
        elif reference.label != labels[0]:
            notes.append(f"{key} ({kind}) was not judged by {labels[0]}: the reference is the next model.")
        for other in others:
            comparison = compare_models(reference, other)
            if comparison is None:
                notes.append(f"{key} ({kind}): {reference.label} and {other.label} share no row.")
            else:
                comparisons.append(comparison)
    compared_labels = {one.label for c in comparisons for one in (c.reference, c.model)}
    for label in labels:
        if label not in compared_labels:
            raise DataError(
                f"{label} shares no judged row with another compared model",
                hint="compare runs of the same benchmark, under the same name in evaluate.benchmarks",
            )
    runs = list(dict.fromkeys(run for run, _ in models))
    return RunsComparison(
        tuple(correct_p_values(comparisons)),
        tuple(notes),
        tuple(
            ComparedRun(
                run,
                tuple(name for other, name in models if other == run),
                files[run].manifest.git,
                tuple(setting_differences(files[runs[0]].manifest, files[run].manifest)),
            )
            for run in runs
        ),
    )


def setting_differences(before: Manifest, after: Manifest) -> list[SettingDifference]:
    """Return the settings that differ, the recipe first.

    A run's name does not count as a difference, nor does the folder of its own files; of a file that both runs
    name, the hashes are compared.
    """
    both = (before, after)
    recipes = [{key: value for key, value in one.recipe.items() if key != "name"} for one in both]
    differences = sorted(_unequal(*recipes), key=_importance)
    files = _unequal(*map(_file_hashes, both))
    differences += [(f"file {name}", old, new) for name, old, new in files if None not in (old, new)]
    differences += [
        (f"package {name}", old, new) for name, old, new in _unequal(before.versions, after.versions)
    ]
    differences += _unequal(*({"git": one.git, "python": one.python, "machine": one.machine} for one in both))
    return [SettingDifference(name, _value_text(old), _value_text(new)) for name, old, new in differences]


def _unequal(before: Any, after: Any, *, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted key and both values of every leaf that differs, in the order of the keys; None is absent."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            dotted = f"{key}.{name}" if key else str(name)
            yield from _unequal(before.get(name), after.get(name), key=dotted)
    elif before != after:
        yield key, before, after


def _importance(difference: tuple[str, Any, Any]) -> tuple[int, str]:
    """Sort what changes the results most first, and the rest by name."""
    section = difference[0].split(".")[0]
    known = section in _FIRST_SETTINGS
    return (_FIRST_SETTINGS.index(section) if known else len(_FIRST_SETTINGS)), difference[0]


def _file_hashes(manifest: Manifest) -> dict[str, str]:
    """Return the hashes of the files that the stage read, those of the run's own folder without its name."""
    files = manifest.settings.get("files", {})
    own = f"runs/{manifest.recipe.get('name')}/"
    return {name.removeprefix(own): value for name, value in files.items()}


def _value_text(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
