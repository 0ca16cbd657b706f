"""`chain`: one undisturbed run of the three scripts, which all tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from support.scripts import EVALUATE, PREPARE, TRAIN, Bench, Chain

KEY = "hf_AbCdEfGhIjKlMnOpQrSt"
KEYS = [
    f"{name}={KEY}" for name in ("train.args.hub_token", "judges.genrm.args.hub_token", "scalar.args.hub_token")
] + [f"engine.args.hf_token={KEY}"]  # fmt: skip
"""A token in every place where a recipe can hold one; `test_chain.py` looks for it in every file."""


@pytest.fixture(scope="session")
def chain(bench: Callable[[str, Sequence[str]], Bench], toy_overrides: list[str]) -> Chain:
    """All three scripts, one after the other, with KEYS; about two minutes on one core."""
    made = bench("toy", [*toy_overrides, *KEYS])
    done = {script: made.run_script(script, "calm") for script in (PREPARE, TRAIN, EVALUATE)}
    for script, ended in done.items():
        assert ended.code == 0, f"{script} ended with {ended.code}:\n{ended.stdout}\n{ended.stderr}"
    return Chain(made, made.folder("calm"), done)
