"""How the end-to-end tests run the three scripts: in processes of their own, which can be killed and looked for; or, where
only the outcome matters, as forks of a process that has imported the libraries once."""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PREPARE, TRAIN, EVALUATE = "1_prepare.sh", "2_train.sh", "3_eval_reward_bench.sh"
VERBS = {PREPARE: "prepare", TRAIN: "train", EVALUATE: "evaluate"}
BAD_LINES = (
    '{"chosen": [{"role": "user", "content": "broken',
    '{"chosen": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x"}], "source": "no-rejected"}',
    '{"prompt": "a row of another schema"}',
    '{"chosen": "x", "rejected": [], "source": "text"}',
)
"""Lines a user's file may hold; each is one row of the data report."""

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VIRTUAL_ENV": sys.prefix,  # the scripts take the environment that runs the tests
    "TOKENIZERS_PARALLELISM": "false",
    # glibc hands large buffers back to the kernel at every free: half of the CPU time of vLLM's CPU build.
    "MALLOC_MMAP_THRESHOLD_": "2147483647",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
}


LAUNCH = """
import subprocess
from support.forked_programs import start_spawner
start_spawner()
with open({log!r}, "w") as log:
    subprocess.run({command!r}, stdout=log, stderr=log, check=True)
"""

TOGETHER = """
import subprocess, sys
from support.forked_programs import start_spawner
start_spawner()
programs = []
for words, log in {commands!r}:
    with open(log, "w") as file:
        command = [sys.executable, "-m", "reasongenrm.cli", *words]
        programs.append(subprocess.Popen(command, stdout=file, stderr=file))
sys.exit(any([program.wait() for program in programs]))
"""


@dataclass(frozen=True)
class Done:
    """A script that has ended."""

    code: int
    stdout: str
    stderr: str
    seconds: float


