"""The Python of the pages about judges, run in their order with a tiny model on the tests' engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.config.loading import load_recipe
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.judge.api import Judge
from reasongenrm.judge.comparisons import Comparison
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.service.server import create_app
from support.app import running
from support.doc_blocks import ROOT, CodeBlock, code_blocks, replaced
from support.doc_commands import PLACEHOLDERS

pytestmark = pytest.mark.engine

BLOCKS = {
    page: [block for block in code_blocks(ROOT / page) if block.language == "python"]
    for page in ("README.md", "docs/judging.md", "docs/reward.md")
}
SMALL = (
    "num_generations=2, per_device_train_batch_size=2, max_steps=1, max_completion_length=4, "
    "use_cpu=True, bf16=False, report_to='none', save_strategy='no', disable_tqdm=True"
)
"""Arguments of a trainer on a CPU."""
ELSEWHERE = ("The judge as a server", "ms-swift")
"""The one serves until Ctrl-C, as tests/e2e/chain/test_judge.py does; the other needs its trainer: tests/trainers."""


class Lent(Judge):
    """A judge whose engine stays open for other tests."""

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def wording() -> PromptFile:
    """The toy world's wording, short enough for the tiny model, with ratings and criteria."""
    data = yaml.safe_load((ROOT / "configs/prompts/toy.yaml").read_text(encoding="utf-8"))
    criteria = "{% if criteria %}{{ criteria }}\n{% endif %}"
    rating = criteria + "[Question]\n{{ conversation }}\n[Answer]\n{{ answer }}\n[End]\nhow good ?"
    return PromptFile.model_validate(
        data | {"judge": criteria + data["judge"], "rating": rating, "rating_delimiters": ["[Answer]"]}
    )


@pytest.fixture
def judge(engine: VLLMEngine, encoders: dict[str, ChatEncoder], wording: PromptFile) -> Judge:
    return Lent(engine, encoders["reason"], wording, JudgingConfig(max_tokens=4))


@pytest.fixture
def names(judge: Judge, tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    """What the page's examples take for granted: rows, texts, and a trainer with its arguments."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def from_recipe(path: str, name: str | None = None) -> Judge:
        recipe = load_recipe(ROOT / PLACEHOLDERS.get(path, path))
        assert name is None or name in recipe.trained
        return judge

    args = eval(f"GRPOConfig(output_dir={str(tmp_path / 'grpo')!r}, {SMALL})", {"GRPOConfig": GRPOConfig})
    return {
        "from_recipe": from_recipe,
        "judge": judge,
        "rows": [{"prompt": "add 1 and 2 .", "a": "3", "b": "4"}] * 2,
        "prompt": "add 1 and 2 .",
        "answers": ["3", "4", "5"],
        "answer": "3",
        "reference": "4",
        "GRPOTrainer": GRPOTrainer,
        "args": args,
        "data": Dataset.from_list([{"prompt": "add 1 and 2 ."}]),
        "create_app": create_app,
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the rubric of docs/judging.md."""
    blocks = code_blocks(ROOT / "docs/judging.md")
    (rubric,) = [block for block in blocks if block.language == "yaml" and block.code.startswith("criteria")]
    (tmp_path / "rubric.yaml").write_text(rubric.code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def values(judge: Judge, tiny_model: Path) -> Iterator[dict[str, str]]:
    """Text of an example -> what stands for it here."""
    with ExitStack() as stack:
        shared = stack.enter_context(SharedJudge(judge))
        url = stack.enter_context(running(create_app(shared)))
        yield {
            "Judge.from_recipe(": "from_recipe(",
            "http://127.0.0.1:8080": url,
            "Qwen/Qwen2.5-0.5B-Instruct": str(tiny_model),
            "train_dataset=rows": "train_dataset=data",
            "serve(judge, port=8080, ": "app = create_app(judge, ",
            # On a CPU, and with two samples in place of eight.
            "num_generations=8, per_device_train_batch_size=8": SMALL,
        }


def run(block: CodeBlock, values: dict[str, str], names: dict[str, Any]) -> None:
    exec(compile(replaced(block.code, values), block.place, "exec"), names)


def test_the_examples_of_the_judging_page_run(
    names: dict[str, Any], folder: Path, values: dict[str, str]
) -> None:
    blocks = [block for block in BLOCKS["docs/judging.md"] if block.heading not in ELSEWHERE]
    assert len(blocks) >= 4
    results = []
    for block in blocks:
        run(block, values, names)
        results.append(names.get("result"))
    compared = {id(result): result for result in results if isinstance(result, Comparison)}
    assert len(compared) == 2, "one with the rubric, one without"
    assert set(results[-1].criteria) == {"accuracy", "brevity", "polite"}
    assert names["rating"].outcome in ("ok", "unparsed", "truncated")
    assert names["verdict"].probs is not None or names["verdict"].outcome != "ok"


def test_the_examples_of_the_other_pages_run(
    names: dict[str, Any], folder: Path, values: dict[str, str]
) -> None:
    for page in ("README.md", "docs/reward.md"):
        assert BLOCKS[page]
        for block in BLOCKS[page]:
            if block.heading not in ELSEWHERE:
                run(block, values, names)
    assert isinstance(names["result"], Comparison)
    assert names["trainer"].reward_func_names == ["judge_group", "judge_reference"]
