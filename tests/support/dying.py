"""An engine that dies after a number of completions, and torn files."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from reasongenrm.engines.base import Engine, Request
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.records import Completion


class Killed(Exception):
    """Represents SIGKILL: the suite does not catch it."""


class DyingEngine(Engine):
    """The real engine with small blocks; it dies before it yields its `lives + 1`-th completion."""

    def __init__(self, engine: VLLMEngine, lives: int, *, block: int | None = 8, context: int = 0) -> None:
        self.engine, self.lives, self.block = engine, lives, block
        self.max_model_len = context or engine.max_model_len
        self.requested_ids: list[str] = []

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        requests = list(requests)
        self.requested_ids += [request.id for request in requests]
        for completion in self.engine.complete(requests, adapter=adapter):
            if self.lives == 0:
                raise Killed
            self.lives -= 1
            yield completion

    def reset_prefix_cache(self) -> None:
        self.engine.reset_prefix_cache()


IMMORTAL = 10**9


def tear(path: Path, rng: random.Random) -> None:
    """Cut the last bytes off a file, as a kill in the middle of a write does."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.randint(max(0, len(content) - 200), len(content))])
