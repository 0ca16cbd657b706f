"""A chain of training steps: killed in its votes, in DPO and in GRPO it ends with the same weights, and stage 3 judges each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from support.scripts import EVALUATE, TRAIN, Bench, Chain, kill_at, lines, value_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MODELS = ("reasongenrm", "reasongenrm@round", "reasongenrm@dpo", "reasongenrm@grpo")
STEPS = [
    "judges={reasongenrm: {template: reason, general: true, steps: [sft, round, dpo, grpo]}}",
    "scalar=null",
    "evaluate.base=false",
    "train.round={samples: 2, max_tokens: 16, fill: true, tokens: 1800}",
    "train.dpo={batch: 4, refresh: 4, args: {max_steps: 6, learning_rate: 0.0002}}",
    "train.grpo={batch: 2, samples: 2, refresh: 2, steps: 6, max_tokens: 16, baseline: pair, rewards: {consistency: 1.0}}",
]


@pytest.fixture(scope="module")
def steps(bench: Callable[[str, Sequence[str]], Bench], toy_overrides: list[str], chain: Chain) -> Bench:
    """A bench whose runs `calm` and `killed` begin with stage 1 and the first judge of the chain."""
    made = bench("steps", [*toy_overrides, *STEPS])
    for name in ("calm", "killed"):
        made.names.add(made.name(name))
        others = shutil.ignore_patterns("genrm", "scalar", "evaluate*", "scores.json", "table.md", "report*")
        shutil.copytree(chain.folder, made.folder(name), ignore=others)
    return made


def same_weights(ours: Path, theirs: Path) -> None:
    from safetensors.numpy import load_file

    for model in MODELS:
        a, b = (load_file(side / "judges" / model / "adapter" / "adapter_model.safetensors") for side in (ours, theirs))  # fmt: skip
        assert a.keys() == b.keys() and a
        for key in a:
            assert (a[key] == b[key]).all(), (model, key)


def test_a_killed_chain_ends_with_the_same_weights(steps: Bench, chain: Chain) -> None:
    calm, folder = steps.folder("calm"), steps.folder("killed")
    first = (calm / "judges" / "reasongenrm" / "training.json").stat().st_mtime_ns
    steps.good(TRAIN, "calm")
    assert (calm / "judges" / "reasongenrm" / "training.json").stat().st_mtime_ns == first, (
        "SFT is not done again"
    )

    def whole(model: str) -> Callable[[], bool]:
        return (folder / "judges" / f"{model}.partial" / "checkpoints" / "checkpoint-3" / "whole").exists

    assert value_of(calm / "rounds" / "reasongenrm@round" / "report.json")["filled"], (
        "an untrained judge loses pairs"
    )
    votes = folder / "votes" / "reasongenrm@round" / "completions.part.jsonl"
    kill_at(steps.fork(TRAIN, "killed"), lambda: lines(votes) >= 8, 0.3, group=True, seed=1)
    for seed, model in enumerate(MODELS[2:], 2):  # a round trains as SFT does, which test_kill.py kills
        kill_at(steps.fork(TRAIN, "killed"), whole(model), 0.2, group=seed % 2 == 0, seed=seed)
        assert not (folder / "judges" / model).exists()
    steps.good(TRAIN, "killed")
    same_weights(folder, calm)
    for name in ("round/sft", "dpo/dpo", "grpo/grpo"):
        path = Path("rounds") / f"reasongenrm@{name}.jsonl"
        assert (folder / path).read_bytes() == (calm / path).read_bytes() != b""
    assert not list(folder.rglob("*.partial")) and not list(folder.rglob("*.part.jsonl"))


def test_stage_3_judges_with_each_step(steps: Bench) -> None:
    folder = steps.folder("calm")
    steps.good(EVALUATE, "calm")
    models = value_of(folder / "scores.json")["benchmarks"]["toy"]["models"]
    assert set(models) == set(MODELS)
    completions = [
        (folder / "evaluate" / "toy" / model / "completions.jsonl").read_bytes() for model in MODELS
    ]
    assert len(set(completions)) == len(MODELS), "each step is another judge"
