"""The 7B recipes on the GPUs that their first line names: batches, lengths and memory, by the numbers of the recipe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.doctor.chain import step_memory
from reasongenrm.doctor.estimate import serving_memory
from reasongenrm.doctor.geometry import Geometry, read_geometry
from reasongenrm.errors import ConfigError
from reasongenrm.metrics.flops import CARDS, Card
from reasongenrm.train.process import KINDS, check_training

pytestmark = pytest.mark.unit

BEST = "qwen2.5-7b-best"
NODE = ("qwen2.5-7b", BEST)
ONE_CARD = "qwen2.5-7b-24gb"
MEMORY = dict.fromkeys(NODE, 80) | {ONE_CARD: 24}
"""Recipe -> GiB of each GPU."""


def recipe(name: str) -> Recipe:
    return load_recipe(Path("configs") / f"{name}.yaml")


@pytest.fixture(scope="module")
def geometry() -> Geometry:
    return read_geometry(recipe(ONE_CARD).model)


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(path: Path) -> None:
    assert load_recipe(path).name == path.stem


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
        assert together == loaded.train.args["per_device_train_batch_size"] and batch == 128
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


def card_of(name: str) -> Card:
    return next(card for card in CARDS if round(card.memory_gib) == MEMORY[name])


@pytest.mark.parametrize("name", MEMORY)
def test_a_process_has_the_memory_of_every_step(name: str, geometry: Geometry) -> None:
    loaded = recipe(name)
    for processes in range(1, 9) if name in NODE else (1,):
        for step in loaded.trained.values():
            needed = step_memory(geometry, loaded, step, card_of(name), processes)
            assert needed.total < 0.95 * MEMORY[name], f"{step.model}: {needed} on {processes} GPUs"


def test_the_base_of_16_bits_would_not_fit_into_24_gb(geometry: Geometry) -> None:
    loaded = load_recipe(f"configs/{ONE_CARD}.yaml", ["train.quantization=none"])
    [step] = loaded.trained.values()
    assert step_memory(geometry, loaded, step, card_of(ONE_CARD), 1).total > 24


@pytest.mark.parametrize("name", MEMORY)
def test_vllm_has_room_for_many_sequences(name: str, geometry: Geometry) -> None:
    loaded = recipe(name)
    served = serving_memory(geometry, loaded.model.dtype, loaded.engine, card_of(name))
    assert served.tokens > 10 * loaded.engine.max_model_len


def test_every_number_of_the_best_plan_has_its_source() -> None:
    """The line has the paper or repository, or says that the number is ours."""
    sources = r"ReasonGRM|RM-R1|CompassJudger-2|BR-RM|J1|Mix-GRM|GRAM-R2|RationaleRM|DeepSeek-GRM|DAPO|LoRA|ours|no paper"
    lines = (Path("configs") / f"{BEST}.yaml").read_text(encoding="utf-8").splitlines()
    values = [line.split(" #", 1) for line in lines if not line.startswith("#")]
    numbers = [
        (value, note) for value, *note in values if re.search(r"(?<![\w.-])\d|\d{4}", value.partition(":")[2])
    ]
    assert len(numbers) > 45, "else this shows little"
    assert [value for value, note in numbers if not note or not re.search(sources, note[0])] == []


def test_the_best_plan_is_the_one_of_the_papers() -> None:
    best = recipe(BEST)
    assert best.data.drop_sources == ["magpie_ultra"] and best.data.both_orders
    assert {teacher.mode for teacher in best.teachers.values()} == {"blind"}, "rejection, no hindsight"
    [served] = (teacher for teacher in best.teachers.values() if teacher.server)
    assert served.max_tokens == 8192 and served.model and served.model.path == "Qwen/Qwen3-32B"
    assert [step.kind for step in best.trained.values()] == ["sft", "round", "grpo"]
    assert best.train.margin and best.train.margin.gamma == 10
    assert best.records.grpo and (best.records.grpo.above, best.records.grpo.below) == (0, 1)
    rewards = best.train.grpo.rewards
    assert rewards.verdict > 0 and rewards.consistency > 0 and best.train.grpo.both_orders
    limits = (best.train.grpo.max_tokens, best.train.round.max_tokens, best.evaluate.max_tokens)
    assert min(limits) >= 4096
    assert best.evaluate.both_orders and best.evaluate.votes > 1 and best.evaluate.combine == "mean"
    kinds = {benchmark.kind for benchmark in best.evaluate.benchmarks.values()}
    assert kinds == {"rewardbench", "rewardbench2", "rmbench", "judgebench", "rmb"}


def test_the_longest_traces_of_the_best_plan_have_room() -> None:
    """A prompt of half of the context, and a trace: where they are longer than a record, the record is dropped whole."""
    best = recipe(BEST)
    longest = max(teacher.max_tokens for teacher in best.teachers.values())
    assert 2 * longest <= best.engine.max_model_len and longest < best.data.max_tokens
    assert 4 * 1024 + longest == best.data.max_tokens, "RM-R1: prompts of 4,096 tokens and traces of 8,192"


def test_the_launch_files_leave_the_number_of_gpus_to_the_machine() -> None:
    note = Path("configs/accelerate/multi-node.yaml").read_text(encoding="utf-8")
    assert "--num_machines 2 --machine_rank" in note
    assert recipe(ONE_CARD).train.launch.endswith("single-gpu.yaml")
    for name in NODE:
        launch = yaml.safe_load(Path(recipe(name).train.launch).read_text(encoding="utf-8"))
        assert launch["deepspeed_config"]["zero_stage"] == 2
