"""One vLLM engine for all tests: it takes seconds to start, and a process can hold only one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.answers.model import AnswerModel
from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.config.engines import EngineConfig, ModelConfig
from reasongenrm.engines.base import Engine, Request
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.records import Completion

TEMPLATES = Path("configs/prompts")


@pytest.fixture(scope="session")
def encoders(toy_tokenizer: Any) -> dict[str, ChatEncoder]:
    """The encoders of both judge templates."""
    return {
        name: ChatEncoder(toy_tokenizer, (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"))
        for name in ("reason", "direct")
    }


@pytest.fixture(scope="session")
def student(tiny_model: Path) -> ModelConfig:
    """The tiny model as in a recipe."""
    return ModelConfig(path=str(tiny_model), dtype="float32")


@pytest.fixture(scope="session")
def engine(student: ModelConfig) -> Iterator[VLLMEngine]:
    """vLLM over the tiny model, ready for adapters; 512 tokens of context, 8 sequences at a time."""
    config = EngineConfig(max_model_len=512, max_num_seqs=8, cpu_kv_gib=1, enforce_eager=True)
    running = VLLMEngine(student, config, max_lora_rank=8)
    yield running
    running.close()


class LentEngine(Engine):
    """The tests' engine, which stays open for others."""

    def __init__(self, engine: VLLMEngine) -> None:
        self._engine = engine
        self.max_model_len, self.block = engine.max_model_len, engine.block

    def reset_prefix_cache(self) -> None:
        self._engine.reset_prefix_cache()

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        yield from self._engine.complete(requests, adapter=adapter)

    def close(self) -> None:
        pass


@pytest.fixture
def engine_of_answers(engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> LentEngine:
    """The tests' engine as that of every answer model without a server."""
    lent, start = LentEngine(engine), AnswerModel.start
    monkeypatch.setattr(AnswerModel, "start", lambda self: start(self) if self.config.server else lent)
    return lent


@pytest.fixture(scope="session")
def adapter(student: ModelConfig, toy_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA folder as training leaves it; its weights are random and have an effect (B is not zero)."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(student.path, dtype=torch.float32)
    generator = torch.Generator().manual_seed(5)
    tuned = get_peft_model(
        base, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    )
    with torch.no_grad():
        for name, weights in tuned.named_parameters():
            if "lora_" in name:
                weights.copy_(torch.randn(weights.shape, generator=generator) * 0.3)
    folder = tmp_path_factory.mktemp("adapter")
    tuned.save_pretrained(folder)
    toy_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def plain_logprobs(student: ModelConfig, adapter: Path) -> Callable[..., Any]:
    """`f(ids, adapted=False)`: transformers' log-softmax over the vocabulary at every position, in float64."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(student.path, dtype=torch.float32).eval()

    models = {False: load(), True: PeftModel.from_pretrained(load(), str(adapter)).eval()}

    def logprobs(ids: Any, adapted: bool = False) -> Any:
        with torch.inference_mode():
            logits = models[adapted](input_ids=torch.tensor([list(ids)])).logits[0]
        return torch.log_softmax(logits.double(), dim=-1)

    return logprobs
