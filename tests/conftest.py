"""Fixtures of more than one room. Tests run from the repository's root."""

from __future__ import annotations

import atexit
import gc
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from reasongenrm import collector
from reasongenrm.chat.prompts import PromptFile

pytest_plugins = (
    "support.browser",
    "support.chat_fixtures",
    "support.engine_fixtures",
    "support.head_fixtures",
    "support.merge_fixtures",
    "support.sft_fixtures",
)

settings.register_profile("no-deadline", deadline=None)  # tests are not timed: a machine may be busy
settings.load_profile("no-deadline")

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for a hub is a broken test
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# torch, transformers, gradio and vLLM make millions of objects that stay, and the garbage collector visits them again and
# again: half of the time that it takes to collect all tests. Later collections are few, and skip what was loaded before.
gc.disable()
GARBAGE_THRESHOLDS = (50_000, 20, 20)

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Two programs that share two cores, each with two threads that wait for each other, take several times as long.
    _cores = sorted(os.sched_getaffinity(0))
    _mine = _cores[
        int(worker.removeprefix("gw")) % len(_cores) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    ]
    os.sched_setaffinity(0, _mine)
    os.environ["OMP_NUM_THREADS"] = str(len(_mine))

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ROOT / "configs" / "prompts"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of benchmarks and preference sets beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: it holds the data sets of this workplace")
    return folder


@pytest.fixture(scope="session")
def toy_prompts() -> PromptFile:
    """The wording of the toy world."""
    return PromptFile.load(PROMPTS / "toy.yaml")


@pytest.fixture(scope="session")
def toy_tokenizer(toy_prompts: PromptFile) -> Any:
    """A Qwen2 tokenizer trained on the toy corpus, with the reasoning judge's chat template (some seconds)."""
    from reasongenrm.demo.base import train_tokenizer

    template = (PROMPTS / "reason.jinja").read_text(encoding="utf-8")
    return train_tokenizer(toy_prompts, template, seed=17)


@pytest.fixture(scope="session")
def tiny_model(toy_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained Qwen2 (64 wide, 2 layers, heads of 32, float32), the toy tokenizer and template."""
    import torch

    from reasongenrm.demo.base import untrained_model

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        model = untrained_model(toy_tokenizer, **sizes, **heads)
    folder = tmp_path_factory.mktemp("tiny-model")
    model.save_pretrained(folder)
    toy_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def frozen_objects() -> None:
    """Exclude from later garbage collections what earlier files and the imports of this one have left in memory."""
    gc.freeze()


CHAIN = "tests/e2e/chain/"
"""The folder of the tests that share one run of all stages."""

LONG_FILES = [
    ROOT / "tests" / name
    for name in """
        engines/test_pool.py e2e/test_e2e_workers.py rewards/test_alarm_callback.py train/test_process.py e2e/test_e2e_recipes.py
        scalar/test_notebook.py e2e/test_e2e_scalar.py engines/test_workers.py trainers/test_conformance.py e2e/test_e2e_distil.py
        doctor/test_measure.py train/test_grpo.py e2e/test_e2e_app_try.py e2e/test_e2e_real_data.py scalar/test_vllm_pooling.py
        e2e/test_e2e_distil_toy.py e2e/test_e2e_bad_input.py engines/test_vllm_server.py train/test_scalar.py
        e2e/test_e2e_app_label.py e2e/test_e2e_teachers.py bench/test_hacking.py stages/test_draft.py train/test_merge_models.py
        e2e/test_e2e_redo.py engines/test_vllm_thoughts.py doctor/test_report.py
    """.split()
]
"""The files that take longest, the longest first: with `--durations=60`, pytest prints the seconds of their tests."""
assert [path for path in LONG_FILES if not path.is_file()] == []


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip files without a slow test in `make test-slow`, whose imports would take longer than many of its tests."""
    if config.option.markexpr != "slow" or not collection_path.match("test_*.py"):
        return None
    return "mark.slow" not in collection_path.read_text(encoding="utf-8") or None


def pytest_collection_finish() -> None:
    """Collect garbage again, from here on; at the end all of it, as libraries report what is left in memory."""
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    gc.enable()
    atexit.register(gc.unfreeze)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Skip all collections behind the last test: an engine that closes asks for several of everything, and so does pytest."""
    if nextitem is None:
        collector.own_process()
        collector.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with the longest tests first, so that no worker begins one when the others are done."""
    kinds = {"slow": 1, "e2e": 2, "engine": 3}
    rank: dict[Path, tuple[int, int]] = {}
    for item in items:
        kind = min([4, *(kinds[mark.name] for mark in item.iter_markers() if mark.name in kinds)])
        rank[item.path] = min(rank.get(item.path, (1, 4)), (1, kind))
    rank |= {path: (0, place) for place, path in enumerate(LONG_FILES)}
    items.sort(key=lambda item: (not item.nodeid.startswith(CHAIN), rank[item.path]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file in one worker, and those of CHAIN, so that only one worker makes that run."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return CHAIN if nodeid.startswith(CHAIN) else super()._split_scope(nodeid)

    return Scheduling(config, log)
