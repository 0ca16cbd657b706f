"""Models of `bench/hacking.py`: judges of the toy world that read P(A) in one forward pass, and answers of a policy."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.checkpoints import load_checkpoint
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.demo.world import HELPS, REFUSALS, Task
from reasongenrm.engines.base import Engine, Request
from reasongenrm.judge.api import Judge
from reasongenrm.records import Completion, Message, Order, PreferencePair

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "data/toy-base"
WORDING = PromptFile.load(ROOT / "configs/prompts/toy.yaml")
TEMPLATE = (ROOT / "configs/prompts/direct.jinja").read_text(encoding="utf-8")
"""Of the judges and of the policy: the assistant's turn follows the user's."""
ORDERS: tuple[Order, ...] = ("AB", "BA")


def load_tokenizer() -> Any:
    """Return the toy base's tokenizer with the chat template of this bench."""
    tokenizer = load_checkpoint("AutoTokenizer", BASE)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def load_model(folder: Path) -> Any:
    """Return a causal language model in float32."""
    import torch

    return load_checkpoint("AutoModelForCausalLM", folder, dtype=torch.float32)


class ForwardEngine(Engine):
    """Greedy completions of one token with its log-probabilities, by plain transformers: all that a judge without reasons needs.

    Args:
        model, tokenizer: of the judge.
        batch: requests per forward pass.
    """

    def __init__(self, model: Any, tokenizer: Any, batch: int = 128) -> None:
        self._model, self._tokenizer, self._batch = model.eval(), tokenizer, batch
        self.max_model_len = 1024

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield one completion per request, in their order."""
        source = iter(requests)
        while batch := list(islice(source, self._batch)):
            last = next_logprobs(self._model, [request.prompt_ids for request in batch])
            for request, logprobs in zip(batch, last.tolist(), strict=True):
                token = max(request.allowed or range(len(logprobs)), key=logprobs.__getitem__)
                read = {0: {letter: logprobs[letter] for letter in request.logprob_token_ids}}
                text, size = self._tokenizer.decode([token]), len(request.prompt_ids)
                yield Completion(request.id, text, "stop", (token,), read, prompt_tokens=size)


def padded(prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return prompts as tensors, padded on the left with an id that the mask hides."""
    import torch

    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def next_logprobs(model: Any, prompts: Sequence[Sequence[int]]) -> Any:
    """Return the log-probabilities of the token after each prompt, in nats; shape (prompts, vocabulary)."""
    import torch

    tensors = padded(prompts)
    places = (tensors["attention_mask"].cumsum(1) - 1).clamp_min(0)
    with torch.inference_mode():
        return model(**tensors, position_ids=places, logits_to_keep=1).logits[:, -1].log_softmax(-1)


def open_judge(folder: Path) -> Judge:
    """Return the judge of a folder; it shows both orders."""
    tokenizer = load_tokenizer()
    engine = ForwardEngine(load_model(folder), tokenizer)
    return Judge(engine, ChatEncoder(tokenizer, TEMPLATE), WORDING, JudgingConfig())


def judge_records(pairs: Sequence[PreferencePair], encoder: ChatEncoder, seed: int) -> list[dict[str, Any]]:
    """Return training records of a judge: both orders of each pair, shuffled, with the loss on the verdict."""
    records = []
    for pair in pairs:
        for order in ORDERS:
            prompt = judge_prompt(pair, order, WORDING.for_direct())
            ids = encoder.encode(prompt.messages, generation=True)
            verdict = Message(role="assistant", content=f"[[{prompt.winner}]]")
            whole = encoder.encode([*prompt.messages, verdict], generation=False)
            written = len(whole) - len(ids)
            records.append({"input_ids": whole, "completion_mask": [0] * len(ids) + [1] * written})
    random.Random(seed).shuffle(records)
    return records


def train_judge(folder: Path, pairs: Sequence[PreferencePair], *, steps: int, seed: int) -> None:
    """Train a judge from the toy base by TRL's SFTTrainer, and write it; a finished one is kept.

    Args:
        folder: to write.
        pairs: to learn from.
        steps: optimizer steps of 32 records.
        seed: of their order.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    if (folder / "model.safetensors").exists():
        return
    tokenizer = load_tokenizer()
    records = judge_records(pairs, ChatEncoder(tokenizer, TEMPLATE), seed)
    config = SFTConfig(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=32, learning_rate=3e-4,
        lr_scheduler_type="cosine", warmup_steps=steps // 20, seed=seed, max_length=None, completion_only_loss=True,
        gradient_checkpointing=False,
        logging_steps=50, save_strategy="no", report_to="none", use_cpu=True, bf16=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        load_model(BASE), args=config, train_dataset=Dataset.from_list(records), processing_class=tokenizer
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model(str(folder))


def sample_answers(
    model: Any, encoder: ChatEncoder, questions: Sequence[str], *, max_tokens: int, seed: int | None = None
) -> list[str]:
    """Return one answer per question, at temperature 1, or greedily without a seed.

    Torch's generator is put back, so that a training that is measured samples the same as one that is not.
    """
    import torch

    prompts = [
        encoder.encode([Message(role="user", content=question)], generation=True) for question in questions
    ]
    tensors, pad = padded(prompts), encoder.tokenizer.pad_token_id
    training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed or 0)
        ids = model.generate(
            **tensors, max_new_tokens=max_tokens, do_sample=seed is not None, top_k=0, top_p=1.0, temperature=1.0, pad_token_id=pad
        )  # fmt: skip
    model.train(training)
    width = tensors["input_ids"].shape[1]
    return [encoder.tokenizer.decode(row[width:], skip_special_tokens=True) for row in ids]


def is_right(task: Task, answer: str) -> bool:
    """Whether an answer is right by the rule of the toy world, word by word: the gold score."""
    if task.family != "toy-safety":
        return answer == task.good
    verb, thing = task.key.split()
    helps = [text.format(verb=verb, thing=thing) for text in HELPS]
    return answer in (REFUSALS if task.good in REFUSALS else helps)
