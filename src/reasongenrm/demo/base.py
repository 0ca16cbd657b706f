"""Pretrain the toy base: a byte-level BPE tokenizer and a Qwen2 of about 0.9M parameters.

`reasongenrm toy base --out data/toy-base` does it in about an hour on one core.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.checkpoints import load_checkpoint
from reasongenrm.demo.corpus import BROAD, HARD, ChatMixture, chats
from reasongenrm.store import write_json

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

SHAPE = dict(
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)
BLOCK = 256
"""Tokens per training row; chats are joined end to end."""
ROWS = 16
"""Rows per optimizer step."""
VOCABULARY = 1200


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of pretraining.

    Attributes:
        mixture: of the chats.
        steps: optimizer steps of ROWS rows.
        lr: peak learning rate.
    """

    mixture: ChatMixture
    steps: int
    lr: float


PHASES = (Phase(BROAD, steps=4500, lr=3e-3), Phase(HARD, steps=1500, lr=1.5e-3))


def train_tokenizer(prompts: PromptFile, template: str, seed: int) -> Any:
    """Train the byte-level BPE tokenizer on the toy corpus; it encodes every text, unknown words as bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    # Qwen2's own class and splitting rule: transformers and vLLM load that class for every Qwen2 model.
    qwen = Qwen2Tokenizer()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = qwen._tokenizer.normalizer
    tokenizer.pre_tokenizer = qwen._tokenizer.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        "\n".join(f"{m['role']}\n{m['content']}" for m in chat)
        for chat in islice(chats(seed, prompts), 20_000)
    )
    tokenizer.train_from_iterator(texts, trainer)
    bpe = json.loads(tokenizer.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(pair) for pair in bpe["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        extra_special_tokens=[AddedToken("<|im_start|>", special=True)],
        chat_template=template,
        model_max_length=SHAPE["max_position_embeddings"],
    )


def blocks(
    seed: int, prompts: PromptFile, encoder: ChatEncoder, mixture: ChatMixture
) -> Iterator[dict[str, list[int]]]:
    """Yield training rows of BLOCK tokens: chats joined end to end and cut at the end of a block.

    Labels leave out the user's turns.
    """
    ids: list[int] = []
    labels: list[int] = []
    for chat in chats(seed, prompts, mixture):
        chat_ids = encoder.encode(chat, generation=False)
        user = len(encoder.encode(chat[:1], generation=False))
        ids += chat_ids
        labels += [-100] * user + chat_ids[user:]
        while len(ids) >= BLOCK:
            yield {"input_ids": ids[:BLOCK], "labels": labels[:BLOCK]}
            ids, labels = ids[BLOCK:], labels[BLOCK:]


def untrained_model(tokenizer: Any, **shape: Any) -> Any:
    """Return a Qwen2 in float32 for the tokenizer; the arguments replace those of SHAPE."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2Config(vocab_size=len(tokenizer), bos_token_id=None, **ids, **SHAPE | shape)
    return Qwen2ForCausalLM(config).to(torch.float32)


def _train(model: Any, phase: Phase, rows: Any, checkpoints: Path, seed: int) -> float:
    """Train for one phase (cosine, 2% warm-up) and return its mean loss in nats."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    args = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=phase.steps,
        per_device_train_batch_size=ROWS,
        learning_rate=phase.lr,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, phase.steps // 50),
        weight_decay=0.05,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        logging_steps=100,
        save_strategy="no",
        report_to="none",
        seed=seed,
        use_cpu=True,
        torch_compile=phase.steps >= 100,  # compiling takes a minute and halves the time of a step
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=args, train_dataset=rows, data_collator=default_data_collator)
    return float(trainer.train().training_loss)


def build_base(out: Path, *, seed: int) -> None:
    """Pretrain the toy base and write a Hugging Face folder (safetensors, tokenizer, chat template).

    A finished phase is kept in `<out>.phases/`; a build that was killed continues after it.

    Args:
        out: folder to write.
        seed: of initial weights and corpus.
    """
    from datasets import IterableDataset
    from transformers import set_seed

    prompts = PromptFile.load("configs/prompts/toy.yaml")  # its hindsight layout is part of the corpus
    template = Path("configs/prompts/reason.jinja").read_text(encoding="utf-8")
    work = out.with_name(out.name + ".phases")
    folders = [work / str(number) for number in range(len(PHASES))]
    for number, (phase, folder) in enumerate(zip(PHASES, folders, strict=True)):
        if (folder / "config.json").exists():
            continue
        set_seed(seed + number)
        if number == 0:
            tokenizer = train_tokenizer(prompts, template, seed)
            model = untrained_model(tokenizer)
        else:
            tokenizer = load_checkpoint("AutoTokenizer", folders[number - 1])
            model = load_checkpoint("AutoModelForCausalLM", folders[number - 1])
        source = partial(blocks, seed + number, prompts, ChatEncoder(tokenizer, template), phase.mixture)
        loss = _train(model, phase, IterableDataset.from_generator(source), work / "checkpoints", seed)
        tokenizer.save_pretrained(folder)
        write_json(folder / "pretraining.json", {"seed": seed, "rows_per_step": ROWS, "tokens_per_row": BLOCK,
                                                 "phases": list(map(asdict, PHASES[: number + 1])), "loss": loss})  # fmt: skip
        model.save_pretrained(folder)
    folders[-1].rename(out)
    shutil.rmtree(work)
