"""Starts stage 1 many times without importing its libraries many times: each start is a fork of this process.

One request per line on stdin: a JSON list of the recipe and its overrides. Answers on stdout: `started PID`, and when
the child has ended `ended PID CODE`. The child runs the stage as the command line does.
"""

from __future__ import annotations

import json
import os
import sys
import threading

# What the stage imports; no thread and no engine is started by this, so that a fork is a fresh process.
import torch
import transformers
import trl
import vllm.v1.worker.cpu_model_runner
import vllm.v1.worker.cpu_worker
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm import LLM  # `import vllm` alone loads next to nothing
from vllm.model_executor.models import qwen2

from reasongenrm.cli import main
from reasongenrm.stages import prepare

LOADED = (torch, transformers, trl, vllm, LLM, qwen2, AutoModelForCausalLM, AutoTokenizer, prepare)


def serve() -> None:
    for line in sys.stdin:
        words = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setsid()
            devnull = os.open(os.devnull, os.O_RDWR)
            os.dup2(devnull, 0)
            os.dup2(devnull, 1)
            os._exit(main(words))
        print(f"started {child}", flush=True)
        _, status = os.waitpid(child, 0)
        print(f"ended {child} {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    assert threading.active_count() == 1, threading.enumerate()
    print("ready", flush=True)
    serve()
