"""`bench/hacking.py`: two steps of each arm; a second call trains nothing, and an arm continues from its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasongenrm.store import read_json, read_jsonl
from support.scripts import Done, stage_server

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ARMS = ("unshaped", "shaped")


CODE = """
import runpy, sys
sys.argv = {command!r}
sys.path.insert(0, "bench")
runpy.run_path("bench/hacking.py", run_name="__main__")
"""


def run(out: Path, *, steps: int = 2) -> Done:
    command = ["bench/hacking.py", "--out", str(out), "--steps", str(steps), "--every", "1"]
    sizes = ["--questions", "8", "--held-out", "8", "--judge-steps", "2", "--second-steps", "2"]
    return stage_server().run([], code=CODE.format(command=[*command, *sizes]))


def printed(done: Done) -> str:
    assert done.code == 0, done.stderr[-2000:]
    return done.stdout.partition("\n\n")[2]


def test_two_steps_of_each_arm(tmp_path: Path) -> None:
    out = tmp_path / "hacking"
    text = printed(run(out))
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in text.splitlines() if "|" in line]
    assert rows[2:] == [[arm, step] for arm in ARMS for step in ("0", "2")]
    assert [line.partition(":")[0] for line in text.splitlines()[-2:]] == [f"- {arm}" for arm in ARMS]
    assert (out / "hacking.png").read_bytes().startswith(b"\x89PNG")
    for arm in ARMS:
        done = read_json(out / arm / "rewards.json")
        assert list(done["rewards"]) == ["1", "2"]
        assert [check["step"] for check in done["checks"]] == [0, 1, 2]
        curve = list(read_jsonl(out / arm / "curve.jsonl"))
        assert [row["step"] for row in curve] == [0, 1, 2]
        assert all(0 <= row["gold"] <= 100 and len(row["answers"]) == 8 for row in curve)
    unshaped, shaped = (read_json(out / arm / "rewards.json")["rewards"] for arm in ARMS)
    assert unshaped != shaped

    (out / "shaped/rewards.json").unlink()  # as if it had been killed after the last checkpoint
    assert printed(run(out)) == text, "the judges, one arm and the checkpoint of the other are kept"

    refused = run(out, steps=3)
    assert refused.code == 2 and "made with other settings: steps" in refused.stderr
    assert "Traceback" not in refused.stderr
