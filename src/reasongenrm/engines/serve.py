"""vLLM's stock servers as child processes of this one, on free loopback ports."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reasongenrm.config.engines import EngineConfig, ModelConfig, OpenAIConfig, VLLMServerConfig, check_model
from reasongenrm.engines.base import Request
from reasongenrm.engines.openai import OpenAIEngine
from reasongenrm.engines.options import engine_environment, engine_options, memory_hint
from reasongenrm.errors import EngineError
from reasongenrm.processes import cores, die_with_parent
from reasongenrm.records import Completion

BASE = "base"
TAIL = 15
"""Lines of a server's log that an error shows."""
KEY = "REASONGENRM_SERVER_KEY"
"""The environment variable with the key of these servers."""


class VLLMServers:
    """Replicas of one model behind stock vLLM servers, each with all adapters; requests go to the least busy one.

    A server listens on loopback only, requires a random key, ends with this process, and writes its log to a file.

    Args:
        model: the base model.
        config: serving options; each replica takes `tensor_parallel` GPUs.
        servers: number of replicas, and time limits.
        adapters: LoRA folders to serve on top of the base.
        max_lora_rank: the highest rank among them.
        seed: of the engines.
        logs: folder for the logs; a temporary one, deleted by `close`, when None.
        on_event: called with one line about each event that the user should see.

    Raises:
        EngineError: a server ends or does not answer in time; the error shows the end of its log.
    """

    block: int | None = None

    def __init__(
        self,
        model: ModelConfig,
        config: EngineConfig,
        servers: VLLMServerConfig,
        *,
        adapters: Iterable[str] = (),
        max_lora_rank: int = 0,
        seed: int = 0,
        logs: Path | None = None,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        check_model(model.path, key="model.path")
        self.max_model_len = config.max_model_len
        self._names: dict[str | None, str] = {None: BASE}
        self._names |= {path: f"adapter-{number}" for number, path in enumerate(adapters, 1)}
        os.environ.setdefault(KEY, secrets.token_hex(16))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._engines: dict[str, OpenAIEngine] = {}
        folder = logs or Path(tempfile.mkdtemp(prefix="reasongenrm-servers-"))
        folder.mkdir(parents=True, exist_ok=True)
        self._temporary = None if logs else folder
        try:
            started = [
                self._start(_command(model, config, servers, self._names, max_lora_rank, seed), number, config, folder)
                for number in range(servers.replicas)
            ]  # fmt: skip
            for number, (url, process) in enumerate(started):
                _wait(url, process, servers.startup_seconds, folder / f"server-{number}.log")
        except BaseException:
            self.close()
            raise
        urls = [f"{url}/v1" for url, _ in started]
        self._engines = {
            name: OpenAIEngine(
                OpenAIConfig(kind="openai", urls=urls, model=name, api_key_env=KEY, timeout=servers.timeout,
                             max_concurrent=min(1000, 2 * (config.max_num_seqs or 500))),
                max_model_len=config.max_model_len, key="evaluate.server", on_event=on_event,
            )
            for name in self._names.values()
        }  # fmt: skip

    def _start(
        self, command: list[str], number: int, config: EngineConfig, folder: Path
    ) -> tuple[str, subprocess.Popen[bytes]]:
        port = _free_port()
        log = folder / f"server-{number}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=_environment(number, config),
                preexec_fn=die_with_parent,  # one system call, so safe after a fork
            )
        self._processes.append(process)
        return f"http://127.0.0.1:{port}", process

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield completions as they are done; see `OpenAIEngine`.

        Raises:
            EngineError: the adapter is not one of `adapters`.
        """
        if adapter not in self._names:
            raise EngineError(
                f"the servers were started without the adapter {adapter}", location="evaluate.server", hint="restart them"
            )  # fmt: skip
        return self._engines[self._names[adapter]].complete(requests)

    def reset_prefix_cache(self) -> None:
        """Do nothing: results of a server depend on its other requests in any case."""

    def close(self) -> None:
        """End the servers."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._processes and self._temporary and self._engines:  # keep the logs of a failed start
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._processes.clear()


def _command(
    model: ModelConfig,
    config: EngineConfig,
    servers: VLLMServerConfig,
    names: Mapping[str | None, str],
    rank: int,
    seed: int,
) -> list[str]:
    # `vllm serve` reads the metadata of a package named vllm, which the CPU build does not have.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    options: dict[str, Any] = {"host": "127.0.0.1", "served_model_name": BASE}
    options |= engine_options(model, config, max_lora_rank=rank, seed=seed)
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            command += [f"--{flag}", str(value)]
    served = [f"{name}={Path(path).resolve()}" for path, name in names.items() if path]
    if served:
        command += ["--lora-modules", *served]
    return [*command, *servers.args]


def _environment(number: int, config: EngineConfig) -> dict[str, str]:
    environment = os.environ | {"VLLM_API_KEY": os.environ[KEY]} | engine_environment(config, os.environ)
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(n) for n in range(_gpus())]
    if devices:
        width = config.tensor_parallel
        mine = devices[number * width : (number + 1) * width]
        if len(mine) < width:
            raise EngineError(
                f"replica {number} needs {width} GPUs, but {len(mine)} of {len(devices)} are left",
                location="evaluate.server.replicas",
                hint="lower replicas or engine.tensor_parallel",
            )
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        return environment
    for limit in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        environment.setdefault(limit, str(2**31 - 1))  # as `keep_freed_memory` in process
    if cores() > 1:  # else the server's thread delays the engine's threads at every step
        environment.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "1")
    return environment


def _gpus() -> int:
    import torch

    return int(torch.cuda.device_count())


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(url: str, process: subprocess.Popen[bytes], seconds: float, log: Path) -> None:
    """Wait until a server answers.

    Raises:
        EngineError: it ended, or took too long.
    """
    import httpx

    end = time.monotonic() + seconds
    while True:
        code = process.poll()
        if code is not None or time.monotonic() > end:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:])
            problem = (
                f"ended with code {code}" if code is not None else f"does not answer after {seconds:g} s"
            )
            raise EngineError(
                f"a vLLM server {problem}; the end of its log:\n{tail}\n",
                location=str(log),
                hint=memory_hint(tail) or "read the log, and check model, engine and evaluate.server",
            )
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