class StageServer:
    """Runs of the command line as forks of one process (`stage_server.py`), which has imported the libraries once."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "support" / "stage_server.py")],
            cwd=ROOT, env=os.environ | ENVIRONMENT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._answer("ready")

    def _answer(self, word: str) -> list[int]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        if not line and self.process.stderr:
            raise AssertionError(self.process.stderr.read())  # it has ended
        assert line and line[0] == word, line
        return [int(number) for number in line[1:]]

    def start(
        self,
        words: Sequence[str],
        streams: Sequence[str] = (os.devnull,) * 3,
        *,
        code: str = "",
        folder: Path = ROOT,
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Start one run of the command line, or of a Python program; return the id of its process, which leads a session.

        Args:
            words: of the command line.
            streams: files for its three streams.
            code: a program to run instead.
            folder: where it starts.
            environment: variables besides those of this process.
        """
        request = {
            "words": list(words),
            "streams": list(streams),
            "code": code,
            "folder": str(folder),
            "environment": os.environ | ENVIRONMENT | (environment or {}),
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        [child] = self._answer("started")
        return child

    def ended(self) -> int:
        """Wait for the end of the run; return its exit code."""
        _, code = self._answer("ended")
        return code

    def run(self, words: Sequence[str], text: str = "", *, limit: float = 400, **options: Any) -> Done:
        """Run a command to its end, with a text as its input; after `limit` seconds it is killed. For `options` see `start`."""
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            given, out, err = (Path(folder, name) for name in ("in", "out", "err"))
            given.write_text(text, encoding="utf-8")
            child = self.start(words, [str(given), str(out), str(err)], **options)
            timer = threading.Timer(limit, os.killpg, (child, signal.SIGKILL))
            timer.start()
            code = self.ended()
            timer.cancel()
            seconds = time.monotonic() - begin
            return Done(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"), seconds)

    def launch(self, command: Sequence[str], log: Path, **options: Any) -> Done:
        """Run `accelerate launch` to its end, with its output in a file; its processes are forks (`forked_programs.py`)."""
        return self.run([], code=LAUNCH.format(command=list(command), log=str(log)), **options)

    def run_together(self, commands: Sequence[tuple[Sequence[str], Path]], **options: Any) -> Done:
        """Run command lines at the same time to their ends, each with its output in a file."""
        named = [(list(words), str(log)) for words, log in commands]
        return self.run([], code=TOGETHER.format(commands=named), **options)


class Fork:
    """A running command or program of a `StageServer`, with what `kill_at` uses of `subprocess.Popen`."""

    stdout = stderr = None

    def __init__(self, server: StageServer, words: Sequence[str] = (), **options: Any) -> None:
        self._server, self._code = server, None
        self._errors = tempfile.NamedTemporaryFile("r", encoding="utf-8")  # noqa: SIM115 (closed with this object)
        self.pid = server.start(words, [os.devnull, os.devnull, self._errors.name], **options)

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        if self._code is None and select.select([self._server.process.stdout], [], [], 0)[0]:
            self._code = self._server.ended()
        return self._code

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end; return whether it came."""
        return self._code is not None or bool(
            select.select([self._server.process.stdout], [], [], seconds)[0]
        )

    def wait(self, timeout: float) -> int:
        """Wait for its end; return its exit code."""
        assert self.ends_within(timeout), "it does not end"
        code = self.poll()
        assert code is not None
        return code

    def communicate(self) -> tuple[str, str]:
        return "", self._errors.read()


@cache
def stage_server() -> StageServer:
    """The server of these tests; it ends with them."""
    return StageServer()


@dataclass
class Bench:
    """Starts scripts with overrides that all of a test's runs share.

    Attributes:
        recipe: the YAML file.
        shared: overrides given to every run.
        label: makes the names of the runs.
        names: of the runs started, to be removed at the end.
    """

    shared: list[str]
    label: str
    recipe: str = "configs/demo.yaml"
    names: set[str] = field(default_factory=set)

    def name(self, run: str) -> str:
        return f"test-{os.getpid()}-{self.label}-{run}"

    def folder(self, run: str) -> Path:
        return ROOT / "runs" / self.name(run)

    def start(self, script: str, run: str, *words: str) -> subprocess.Popen[str]:
        """Start a script as the leader of a new session and process group."""
        return subprocess.Popen(
            [f"./{script}", *self.words(run), *words],
            cwd=ROOT,
            env=os.environ | ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def fork(self, script: str, run: str, *words: str) -> Fork:
        """Start a stage as a script does, the leader of a new session, without the imports."""
        return Fork(stage_server(), [VERBS[script], *self.words(run), *words])

    def words(self, run: str) -> list[str]:
        """The recipe and the overrides of a run, which is removed at the end."""
        self.names.add(self.name(run))
        return [self.recipe, f"name={self.name(run)}", *self.shared]

    def run(self, script: str, run: str, *words: str) -> Done:
        """Run a stage to its end, as its script does."""
        return stage_server().run([VERBS[script], *self.words(run), *words])

    def run_script(self, script: str, run: str, *words: str) -> Done:
        """Run a script to its end, in a process of its own."""
        begin = time.monotonic()
        process = self.start(script, run, *words)
        try:
            stdout, stderr = process.communicate(timeout=400)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return Done(process.returncode, stdout, stderr, time.monotonic() - begin)

    def good(self, script: str, run: str, *words: str) -> Done:
        """Run a stage that has to succeed."""
        done = self.run(script, run, *words)
        assert done.code == 0, f"{script} ended with {done.code}:\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def processes(self, run: str) -> dict[int, str]:
        """The living processes of a run, by their command lines."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                except OSError:
                    continue  # it has just ended
                if f"runs/{self.name(run)}/" in line or f"name={self.name(run)}" in line.split():
                    found[int(folder.name)] = line
        return found

    def clean(self) -> None:
        """End what still runs, and remove the runs."""
        for name in self.names:
            for process in self.processes(name.rpartition("-")[2]):
                os.kill(process, signal.SIGKILL)
            shutil.rmtree(ROOT / "runs" / name, ignore_errors=True)


def wait_for(
    what: Callable[[], bool], process: subprocess.Popen[str] | Fork | None = None, seconds: float = 200
) -> None:
    """Wait until something is so; fail when the process ends before."""
    end = time.monotonic() + seconds
    while not what():
        if process is not None and process.poll() is not None:
            stdout, stderr = process.communicate()
            raise AssertionError(f"ended too early with {process.returncode}:\n{stdout}\n{stderr}")
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def kill_at(
    process: subprocess.Popen[str] | Fork,
    moment: Callable[[], bool],
    jitter: float,
    *,
    group: bool,
    seed: int,
) -> None:
    """Send SIGKILL a random time below `jitter` seconds after a moment, to the process group or to the parent alone."""
    try:
        wait_for(moment, process)
    except AssertionError:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=20)
        raise
    time.sleep(random.Random(seed).uniform(0, jitter))
    assert process.poll() is None, "it ended before it could be killed"
    if group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.kill(process.pid, signal.SIGKILL)
    assert process.wait(timeout=20) == -signal.SIGKILL
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def lines(path: Path) -> int:
    """Number of whole lines of a file that may not be there."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def value_of(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def snapshot(folder: Path) -> dict[str, str]:
    """Hash of every file of a run but its logs; of a manifest without the git state, as others may commit meanwhile."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.parent.name != "logs":
            content = path.read_bytes()
            if path.parent.name == "manifest":
                content = json.dumps(json.loads(content) | {"git": ""}, sort_keys=True).encode()
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


FIRST_STAGE = ("*.jsonl", "reasons/*.jsonl", "pairs_report.json", "data_report.*")
"""The files of stage 1."""


def same_first_stage(folder: Path, calm: Path) -> None:
    """Stage 1 has left the same files, byte for byte."""
    for pattern in FIRST_STAGE:
        names = sorted(path.relative_to(calm) for path in calm.glob(pattern))
        assert names == sorted(path.relative_to(folder) for path in folder.glob(pattern)), pattern
        for name in names:
            assert (folder / name).read_bytes() == (calm / name).read_bytes(), name


@dataclass(frozen=True)
class Chain:
    """The undisturbed run: its folder, and how each script ended."""

    bench: Bench
    folder: Path
    done: dict[str, Done]
