"""Runs the command line many times without importing its libraries many times: each run is a fork of this process.

One request per line on stdin: a JSON object with the `words` of the command line, its `environment`, and the files that
are its three `streams`. Answers on stdout: `started PID`, and when the child has ended `ended PID CODE`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

# What the stages import; no thread and no engine is started by this, so that a fork is a fresh process.
import accelerate
import datasets
import peft
import torch
import transformers
import trl
import vllm.v1.worker.cpu_model_runner
import vllm.v1.worker.cpu_worker
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer
from trl import SFTConfig
from vllm import LLM  # `import vllm` alone loads next to nothing
from vllm.model_executor.models import qwen2

from reasongenrm.cli import main
from reasongenrm.stages import evaluate, prepare, preview, scalar, train

LOADED = (
    accelerate, datasets, peft, torch, transformers, trl, vllm, AutoModelForCausalLM, AutoTokenizer, LLM, SFTConfig, Trainer,
    evaluate, prepare, preview, qwen2, scalar, train,
)  # fmt: skip


def run(request: dict[str, Any]) -> None:
    """Become the command line."""
    os.setsid()
    for number, (name, mode) in enumerate(zip(request["streams"], ("rb", "wb", "wb"), strict=True)):
        with open(name, mode) as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["reasongenrm", *request["words"]]
    # As if the command line had been started: processes that the stage spawns do not import all of the above.
    sys.modules["__main__"].__file__ = str(Path(sys.prefix, "bin", "reasongenrm"))
    try:
        code = main()
    except SystemExit as end:
        code = int(end.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                run(json.loads(line))
            except BaseException:
                sys.excepthook(*sys.exc_info())  # the command line's own, which writes to the user's stderr
            finally:
                os._exit(70)
        print(f"started {child}", flush=True)
        _, status = os.waitpid(child, 0)
        print(f"ended {child} {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    assert threading.active_count() == 1, threading.enumerate()
    print("ready", flush=True)
    serve()
