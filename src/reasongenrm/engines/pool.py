"""Many workers, each a Ray actor with an engine or a scorer of its own: blocks of fixed content are leased to them.

A block's results depend on the block alone, so that any number of workers gives the same files. A worker that dies is
replaced, and its block leased again.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from reasongenrm.engines.base import POLL_SECONDS
from reasongenrm.engines.cluster import Session, connect, total
from reasongenrm.engines.worker import Worker, versions
from reasongenrm.errors import EngineError, first_line
from reasongenrm.processes import cores
from reasongenrm.store import read_json, write_json

Resource = TypeVar("Resource")
Block = TypeVar("Block")
Result = TypeVar("Result")

DEATHS = 3
"""Workers that may die on the same block, or one after the other while they load, until the step fails."""
STATUS_SECONDS = 2.0
"""Time between two writings of the status file."""


@dataclass
class WorkerTimes:
    """What one worker did; times in seconds.

    Attributes:
        node: id of its machine.
        loading: until its resource was loaded, its replacements' included.
        busy: computing blocks.
        waiting: for a block, until the last one came.
        blocks: number of blocks computed.
        deaths: how often it had to be replaced.
    """

    node: str = ""
    loading: float = 0.0
    busy: float = 0.0
    waiting: float = 0.0
    blocks: int = 0
    deaths: int = 0


@dataclass
class _Lease:
    """A block, how many workers died on it, and whether its result is not wanted any more."""

    block: Any
    deaths: int = 0
    dropped: bool = False


@dataclass
class _Seat:
    """A place for a worker: its actor now, the blocks that it has (it computes the first), and how many died here while
    they loaded."""

    number: int
    times: WorkerTimes
    actor: Any = None
    slot: tuple[str, int] | None = None
    leases: deque[_Lease] = field(default_factory=deque)
    ready: bool = False
    early_deaths: int = 0
    hired: float = field(default_factory=time.monotonic)


class WorkerPool(Generic[Resource]):
    """Workers that load the same resource; see the module.

    Args:
        load: returns the resource, in the worker's process; it is pickled.
        count: number of workers; None: as many as the GPUs of the session or cluster are enough for, at least one.
        gpus: GPUs per worker; where there are none, the workers share the cores.
        address: of a Ray cluster; None: this machine.
        facts: a function from a resource to what the caller has to know about it.
        task: what the workers do, as `workers.json` names it.
        logs: folder for what libraries print in the workers, and for `workers.json`; None: neither is written.
        on_event: called with one line about each event that the user should see.

    Attributes:
        facts: of the first worker's resource.
        times: per worker.

    Raises:
        EngineError: Ray cannot start, there are fewer GPUs than the workers need, or no worker can load the resource.
    """

    def __init__(
        self,
        load: Callable[[], Resource],
        count: int | None,
        *,
        gpus: int,
        address: str | None = None,
        facts: Callable[[Resource], Any] = lambda resource: None,
        task: str = "work",
        logs: Path | None = None,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._load, self._facts, self._logs, self._say = load, facts, logs, on_event
        self._task = task
        self._session: Session = connect(address, count or 1)
        try:
            self._gpus = gpus if total("GPU") else 0
            self._count = self._checked_count(count)
            self._threads = (
                0 if self._gpus else max(1, (cores() if address is None else total("CPU")) // self._count)
            )
            self.times = [WorkerTimes() for _ in range(self._count)]
            self._seats = [_Seat(number, times) for number, times in enumerate(self.times)]
            self._works: dict[int, tuple[Callable[[Any, Any], Any], Any]] = {}
            self._returned: deque[_Lease] = deque()
            self._pending: dict[Any, _Seat] = {}
            self._status_time = 0.0
            if logs:
                logs.mkdir(parents=True, exist_ok=True)
            for seat in self._seats:
                self._hire(seat)
            self.facts = self._first_facts()
        except BaseException:
            self.close()
            raise

    def _checked_count(self, count: int | None) -> int:
        if not self._gpus:
            return count or 1
        room = total("GPU") // self._gpus
        if count is None:
            count = max(1, room)
        if room < count:
            raise EngineError(
                f"{count} workers of {self._gpus} GPUs each, but Ray has {total('GPU')} GPUs",
                location="engine.workers",
                hint=f"set engine.workers={max(1, room)}, or lower engine.tensor_parallel",
            )
        return count

    def __len__(self) -> int:
        """Return the number of workers."""
        return self._count

    def _hire(self, seat: _Seat) -> None:
        """Create a worker for a seat; it is ready when the result of its `start` comes."""
        import ray

        resources = {"num_gpus": self._gpus} if self._gpus else {"num_cpus": self._threads}
        if self._session.local and not self._gpus:
            resources = {"num_cpus": 0}  # more workers than cores share them
        # No restarts by Ray: a new actor has nothing loaded.
        seat.actor = ray.remote(Worker).options(max_restarts=0, max_task_retries=0, **resources).remote()
        seat.ready, seat.hired = False, time.monotonic()
        self._pending[seat.actor.place.remote()] = seat

    def _begin_loading(self, seat: _Seat, place: dict[str, Any]) -> None:
        """Give a worker its cores, and have it load the resource."""
        node = seat.times.node = place["node"]
        if (here := versions()) != place["versions"]:
            other = ", ".join(f"{k} {v}" for k, v in place["versions"].items() if here.get(k) != v)
            hint = "install the same versions on all machines"
            raise EngineError(
                f"a machine of the cluster has other versions: {other}", location="engine.ray", hint=hint
            )
        if seat.slot is None or seat.slot[0] != node:
            taken = {other.slot[1] for other in self._seats if other.slot and other.slot[0] == node}
            seat.slot = node, next(n for n in range(self._count + 1) if n not in taken)
        allowed = place["cores"]
        first = seat.slot[1] * self._threads
        core_ids = (
            sorted({allowed[(first + n) % len(allowed)] for n in range(self._threads)}) if allowed else []
        )
        log = str(self._logs.resolve() / f"worker-{seat.number}.log") if self._logs else None
        self._session.guard([place["pid"]])
        self._pending[seat.actor.start.remote(self._load, self._facts, os.getcwd(), log, core_ids)] = seat

    def _first_facts(self) -> Any:
        """Wait for the first worker that has loaded the resource."""
        while True:
            for _, _, facts in self._arrivals():
                return facts

    def _arrivals(self, timeout: float | None = None) -> Iterator[tuple[_Seat, bool, Any]]:
        """Wait for workers; yield each that has something: its seat, whether it computed a block, and the result or facts.

        Raises:
            EngineError: an error in a worker; or workers died too often.
        """
        import ray

        done, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        if not done:
            done, _ = ray.wait(list(self._pending), num_returns=1, timeout=timeout)
        for reference in done:
            seat = self._pending.pop(reference, None)
            if seat is None:
                continue  # of a worker that is replaced
            try:
                value = ray.get(reference)
            except (ray.exceptions.RayActorError, ray.exceptions.NodeDiedError) as error:
                self._replace(seat, error)
                continue
            if isinstance(value, dict):
                self._begin_loading(seat, value)
                continue
            if value.error:
                if seat.leases and seat.leases.popleft().dropped:
                    continue
                kind, problem, location, hint = value.error
                raise kind(problem, location=location, hint=hint)
            if computed := seat.ready:
                seat.times.busy += value.busy
                seat.times.waiting += value.waited
                seat.times.blocks += 1
            else:
                seat.times.loading += time.monotonic() - seat.hired
                seat.ready, seat.early_deaths = True, 0
            yield seat, computed, value.value

    def _replace(self, seat: _Seat, error: Exception) -> None:
        """Hire another worker for the seat of a dead one; its blocks go back.

        Raises:
            EngineError: workers die again and again.
        """
        log = self._logs / f"worker-{seat.number}.log" if self._logs else None
        where = f"; log: {log}" if log else ""
        seat.times.deaths += 1
        loading, computed = not seat.ready, seat.leases[0] if seat.leases else None
        if computed:
            computed.deaths += 1
        self._returned.extend(lease for lease in seat.leases if not lease.dropped)
        seat.leases.clear()
        seat.early_deaths += loading
        self._pending = {reference: other for reference, other in self._pending.items() if other is not seat}
        self._hire(seat)
        if (deaths := computed.deaths if computed else seat.early_deaths) >= DEATHS:
            reason = first_line(error)
            raise EngineError(
                f"{deaths} workers died {'while they loaded the model' if loading else 'on the same block'}: {reason}{where}",
                location="engine.workers",
                hint="often memory: lower engine.workers, engine.max_num_seqs or engine.gpu_memory_utilization; what is "
                "done is kept, and the same command continues",
            )
        self._say(f"worker {seat.number} died and is replaced; its block is computed again{where}")

    def map(
        self, work: Callable[[Resource, Block], Result], blocks: Iterable[Block | None]
    ) -> Generator[tuple[Block, Result], None, None]:
        """Yield each block with `work(resource, block)`, as they are done.

        Each worker has one block ahead, so that it computes while the caller works on results; and one more per worker is
        taken from the iterable.

        Args:
            work: is pickled once, and run in the workers.
            blocks: are pickled. None: there is none now; they are asked again while others are computed, and where none is, the call
                ends.

        Raises:
            EngineError: workers died three times on one block, or `work` raised an error for the user.
        """
        import ray

        key = id(work)  # `_works` keeps the object, so that no other one gets its id
        if key not in self._works:
            self._works[key] = work, ray.put(work)
        handle = self._works[key][1]
        source = iter(blocks)
        ahead: deque[_Lease] = deque()
        exhausted = idle = False

        def lease(most: int) -> None:
            """Give every worker that has fewer than `most` blocks one more."""
            for seat in self._seats:
                queue = self._returned or ahead
                if seat.ready and queue and len(seat.leases) < most:
                    lease = queue.popleft()
                    seat.leases.append(lease)
                    self._pending[seat.actor.compute.remote(key, [handle], lease.block)] = seat

        def lease_all() -> None:
            lease(1)
            if not (exhausted or idle):  # the last blocks go to whoever is free first
                lease(2)

        try:
            while True:
                lease_all()
                leased = any(not lease.dropped for seat in self._seats for lease in seat.leases)
                if (exhausted or idle) and not leased and not ahead and not self._returned:
                    return
                results = []
                can_wait = exhausted or len(ahead) >= self._count
                for seat, computed, result in (
                    self._arrivals(timeout=None if can_wait else POLL_SECONDS if idle else 0)
                    if self._pending
                    else ()
                ):
                    if computed and seat.leases:
                        done = seat.leases.popleft()
                        if not done.dropped:
                            results.append((done.block, result))
                    lease_all()  # before the caller works on the result
                self._write_status(leased=True)
                yield from results
                if not exhausted and len(ahead) < self._count:
                    try:
                        block = next(source)
                        idle = block is None
                        if block is not None:
                            ahead.append(_Lease(block))
                    except StopIteration:
                        exhausted = True
        finally:
            # After an error, or where the caller stopped early: what is computed now, nobody wants any more.
            self._returned.clear()
            for seat in self._seats:
                for waiting in seat.leases:
                    waiting.dropped = True
            self._write_status(leased=False)

    def _write_status(self, *, leased: bool) -> None:
        """Write what every worker did so far, at most every two seconds while blocks are leased."""
        now = time.monotonic()
        if self._logs is None or (leased and now - self._status_time < STATUS_SECONDS):
            return
        self._status_time = now
        path = self._logs / "workers.json"
        tasks = read_json(path) if path.exists() else {}
        write_json(path, tasks | {self._task: [vars(times) for times in self.times]})

    def summary(self) -> str:
        """Return one line: how busy the workers were, and what they waited for."""
        busy, waiting, loading = (
            sum(getattr(t, name) for t in self.times) for name in ("busy", "waiting", "loading")
        )
        share = 100 * busy / (busy + waiting) if busy else 0.0
        deaths = sum(t.deaths for t in self.times)
        died = f", {deaths} replaced" if deaths else ""
        return (
            f"{self._task}: {self._count} workers, {share:.0f} % busy between their blocks ({busy:.0f} s; waited {waiting:.0f} s for "
            f"blocks, {loading:.0f} s for the model to load){died}"
        )

    def close(self) -> None:
        """End the workers; a session on this machine ends with them."""
        self._session.close()
