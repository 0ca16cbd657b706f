"""`EngineWorkers`: vLLM engines in many workers behind the interface of one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

from reasongenrm.config.engines import EngineConfig, ModelConfig
from reasongenrm.engines.base import Engine, LiveRequest, Request, requests_now
from reasongenrm.engines.pool import WorkerPool
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.records import Completion

Resource = TypeVar("Resource")
Wrap = Callable[[Engine], Engine]


@dataclass(frozen=True)
class _BlockTask:
    """Complete one block on a worker's engine."""

    wrap: Wrap | None
    adapter: str | None

    def __call__(self, engine: VLLMEngine, block: Sequence[Request]) -> list[Completion]:
        wrapped = engine.wrapped(self.wrap) if self.wrap else engine
        [completions] = wrapped.complete_blocks([block], adapter=self.adapter)
        return completions


class EngineWorkers(Engine):
    """Engines of one model in many workers.

    Args:
        model: the base model.
        config: serving options; each worker takes `tensor_parallel` GPUs.
        seed, max_lora_rank: see `VLLMEngine`.
        task, logs: see `WorkerPool`.
        on_event: called with one line about each event that the user should see.

    Attributes:
        max_model_len, block: those of the engines.
    """

    block: int

    def __init__(
        self,
        model: ModelConfig,
        config: EngineConfig,
        *,
        seed: int,
        max_lora_rank: int = 0,
        task: str = "vLLM",
        logs: Path | None = None,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        load = partial(VLLMEngine, model, config, seed=seed, max_lora_rank=max_lora_rank)
        self.max_model_len = config.max_model_len
        self._pool = worker_pool(
            load,
            config,
            gpus=config.tensor_parallel,
            facts=_block_size,
            task=task,
            logs=logs,
            on_event=on_event,
        )
        self.block = self._pool.facts
        self._on_event = on_event
        self._wrap: Wrap | None = None
        self._tasks: dict[tuple[int, str | None], _BlockTask] = {}

    def wrapped(self, wrap: Wrap) -> Self:
        """Return the same workers, whose engines are wrapped; keep `wrap`, for it is sent to a worker only once."""
        view = object.__new__(type(self))
        vars(view).update(vars(self) | {"_wrap": wrap})
        return view

    def _task(self, adapter: str | None) -> _BlockTask:
        # The task keeps `wrap`, so that no other object gets its id.
        return self._tasks.setdefault((id(self._wrap), adapter), _BlockTask(self._wrap, adapter))

    def complete_blocks(
        self, blocks: Iterable[Sequence[Request]], *, adapter: str | None = None
    ) -> Generator[list[Completion], None, None]:
        """Yield the completions of each block as a worker is done with it; see `Engine.complete_blocks`."""
        with closing(self._pool.map(self._task(adapter), blocks)) as results:
            for _, completions in results:
                yield completions

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield completions, the requests divided evenly among the workers; they are taken a block per worker at a time."""
        source = iter(requests)
        while window := list(islice(source, self.block * len(self._pool))):
            for completions in self.complete_blocks(self._shares(window), adapter=adapter):
                yield from completions

    def complete_live(
        self, requests: Iterable[LiveRequest], *, adapter: str | None = None
    ) -> Generator[Completion, None, None]:
        """Yield completions as a worker is done with a block; what is there now goes to the workers that are free."""
        source = iter(requests)

        def blocks() -> Iterator[Sequence[Request] | None]:
            while True:
                yield from self._shares(requests_now(source, self.block * len(self._pool)))
                yield None

        with closing(self._pool.map(self._task(adapter), blocks())) as results:
            for _, completions in results:
                yield from completions

    def _shares(self, window: list[Request]) -> Iterator[list[Request]]:
        """Divide requests evenly among the workers."""
        share = -(-len(window) // len(self._pool)) or 1
        return (window[start : start + share] for start in range(0, len(window), share))

    def close(self) -> None:
        """End the workers."""
        self._on_event(self._pool.summary())
        self._pool.close()


def _block_size(engine: VLLMEngine) -> int | None:
    return engine.block


def worker_count(config: EngineConfig, gpus: int) -> int | None:
    """Return the number of workers of so many GPUs each; None: as many as those of the Ray cluster are enough for."""
    if config.workers != "auto":
        return config.workers
    if config.ray_address:
        return None
    import torch

    return max(1, torch.cuda.device_count() // gpus)


def needs_workers(config: EngineConfig, gpus: int) -> bool:
    """Whether work goes to Ray workers of so many GPUs: more than one, or a cluster; one computes in this process."""
    return worker_count(config, gpus) != 1 or config.ray_address is not None


def worker_pool(
    load: Callable[[], Resource],
    config: EngineConfig,
    *,
    gpus: int,
    facts: Callable[[Resource], Any],
    task: str,
    logs: Path | None = None,
    on_event: Callable[[str], None] = lambda text: None,
) -> WorkerPool[Resource]:
    """Return the workers that a recipe asks for, each with so many GPUs where there are any; see `WorkerPool`."""
    count, address = worker_count(config, gpus), config.ray_address
    return WorkerPool(
        load, count, gpus=gpus, address=address, facts=facts, task=task, logs=logs, on_event=on_event
    )
