"""`chain`: one undisturbed run of the three scripts, which all tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from support.scripts import EVALUATE, PREPARE, TRAIN, Bench, Chain


@pytest.fixture(scope="session")
def chain(bench: Callable[[str, Sequence[str]], Bench], toy_overrides: list[str]) -> Chain:
    """All three scripts, one after the other; about two minutes on one core."""
    made = bench("toy", toy_overrides)
    done = {script: made.good(script, "calm") for script in (PREPARE, TRAIN, EVALUATE)}
    return Chain(made, made.folder("calm"), done)
