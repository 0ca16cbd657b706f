"""Workers with real Ray: the same results whatever their number, deaths, ports, and a cluster of two nodes."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from reasongenrm.engines.pool import WorkerPool
from reasongenrm.errors import EngineError
from reasongenrm.store import read_json
from support import pool_work
from support.pool_work import always_die, die_once, digest, load, process_of, refuse

pytestmark = pytest.mark.engine

BLOCKS = [[n, n + 1] for n in range(0, 40, 2)]
EXPECTED = {tuple(block): digest(0, block) for block in BLOCKS}
SCRIPT = Path(pool_work.__file__)


@pytest.fixture(scope="module")
def events() -> list[str]:
    return []


@pytest.fixture(scope="module")
def pool(events: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerPool[int]]:
    """Three workers, which also replace dead ones."""
    os.environ |= {"PYTHONPATH": environment()["PYTHONPATH"]}  # workers import tests/support
    other = subprocess.Popen(["sleep", "600"])  # of the caller
    others = set(psutil.Process().children(recursive=True))
    running = WorkerPool(
        load, 3, gpus=1, facts=str, logs=tmp_path_factory.mktemp("logs"), on_event=events.append
    )
    children = set(psutil.Process().children(recursive=True)) - others
    yield running
    running.close()
    _, alive = psutil.wait_procs(children, timeout=20)
    end = other.poll()
    other.kill()
    other.wait()
    assert not alive, "no process is left"
    assert end is None, "the caller's own processes go on"


def results(pool: WorkerPool[int], work: object) -> dict[tuple[int, ...], object]:
    return {tuple(block): result for block, result in pool.map(work, BLOCKS)}  # type: ignore[arg-type]


@pytest.mark.slow
def test_32_workers_are_busy_while_there_are_blocks(tmp_path: Path) -> None:
    """Blocks of a resource that only waits: most of the workers' time is in blocks. How much depends on the machine: 32 processes
    share its cores (`bench/workers.py` measures it). A driver that feeds some workers only, or one after another, stays far below.

    The first test of this file: a process has one Ray session, and the next tests share theirs.
    """
    seconds, count = 1.0, 480
    os.environ |= {"PYTHONPATH": environment()["PYTHONPATH"]}
    pool = WorkerPool(load, 32, gpus=1, logs=tmp_path)
    try:
        list(
            pool.map(partial(digest, seconds=seconds), ([n] for n in range(64)))
        )  # all are loaded, and have the work
        first = sum(times.busy for times in pool.times)
        began = time.monotonic()
        done = sum(1 for _ in pool.map(partial(digest, seconds=seconds), ([n] for n in range(count))))
        wall = time.monotonic() - began
        busy = sum(times.busy for times in pool.times) - first
    finally:
        pool.close()
    assert done == count
    assert busy / (32 * wall) >= 0.6, (busy, wall, pool.summary())
    assert sum(worker["blocks"] for worker in read_json(tmp_path / "workers.json")["work"]) == count + 64


def test_every_block_is_computed_once_by_one_of_the_workers(pool: WorkerPool[int]) -> None:
    assert results(pool, digest) == EXPECTED
    blocks = sum(times.blocks for times in pool.times)
    processes = set(results(pool, process_of).values())
    assert 1 < len(processes) <= 3 and blocks == len(BLOCKS)
    assert os.getpid() not in processes and pool.facts.isdecimal()


def test_blocks_may_come_while_others_are_computed(pool: WorkerPool[int]) -> None:
    done: list[tuple[int, ...]] = []

    def source() -> Iterator[list[int] | None]:
        yield BLOCKS[0]
        while not done:
            yield None
        yield from BLOCKS[1:]
        while True:
            yield None

    for block, result in pool.map(digest, source()):
        assert result == EXPECTED[tuple(block)]
        done.append(tuple(block))
    assert sorted(done) == sorted(EXPECTED)


def test_only_loopback_is_reachable(pool: WorkerPool[int]) -> None:
    children = psutil.Process().children(recursive=True)
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for process in children
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 3 and set(listening) <= {"127.0.0.1", "::1"}
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0" and os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_an_error_for_the_user_reaches_the_driver(pool: WorkerPool[int]) -> None:
    with pytest.raises(EngineError, match=r"engine\.max_model_len: the block is too long \(raise it\)"):
        results(pool, refuse)
    assert results(pool, digest) == EXPECTED, "the workers go on"


def test_a_caller_that_stops_early_leaves_no_block_behind(pool: WorkerPool[int]) -> None:
    stream = pool.map(digest, BLOCKS)
    next(stream)
    stream.close()
    assert results(pool, digest) == EXPECTED


def test_a_dead_worker_is_replaced_and_its_block_computed_again(
    pool: WorkerPool[int], events: list[str], tmp_path: Path
) -> None:
    assert results(pool, partial(die_once, tmp_path)) == EXPECTED
    assert (tmp_path / "died").exists() and sum(times.deaths for times in pool.times) == 1
    assert "died and is replaced" in events[-1] and "1 replaced" in pool.summary()


def test_a_block_that_kills_every_worker_is_an_error(pool: WorkerPool[int]) -> None:
    with pytest.raises(EngineError, match=r"engine\.workers: 3 workers died on the same block"):
        results(pool, always_die)
    assert results(pool, digest) == EXPECTED


def test_an_error_of_loading_is_the_users(pool: WorkerPool[int], tmp_path: Path) -> None:
    code = (
        "from reasongenrm.engines.pool import WorkerPool; from support.pool_work import fail_to_load\n"
        "WorkerPool(fail_to_load, 2, gpus=1)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert "model.path: the model is broken (give another)" in done.stderr and done.returncode


def environment(**more: str) -> dict[str, str]:
    paths = [str(SCRIPT.parent.parent), os.environ.get("PYTHONPATH", "")]
    mine = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return mine | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | more


def driver(
    folder: Path, workers: int, blocks: int, seconds: float, *, stderr: int | None = None, **variables: str
) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(SCRIPT), str(folder), str(workers), str(blocks), str(seconds)]
    return subprocess.Popen(command, env=environment(**variables), stdout=subprocess.DEVNULL, stderr=stderr)


def family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def test_an_open_cluster_is_refused(tmp_path: Path) -> None:
    running = driver(tmp_path, 1, 1, 0.0, RAY_ADDRESS="127.0.0.1:1", stderr=subprocess.PIPE)
    _, error_text = running.communicate(timeout=60)
    assert "engine.ray: Ray's token authentication is off" in error_text.decode()


@pytest.mark.slow
def test_a_cluster_of_two_nodes_goes_on_when_one_goes_away(tmp_path: Path) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    try:
        for number, place in enumerate((["--head", f"--port={port}"], [f"--address=127.0.0.1:{port}"])):
            command = [str(Path(sys.executable).with_name("ray")), "start", *place, "--num-cpus=2", "--block"]
            with (tmp_path / f"node-{number}.log").open("wb") as log:
                options = {"stdout": log, "stderr": log, "start_new_session": True}
                nodes.append(
                    subprocess.Popen([*command, "--disable-usage-stats"], env=environment(**token), **options)
                )
            wait_for(lambda log=tmp_path / f"node-{number}.log": b"Ray runtime started" in log.read_bytes())
        folder = tmp_path / "run"
        running = driver(folder, 4, 150, 0.3, RAY_ADDRESS=f"127.0.0.1:{port}", **token)
        part = folder / "rows.part.jsonl"
        wait_for(lambda: part.exists() and len(part.read_bytes().splitlines()) > 100)
        for one in family(psutil.Process(nodes[1].pid)):
            one.kill()
        assert running.wait(120) == 0
        calm = tmp_path / "calm"
        assert driver(calm, 1, 150, 0.0).wait(60) == 0
        assert (folder / "rows.jsonl").read_bytes() == (calm / "rows.jsonl").read_bytes()
        times = read_json(folder / "logs" / "workers.json")["work"]
        assert sum(one["deaths"] for one in times) == 2 and all(one["blocks"] for one in times)
    finally:
        processes = [one for node in nodes if node.poll() is None for one in family(psutil.Process(node.pid))]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=20)


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.1)


@pytest.mark.slow
def test_twenty_kills_of_workers_and_drivers_leave_the_same_file_and_no_process(tmp_path: Path) -> None:
    """Real SIGKILLs at random moments, of a worker or of the driver, until the file is written."""
    blocks, rng = 400, random.Random(5)
    kills = {"worker": 0, "driver": 0}
    known: dict[int, psutil.Process] = {}
    folder = tmp_path / "killed"
    while not (folder / "rows.jsonl").exists():
        running = driver(folder, 3, blocks, 0.05 if sum(kills.values()) < 20 else 0.0)
        process = psutil.Process(running.pid)
        end_by = rng.choice([3, 4])  # kills of this driver's workers before its own
        while running.poll() is None:
            time.sleep(rng.uniform(0.2, 1.0))
            known |= {one.pid: one for one in family(process)}
            workers = [one for one in known.values() if one.is_running() and _is_worker(one)]
            if sum(kills.values()) >= 20 or not workers:
                continue
            if end_by:
                end_by -= 1
                kills["worker"] += 1
                rng.choice(workers).kill()
            else:
                kills["driver"] += 1
                running.kill()
        assert running.wait() in (0, -signal.SIGKILL), "only a SIGKILL ends it"
    assert sum(kills.values()) == 20 and kills["driver"] >= 3
    calm = tmp_path / "calm"
    assert driver(calm, 1, blocks, 0.0).wait(60) == 0
    assert (folder / "rows.jsonl").read_bytes() == (calm / "rows.jsonl").read_bytes()
    _, alive = psutil.wait_procs([one for one in known.values() if one.pid != os.getpid()], timeout=30)
    assert not alive, [one.cmdline() for one in alive]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[0].startswith("ray::Worker")
    except (psutil.Error, IndexError):
        return False
