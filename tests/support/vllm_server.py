"""A stock vLLM server on loopback, as others run them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from reasongenrm.processes import die_with_parent


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
    # `vllm serve` reads the metadata of a package named vllm, which the CPU build does not have.
    # Nor does this one collect garbage, which takes a third of the time to start; nothing else differs.
    stock = "import gc, runpy; gc.disable(); runpy.run_module('vllm.entrypoints.openai.api_server', run_name='__main__')"
    command = [sys.executable, "-c", stock, "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", key, "--dtype", "float32"]
    command += ["--max-num-seqs", "8", "--enforce-eager", *options]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process: it is ended as a whole
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, preexec_fn=die_with_parent
        )
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
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
