"""ZeRO-3 on three processes, which do not divide the batch: parameters are split, and what is saved is whole all the same,
also after a kill, and the same as that of ZeRO-2 on two."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from support.scripts import TRAIN, Bench, Chain, kill_at, rows_of, value_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STAGE_1 = ("pairs.jsonl", "sft.jsonl", "genrm.jsonl", "general.jsonl")


def test_zero_3_saves_the_adapter_that_zero_2_saves(
    chain: Chain,
    bench: Callable[[str, Sequence[str]], Bench],
    toy_overrides: list[str],
    taught_model: Path,
) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = ["scalar=null", "judges={reasongenrm: {template: reason, general: true}}"]
    # Six passes for a batch of four: in every step, two processes have one without a record.
    recipe += ["train.launch_args=--num_processes 3", "train.args.per_device_train_batch_size=1"]
    made = bench("zero3", [*toy_overrides, *recipe, "train.launch=configs/accelerate/cpu-2proc-zero3.yaml"])
    folder = made.folder("split")
    folder.mkdir(parents=True)
    for name in STAGE_1:
        shutil.copy(chain.folder / name, folder / name)
    work = folder / "judges" / "reasongenrm.partial"
    checkpoint = work / "checkpoints" / "checkpoint-3"
    kill_at(made.fork(TRAIN, "split"), (checkpoint / "whole").exists, 0.3, group=False, seed=8)
    assert list(checkpoint.glob("global_step3/*zero_pp_rank_2*")), "each process wrote its own part"
    made.good(TRAIN, "split")
    assert not work.exists()

    adapters = [side / "judges" / "reasongenrm" / "adapter" for side in (folder, chain.folder)]
    ours, theirs = (load_file(adapter / "adapter_model.safetensors") for adapter in adapters)
    assert ours.keys() == theirs.keys()
    for key, weights in ours.items():
        assert weights.shape == theirs[key].shape and weights.dtype == theirs[key].dtype, key
        assert weights.numel() > 0 and bool(weights.any()), f"{key} was not gathered"
        torch.testing.assert_close(weights, theirs[key], rtol=1e-3, atol=1e-5)

    tokenizer = AutoTokenizer.from_pretrained(adapters[0])
    encoder = ChatEncoder(tokenizer, tokenizer.chat_template)
    row = rows_of(folder / "sft.jsonl")[0]
    asked = encoder.encode(row["prompt"], generation=True)
    ids = torch.tensor([asked + encoder.completion(row["reason"], row["response"])])

    def logits(adapter: Path | None) -> Any:
        model = AutoModelForCausalLM.from_pretrained(taught_model, dtype=torch.float32)
        with torch.inference_mode():
            return (PeftModel.from_pretrained(model, str(adapter)) if adapter else model).eval()(ids).logits

    split, whole, base = (logits(adapter) for adapter in (*adapters, None))
    torch.testing.assert_close(split, whole, rtol=1e-3, atol=1e-4)
    assert float((split - base).abs().max()) > 0.01, "the adapter does something"

    losses, expected = (
        value_of(side / "judges" / "reasongenrm" / "loss.json") for side in (folder, chain.folder)
    )
    assert [entry["step"] for entry in losses] == [entry["step"] for entry in expected]
    for entry, other in zip(losses, expected, strict=True):
        assert entry["loss"] == pytest.approx(other["loss"], rel=1e-4)
