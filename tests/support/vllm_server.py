"""A stock vLLM server on loopback, as others run them."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from support.scripts import Fork, stage_server

# `vllm serve` reads the metadata of a package named vllm, which the CPU build does not have.
# Libraries are imported once for all servers: this one is a fork, and so is its engine, which vLLM's CPU build would start as a new
# program. Nor does it collect garbage, which takes a third of the time to start; nothing else differs.
SERVE = """
import gc, multiprocessing, os, runpy, sys
from reasongenrm.processes import die_with_parent
gc.disable()
os.register_at_fork(after_in_child=die_with_parent)
log = os.open({log!r}, os.O_WRONLY | os.O_CREAT)
os.dup2(log, 1)
os.dup2(log, 2)
context = multiprocessing.get_context
multiprocessing.get_context = lambda method=None: context("fork")
sys.argv = ["vllm", *{words!r}]
runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
"""


@contextmanager
def vllm_server(model: str | Path, key: str, log: Path, options: Sequence[str] = ()) -> Iterator[str]:
    """Serve a model; yield the base URL, such as `http://127.0.0.1:8000/v1`.

    Args:
        model: its folder.
        key: the API key that requests need.
        log: file for the server's output.
        options: more of the command line.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--model", str(model), "--host", "127.0.0.1", "--port", str(port), "--api-key", key]
    words += ["--dtype", "float32", "--max-num-seqs", "8", "--enforce-eager", *options]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    log.touch()
    server = Fork(stage_server(), code=SERVE.format(words=words, log=str(log)), environment=environment)
    try:
        end = time.monotonic() + 480  # a crowded machine
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except httpx.HTTPError:
                tail = log.read_text(errors="replace")[-3000:]
                assert server.poll() is None and time.monotonic() < end, f"no server:\n{tail}"
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if server.poll() is None:
            os.kill(server.pid, signal.SIGTERM)
            if not server.ends_within(20):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait(20)
