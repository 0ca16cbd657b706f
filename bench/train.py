"""Our SFT step against TRL's defaults, on records of real lengths: useful tokens/s, padding, peak memory, loss.

    python bench/train.py [--processes 1 2] [--records 32] [--steps 3] [--pairs FILE] [--out FILE]

"TRL's defaults" are 8 records per device, padded to the longest, with PyTorch's attention. Ours are the same number of
records, packed (`train.packing: auto`). Every step takes all records, so both ways give the same loss; only its
rounding differs. The lengths are those of real pairs: a quarter of the characters of prompt and both answers, and 200
tokens to learn. The model is a Qwen2 of random weights; on a GPU it has the size of Qwen2.5-7B unless --small is given.
The first step is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from machine import machine

LEARNED = 200
SMALL = dict(
    hidden_size=384, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2
)
QWEN_7B = dict(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
)
WAYS: dict[str, dict[str, Any]] = {
    "TRL's defaults": {"packing": False, "attention": "sdpa"},
    "ours": {"packing": "auto", "attention": "auto"},
}


def lengths(pairs: Path, count: int, longest: int) -> list[int]:
    """Return the tokens of `count` records."""
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    tokens = [
        sum(len(turn["content"]) for turn in [*row["chosen"], row["rejected"][-1]]) // 4 + LEARNED
        for row in rows
    ]
    return random.Random(0).sample([min(length, longest) for length in tokens], count)


def write_inputs(folder: Path, record_lengths: list[int], geometry: dict[str, int], dtype: str) -> None:
    """Write a model of random weights and the tokenised records."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained("data/toy-base")
    torch.manual_seed(0)
    vocabulary = 151_936 if geometry is QWEN_7B else len(tokenizer)
    model = Qwen2ForCausalLM._from_config(
        Qwen2Config(vocab_size=vocabulary, **geometry), dtype=getattr(torch, dtype)
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    draw = random.Random(1)
    Dataset.from_list(
        [
            {
                "input_ids": [draw.randrange(len(tokenizer)) for _ in range(length)],
                "completion_mask": [0] * (length - LEARNED) + [1] * LEARNED,
            }
            for length in record_lengths
        ]
    ).save_to_disk(str(folder / "tokens"))


def run(folder: Path, way: str, processes: int, options: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """Train in `accelerate launch`; return what its first process measured."""
    recipe = yaml.safe_load(Path("configs/demo.yaml").read_text(encoding="utf-8"))
    recipe |= {
        "name": "bench-train",
        "model": {"path": str(folder / "model"), "dtype": dtype},
        "judges": {"bench": {"template": "reason"}},
        "records": {},
        "train": {
            "launch": options.launch,
            "batch": options.records,
            "lora": {"r": 64, "lora_alpha": 128},
            "args": {
                "learning_rate": 1.0e-4,
                "max_steps": options.steps,
                "logging_steps": 1,
                "per_device_train_batch_size": 8,
                "gradient_checkpointing": dtype == "bfloat16",
                "save_strategy": "no",
            },
            **WAYS[way],
        },
    }
    recipe["data"]["max_tokens"] = options.longest
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    result = folder / "result.json"
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", options.launch,
        "--num_processes", str(processes), __file__, "--child", str(path), str(folder), str(result),
    ]  # fmt: skip
    threads = str(max(1, len(os.sched_getaffinity(0)) // processes))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-4000:])
    return json.loads(result.read_text(encoding="utf-8"))


def child(recipe_path: str, folder: str, result: str) -> None:
    """Train, in one process of several; the first one writes what it measured."""
    import torch
    from transformers import TrainerCallback

    from reasongenrm.config.loading import load_recipe
    from reasongenrm.train.sft import build_trainer

    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            moments.append(time.perf_counter())

    trainer = build_trainer(load_recipe(recipe_path), "bench", Path(folder))
    computed = 0
    collate = trainer.data_collator

    def count(examples: list[dict[str, Any]]) -> Any:
        nonlocal computed
        batch = collate(examples)
        computed += batch["input_ids"].numel()
        return batch

    trainer.data_collator = count
    trainer.add_callback(Clock())
    trainer.train()
    computed_everywhere = trainer.accelerator.gather(
        torch.tensor([computed], device=trainer.accelerator.device)
    )
    if trainer.is_world_process_zero():
        gpu = torch.cuda.is_available()
        peak = (
            torch.cuda.max_memory_allocated()
            if gpu
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        )
        measured = {
            "seconds_per_step": (moments[-1] - moments[0]) / (len(moments) - 1),
            "tokens_computed_per_step": computed_everywhere.sum().item() / len(moments),
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
            "peak_gib": peak / 2**30,
        }
        Path(result).write_text(json.dumps(measured), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--records", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--longest", type=int, default=4096)
    parser.add_argument("--pairs", default="../shared/preferences/real_pairs_skywork_schema.jsonl")
    parser.add_argument("--launch", help="accelerate config; by default for CPUs, or zero2.yaml on a GPU")
    parser.add_argument("--small", action="store_true", help="a small model on a GPU, too")
    parser.add_argument("--out", help="also write the results as JSON")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    import torch

    gpu = torch.cuda.is_available()
    options.launch = options.launch or f"configs/accelerate/{'zero2' if gpu else 'cpu-2proc'}.yaml"
    geometry, dtype = (QWEN_7B, "bfloat16") if gpu and not options.small else (SMALL, "float32")
    print(machine())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record_lengths = lengths(Path(options.pairs), options.records, options.longest)
        write_inputs(folder, record_lengths, geometry, dtype)
        useful = sum(record_lengths)
        print(
            f"\n{options.records} records of {min(record_lengths)} to {max(record_lengths)} tokens, {useful} in all\n"
        )
        print("| processes | way | useful tokens/s | padding | peak GiB | losses | ratio |")
        print("|--:|---|--:|--:|--:|---|--:|")
        for processes in options.processes:
            rates = {}
            for way in WAYS:
                measured = run(folder, way, processes, options, dtype)
                rates[way] = useful / measured["seconds_per_step"]
                padding = 1 - useful / measured["tokens_computed_per_step"]
                losses = " ".join(f"{loss:.4f}" for loss in measured["losses"])
                ratio = rates[way] / rates["TRL's defaults"]
                print(
                    f"| {processes} | {way} | {rates[way]:,.0f} | {100 * padding:.0f}% | {measured['peak_gib']:.2f} "
                    f"| {losses} | {ratio:.2f}x |"
                )
                rows.append({"processes": processes, "way": way, "useful_tokens_per_s": rates[way], "padding": padding}
                            | measured)  # fmt: skip
    if options.out:
        Path(options.out).write_text(
            json.dumps({"machine": machine(), "tokens": useful, "rows": rows}, indent=2) + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
