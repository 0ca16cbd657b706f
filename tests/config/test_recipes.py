"""The 7B recipes on the GPUs that their first line names: batches, lengths and memory, by the numbers of the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.doctor.estimate import record_tokens, serving_memory, training_memory, zero_stage
from reasongenrm.doctor.geometry import Geometry, read_geometry
from reasongenrm.doctor.machine import CARDS
from reasongenrm.errors import ConfigError
from reasongenrm.train.process import KINDS, check_training

pytestmark = pytest.mark.unit

NODE = ("qwen2.5-7b",)
ONE_CARD = "qwen2.5-7b-24gb"
MEMORY = dict.fromkeys(NODE, 80) | {ONE_CARD: 24}
"""Recipe -> GiB of each GPU."""


def recipe(name: str) -> Recipe:
    return load_recipe(Path("configs") / f"{name}.yaml")


@pytest.fixture(scope="module")
def geometry() -> Geometry:
    return read_geometry(recipe(ONE_CARD).model)


def test_every_7b_recipe_is_checked_here() -> None:
    assert {path.stem for path in Path("configs").glob("qwen2.5-7b*.yaml")} == MEMORY.keys()


@pytest.mark.parametrize("name", MEMORY)
def test_the_settings_of_other_libraries_are_known(name: str) -> None:
    check_training(recipe(name))


@pytest.mark.parametrize("name", MEMORY)
def test_accumulation_in_a_recipe_is_an_error(name: str) -> None:
    accumulating = load_recipe(f"configs/{name}.yaml", ["train.args.gradient_accumulation_steps=8"])
    with pytest.raises(ConfigError, match=r"^train\.args\.gradient_accumulation_steps: "):
        check_training(accumulating)


@pytest.mark.parametrize("name", NODE)
@pytest.mark.parametrize("gpus", [*range(1, 9), 16])
def test_the_batch_is_the_same_on_any_number_of_gpus(name: str, gpus: int) -> None:
    loaded = recipe(name)
    for judge in loaded.judges:
        together, accumulation = KINDS["sft"].batch(loaded, loaded.trained[judge], gpus)
        passes, batch = accumulation * gpus, loaded.train.batch
        assert together == loaded.train.args["per_device_train_batch_size"] == 2 and batch == 128
        assert (passes - gpus) * together < batch <= passes * together, "no pass more than necessary"


@pytest.mark.parametrize("name", MEMORY)
def test_a_model_needs_one_gpu(name: str) -> None:
    assert recipe(name).engine.tensor_parallel == 1


@pytest.mark.parametrize("name", MEMORY)
def test_a_record_and_its_prompts_fit_into_the_context(name: str) -> None:
    loaded = recipe(name)
    assert loaded.data.max_tokens <= loaded.engine.max_model_len
    longest = max([loaded.evaluate.max_tokens, *(t.max_tokens for t in loaded.teachers.values())])
    assert longest <= loaded.engine.max_model_len / 2, "half of the context is left for a prompt"


@pytest.mark.parametrize("name", MEMORY)
def test_a_process_has_the_memory_to_train_the_longest_records(name: str, geometry: Geometry) -> None:
    loaded = recipe(name)
    stage = zero_stage(loaded.train.launch)
    for processes in range(1, 9) if name in NODE else (1,):
        tokens = record_tokens(loaded, processes)
        needed = training_memory(geometry, loaded, tokens=tokens, processes=processes, stage=stage)
        assert needed.total < 0.95 * MEMORY[name], f"{needed} on {processes} GPUs"


def test_the_base_of_16_bits_would_not_fit_into_24_gb(geometry: Geometry) -> None:
    loaded = load_recipe(f"configs/{ONE_CARD}.yaml", ["train.quantization=none"])
    needed = training_memory(geometry, loaded, tokens=record_tokens(loaded, 1), processes=1, stage=0)
    assert needed.total > 24


@pytest.mark.parametrize("name", MEMORY)
def test_vllm_has_room_for_many_sequences(name: str, geometry: Geometry) -> None:
    loaded = recipe(name)
    card = next(card for card in CARDS if round(card.memory_gib) == MEMORY[name])
    served = serving_memory(geometry, loaded.model.dtype, loaded.engine, card)
    assert served.tokens > 10 * loaded.engine.max_model_len


def test_the_launch_files_leave_the_number_of_gpus_to_the_machine() -> None:
    note = Path("configs/accelerate/multi-node.yaml").read_text(encoding="utf-8")
    assert "--num_machines 2 --machine_rank" in note
    assert recipe(ONE_CARD).train.launch.endswith("single-gpu.yaml")
    for name in NODE:
        launch = yaml.safe_load(Path(recipe(name).train.launch).read_text(encoding="utf-8"))
        assert launch["deepspeed_config"]["zero_stage"] == 2
