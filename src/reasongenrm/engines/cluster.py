"""Ray: a session on this machine that nobody else can reach and that ends with this process, or a cluster."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import psutil

from reasongenrm.errors import EngineError, first_line
from reasongenrm.processes import cores

OBJECTS = 512 * 2**20
"""Bytes of shared memory for blocks and their results, in a session on this machine; more go to the disk."""

KILL_ORPHANS = """
import sys, psutil
known = {}
for line in sys.stdin:
    for pid in map(int, line.split()):
        try:
            known[pid] = psutil.Process(pid)
        except psutil.NoSuchProcess:
            pass
for process in known.values():
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass
"""
"""A program that reads process ids until its input ends, and then kills those that still run; psutil compares the time at
which a process began, so that another one with the same id is safe."""


class Session:
    """A connection to Ray. Use `connect`.

    Attributes:
        local: whether the session is on this machine and ends with this process.

    Args:
        local: see above.
        roots: of a local session, the processes that Ray has started here; all its others descend from them.
    """

    def __init__(self, local: bool, roots: Iterable[psutil.Process] = ()) -> None:
        self.local = local
        self._roots = tuple(roots)
        self._guard: subprocess.Popen[bytes] | None = None

    def guard(self, processes: Iterable[int] = ()) -> None:
        """See to it that Ray's processes end when this one is killed: two of its agents outlive it by a minute.

        Args:
            processes: ids of more processes that must end: those of workers.
        """
        if not self.local:
            return
        if self._guard is None:
            # In its own session: a signal to this process's group must not end it first.
            self._guard = subprocess.Popen(
                [sys.executable, "-c", KILL_ORPHANS], stdin=subprocess.PIPE, start_new_session=True
            )
        assert self._guard.stdin is not None
        ids = set(processes)
        for root in self._roots:
            with suppress(psutil.NoSuchProcess):
                ids |= {root.pid, *(child.pid for child in root.children(recursive=True))}
        self._guard.stdin.write(" ".join(map(str, sorted(ids))).encode() + b"\n")
        self._guard.stdin.flush()

    def close(self) -> None:
        """End the session, or leave the cluster."""
        import ray

        ray.shutdown()
        if self._guard is not None:
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None


def connect(address: str | None, slots: int) -> Session:
    """Start a session on this machine, or connect to a cluster.

    A session listens on loopback alone. Both use Ray's token authentication: a session with a token of its own, a
    cluster with that of its user (`RAY_AUTH_MODE=token`). Usage statistics and dashboard stay off.

    Args:
        address: of the cluster's head, `host:port` or `auto`; None: a session.
        slots: number of workers that a session must have room for on CPUs.

    Raises:
        EngineError: Ray is not installed; there is no cluster, it has other versions, or it is open to everybody.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # a worker without a GPU keeps its environment
    if address is None:
        os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
    elif os.environ.get("RAY_AUTH_MODE") != "token":
        raise EngineError(
            "Ray's token authentication is off: everybody who reaches the cluster could run programs on it",
            location="engine.ray",
            hint="set RAY_AUTH_MODE=token for `ray start` and here; `ray get-auth-token --generate` makes a token",
        )
    try:
        import ray
        from ray._private import ray_constants
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
    except ImportError as error:
        hint = "pip install ray, or set engine.workers=1"
        raise EngineError(f"Ray cannot be imported: {error}", location="engine.workers", hint=hint) from None
    options: dict[str, Any] = dict(log_to_driver=False, configure_logging=False, namespace="reasongenrm")
    if address is None:
        # Ray's own switch, off on Linux, for a session whose ports are on loopback; `_node_ip_address` is not.
        ray_constants.ENABLE_RAY_CLUSTER = False
        # vLLM may have imported Ray before, and an earlier session had another token.
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()
        options |= dict(include_dashboard=False, object_store_memory=OBJECTS, num_cpus=max(cores(), slots))
    others = set(psutil.Process().children())
    try:
        ray.init(address=address or "local", **options)
    except Exception as error:  # Ray raises many types
        raise EngineError(
            f"cannot {'connect to the Ray cluster ' + address if address else 'start Ray'}: {first_line(error)}",
            location="engine.ray" if address else "engine.workers",
            hint="start it by `ray start --head` with the same versions of Python and Ray, and RAY_AUTH_MODE=token"
            if address
            else "set engine.workers=1",
        ) from error
    session = Session(address is None, set(psutil.Process().children()) - others)
    session.guard()
    return session


def total(resource: str) -> int:
    """Return how many units of a resource, `GPU` or `CPU`, the connected session or cluster has."""
    import ray

    return int(ray.cluster_resources().get(resource, 0))
