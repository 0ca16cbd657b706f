"""How records are divided among processes, and which attention trains a judge."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.errors import ConfigError
from reasongenrm.train.attention import PACKED
from reasongenrm.train.sft import batch_sizes, check_training, choose_attention

pytestmark = pytest.mark.unit
DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"


def recipe(**train: Any) -> Recipe:
    overrides = ["train.args.per_device_train_batch_size=null"]
    return load_recipe(DEMO, overrides + [f"train.{key}={value}" for key, value in train.items()])


@given(batch=st.integers(1, 512), processes=st.integers(1, 16), together=st.integers(1, 12) | st.none())
def test_every_record_of_a_batch_is_computed_once(batch: int, processes: int, together: int | None) -> None:
    base = recipe()
    args = base.train.args | {"per_device_train_batch_size": together}
    train = base.train.model_copy(update={"batch": batch, "args": args})
    sized = base.model_copy(update={"train": train})
    if batch % processes or (together and (batch // processes) % together):
        with pytest.raises(ConfigError, match=r"^train\.(batch|args\.per_device_train_batch_size): .* \("):
            batch_sizes(sized, "genrm", processes)
    else:
        size, accumulation = batch_sizes(sized, "genrm", processes)
        assert size * accumulation * processes == batch and size == (together or size) and size >= 1


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_a_batch_of_128_fits_one_to_eight_gpus(processes: int) -> None:
    size, accumulation = batch_sizes(recipe(batch=128), "genrm", processes)
    assert size == 8 and accumulation == 128 // 8 // processes


def test_a_batch_that_cannot_be_divided_names_the_nearest_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        batch_sizes(recipe(batch=128), "genrm", 7)
    assert str(caught.value).startswith("train.batch: 128 records cannot be divided among 7 processes")
    assert "train.batch=126 or 133" in caught.value.hint


def test_accumulation_is_not_a_key_of_its_own() -> None:
    with pytest.raises(
        ConfigError, match=r"gradient_accumulation_steps is set by the suite \(set train.batch"
    ):
        check_training(load_recipe(DEMO, ["train.args.gradient_accumulation_steps=2"]))


PLAIN, CAPPED = SimpleNamespace(), SimpleNamespace(attn_logit_softcapping=50.0)


@pytest.mark.parametrize(
    ("settings", "config", "expected"),
    [
        ({}, PLAIN, (PACKED, True)),
        ({"packing": "true"}, PLAIN, (PACKED, True)),
        ({"packing": "false"}, PLAIN, ("sdpa", False)),
        ({}, CAPPED, ("sdpa", False)),
        ({"attention": "sdpa"}, PLAIN, ("sdpa", False)),
        ({"attention": "sdpa", "packing": "true"}, PLAIN, ("sdpa", True)),
        ({"attention": "flex_attention"}, CAPPED, ("flex_attention", True)),
        ({"attention": "flash_attention_2"}, PLAIN, ("flash_attention_2", True)),
        ({"attention": "flash_attention_2", "packing": "false"}, PLAIN, ("flash_attention_2", False)),
    ],
)
def test_attention_and_packing(settings: dict[str, str], config: Any, expected: tuple[str, bool]) -> None:
    assert choose_attention(recipe(**settings), config) == expected


def test_packing_that_a_model_does_not_have_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^train.packing: the model's attention is not plain"):
        choose_attention(recipe(packing="true"), CAPPED)
