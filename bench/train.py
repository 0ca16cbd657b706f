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
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from machine import machine

from reasongenrm.config.loading import load_recipe
from reasongenrm.doctor.geometry import QWEN
from reasongenrm.train.launch import launch_command, launch_environment, read_launch

LEARNED = 200
SMALL = dict(
    hidden_size=384, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2
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


def write_inputs(folder: Path, record_lengths: list[int], geometry: dict[str, Any], dtype: str) -> None:
    """Write a model of random weights and the tokenised records."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained("data/toy-base")
    torch.manual_seed(0)
    config = Qwen2Config(**({"vocab_size": len(tokenizer)} | geometry))
    model = Qwen2ForCausalLM._from_config(config, dtype=getattr(torch, dtype))
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
            "launch_args": f"--num_processes {processes}",
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
    train = load_recipe(path).train
    launch = read_launch(train)
    command = launch_command(train, launch, "reasongenrm.doctor.training", str(path), "bench", str(folder))
    done = subprocess.run(command, env=launch_environment(launch), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-4000:])
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    measured: dict[str, Any] = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    return measured


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
    options = parser.parse_args()
    import torch

    gpu = torch.cuda.is_available()
    options.launch = options.launch or f"configs/accelerate/{'zero2' if gpu else 'cpu-2proc'}.yaml"
    geometry, dtype = (QWEN["7b"], "bfloat16") if gpu and not options.small else (SMALL, "float32")
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
        print("| processes | way | useful tokens/s | padding | peak GiB | loss | ratio |")
        print("|--:|---|--:|--:|--:|--:|--:|")
        for processes in options.processes:
            default: float | None = None
            for way in WAYS:
                measured = run(folder, way, processes, options, dtype)
                rate = measured["useful_tokens_per_step"] / measured["seconds_per_step"]
                default = default or rate
                print(
                    f"| {processes} | {way} | {rate:,.0f} | {100 * measured['padding']:.0f}% | {measured['peak_gib']:.2f} "
                    f"| {measured['loss']:.4f} | {rate / default:.2f}x |",
                    flush=True,
                )
                rows.append({"way": way, "useful_tokens_per_s": rate} | measured)
    if options.out:
        Path(options.out).write_text(
            json.dumps({"machine": machine(), "tokens": useful, "rows": rows}, indent=2) + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
