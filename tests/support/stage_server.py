"""Runs the command line, or some Python, many times without importing libraries many times: each run is a fork of this process.

One request per line on stdin: a JSON object with the `words` of the command line or `code` in Python, its `folder` and
`environment`, and the files that are its three `streams`. Answers on stdout: `started PID`, and when the child has ended `ended PID CODE`.
"""

# ruff: noqa: E402 (what is set before the imports speeds them up)

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

gc.disable()  # it takes half of the time to import
os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

# What the stages import; no thread and no engine is started by this, so that a fork is a fresh process.
import accelerate
import accelerate.commands.launch
import datasets
import peft
import torch
import torch.distributed.run
import transformers
import trl
import vllm.v1.worker.cpu_model_runner
import vllm.v1.worker.cpu_worker
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer
from trl import DPOTrainer, GRPOTrainer, SFTTrainer
from vllm import LLM  # `import vllm` alone loads next to nothing
from vllm.model_executor.models import qwen2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what tests run may import tests/support

from reasongenrm.cli import main
from reasongenrm.processes import die_with_parent
from reasongenrm.stages import evaluate, prepare, preview, scalar, train
from support.forked_programs import start_spawner, whole_program

LOADED = (
    accelerate, datasets, peft, torch, transformers, trl, vllm, AutoModelForCausalLM, AutoTokenizer, DPOTrainer, GRPOTrainer, LLM,
    SFTTrainer, Trainer, evaluate, prepare, preview, qwen2, scalar, train,
)  # fmt: skip


def run(request: dict[str, Any]) -> None:
    """Become the command line, or a Python program."""
    die_with_parent()  # no stage outlives tests that were killed
    os.setsid()
    for number, (name, mode) in enumerate(zip(request["streams"], ("rb", "wb", "wb"), strict=True)):
        with open(name, mode) as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    # As if the command line had been started: processes that the stage spawns do not import all of the above.
    sys.modules["__main__"].__file__ = str(Path(sys.prefix, "bin", "reasongenrm"))
    if request["code"]:
        exec(request["code"], {"__name__": "__main__"})
        return
    if request["words"][0] == "train":
        start_spawner()  # before the stage has an engine
    sys.argv = ["reasongenrm", *request["words"]]
    sys.exit(main())


def serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            with whole_program():
                run(json.loads(line))
        print(f"started {child}", flush=True)
        _, status = os.waitpid(child, 0)
        print(f"ended {child} {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    die_with_parent()
    assert threading.active_count() == 1, threading.enumerate()
    gc.freeze()
    gc.enable()
    print("ready", flush=True)
    serve()
