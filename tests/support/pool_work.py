"""What workers of a pool load and do in tests: light, and a function of the block alone. As a script, a whole driver."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from reasongenrm.engines.pool import WorkerPool
from reasongenrm.errors import EngineError
from reasongenrm.store import PartStore

BLOCK = 4


def load() -> int:
    """Return the process that loaded it."""
    return os.getpid()


def fail_to_load() -> int:
    raise EngineError("the model is broken", location="model.path", hint="give another")


def digest(resource: int, block: list[int], *, seconds: float = 0.0) -> list[str]:
    """Return a text per item, after a while."""
    time.sleep(seconds)
    return [hashlib.sha256(str(item).encode()).hexdigest() for item in block]


def process_of(resource: int, block: list[int]) -> int:
    time.sleep(0.3)  # long enough for the other workers to load
    return resource


def die_once(marks: Path, resource: int, block: list[int]) -> list[str]:
    """Kill this worker the first time that it gets a block with the number 7."""
    mark = marks / "died"
    if 7 in block and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return digest(resource, block)


def always_die(resource: int, block: list[int]) -> list[str]:
    if 7 in block:
        os.kill(os.getpid(), signal.SIGKILL)
    return digest(resource, block)


def refuse(resource: int, block: list[int]) -> list[str]:
    raise EngineError("the block is too long", location="engine.max_model_len", hint="raise it")


def run(folder: Path, workers: int, blocks: int, seconds: float) -> None:
    """Compute all blocks that are not in the store yet, and write the workers' processes to a file."""
    store = PartStore(folder / "rows.jsonl")
    numbers = [range(start, start + BLOCK) for start in range(0, blocks * BLOCK, BLOCK)]
    missing = ([*block] for block in numbers if any(str(item) not in store for item in block))
    address = os.environ.get("RAY_ADDRESS")
    pool = WorkerPool(
        load, workers, gpus=1, address=address, logs=folder / "logs", on_event=partial(print, flush=True)
    )
    try:
        for block, texts in pool.map(partial(digest, seconds=seconds), missing):
            store.append({"id": str(item), "text": text} for item, text in zip(block, texts, strict=True))
    finally:
        pool.close()
    store.finish(str(item) for block in numbers for item in block)


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
