"""Outputs of the command line, the API, the HTTP server and the reports, compared with recorded hashes.

A refactoring that means to change nothing leaves `outputs.json` as it is. After a change that is meant:

    PYTHONPATH=tests python -m golden.test_golden record              # all areas
    PYTHONPATH=tests python -m golden.test_golden record http scalar  # some

The outputs themselves are written to `build/golden/AREA/NAME`: by `record` all of them, by a failing test the one that
differs (as `NAME.new`), so that the two can be compared with `diff`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from golden.areas import AREAS, ROOT, workplace

pytestmark = pytest.mark.unit

HERE = Path(__file__).resolve().parent
RECORD = HERE / "outputs.json"
RECORDED: dict[str, dict[str, str]] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
ACTUAL = ROOT / "build" / "golden"


@cache
def outputs(area: str) -> dict[str, bytes]:
    """Return an area's outputs; they are made once."""
    with TemporaryDirectory() as folder, workplace(Path(folder)):
        return AREAS[area]()


def digest(content: bytes) -> str:
    """Return what is recorded of an output."""
    return hashlib.sha256(content).hexdigest()[:16]


def write(area: str, name: str, content: bytes) -> Path:
    """Write an output to where one can look at it."""
    path = ACTUAL / area / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("area", "name"), [pytest.param(a, n, id=f"{a}:{n}") for a, found in RECORDED.items() for n in found]
)
def test_output_is_as_recorded(area: str, name: str) -> None:
    made = outputs(area)
    assert name in made, "this output is no longer made"
    if digest(made[name]) != RECORDED[area][name]:
        path = write(area, f"{name}.new", made[name])
        pytest.fail(f"the output differs: diff {path.with_suffix('')} {path}", pytrace=False)


@pytest.mark.parametrize("area", AREAS)
def test_no_output_is_new(area: str) -> None:
    assert sorted(outputs(area).keys() - RECORDED.get(area, {}).keys()) == []


def test_the_scripted_engine_says_everything_that_a_judge_may_say() -> None:
    lines = outputs("judge_jsonl")
    verdicts = [
        verdict
        for name, content in lines.items()
        if name.endswith("-compare.jsonl")
        for row in content.decode().splitlines()
        for verdict in json.loads(row)["verdicts"]
    ]
    assert {verdict["outcome"] for verdict in verdicts} == {"ok", "tie", "unparsed", "truncated", "error"}
    assert {verdict["winner"] for verdict in verdicts} == {"A", "B", "tie", None}
    assert {verdict["rescued"] for verdict in verdicts} == {True, False}


def record(areas: list[str]) -> None:
    """Record the outputs of some areas, or of all."""
    kept = {area: found for area, found in RECORDED.items() if area in AREAS}
    for area in areas or AREAS:
        for name, content in outputs(area).items():
            write(area, name, content)
        kept[area] = {name: digest(content) for name, content in sorted(outputs(area).items())}
        print(f"{area}: {len(kept[area])} outputs")
    ordered = {area: kept[area] for area in AREAS if area in kept}
    RECORD.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] != ["record"] or not set(sys.argv[2:]) <= AREAS.keys():
        sys.exit(f"usage: python {sys.argv[0]} record [{' | '.join(AREAS)}]")
    record(sys.argv[2:])
