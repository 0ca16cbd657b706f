"""The adapter does not depend on how many machines train it; of processes, see tests/train/test_process.py."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from support.scripts import Bench, Chain, stage_server, value_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STAGE_1 = ("pairs.jsonl", "sft.jsonl", "genrm.jsonl", "general.jsonl")
ADAPTER = Path("judges", "reasongenrm", "adapter", "adapter_model.safetensors")


@pytest.fixture
def training(
    chain: Chain, bench: Callable[[str, Sequence[str]], Bench], toy_overrides: list[str]
) -> tuple[Bench, Path]:
    """A bench, and its run folder with the records of the chain."""
    recipe = ["scalar=null", "judges={reasongenrm: {template: reason, general: true}}"]
    made = bench("launch", [*toy_overrides, *recipe])
    folder = made.folder("run")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in STAGE_1:
        shutil.copy(chain.folder / name, folder / name)
    return made, folder


def assert_same_adapter(folder: Path, other: Path) -> None:
    from safetensors.torch import load_file
    from torch.testing import assert_close

    ours, theirs = load_file(folder / ADAPTER), load_file(other / ADAPTER)
    assert ours.keys() == theirs.keys()
    for key, weights in ours.items():
        assert_close(weights, theirs[key], rtol=1e-3, atol=1e-5)


def test_two_machines_share_a_run_folder(training: tuple[Bench, Path], chain: Chain, tmp_path: Path) -> None:
    """Two stages on this machine, which meet at a loopback port."""
    made, folder = training
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = f"--num_machines 2 --num_processes 2 --main_process_ip 127.0.0.1 --main_process_port {port}"
    logs = [tmp_path / f"machine-{rank}" for rank in (0, 1)]
    commands = [
        (["train", *made.words("run"), f"train.launch_args={arguments} --machine_rank {rank}"], log)
        for rank, log in enumerate(logs)
    ]
    done = stage_server().run_together(commands)
    said = [log.read_text(encoding="utf-8") for log in logs]
    assert done.code == 0, (done.stderr, *said)
    assert "reasongenrm: waiting for machine 0" in said[1]
    assert not (folder / "judges" / "reasongenrm.partial").exists()
    written = {path.name for path in (folder / "logs").glob("train-*.log")}
    assert written == {"train-reasongenrm.log", "train-reasongenrm-1.log"}, "one log for each machine"
    assert value_of(folder / "judges" / "reasongenrm" / "training.json")["processes"] == 2
    assert_same_adapter(folder, chain.folder)
