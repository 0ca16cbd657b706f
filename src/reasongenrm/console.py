"""The terminal: one line per step of a stage, live bars, and a log file for everything that libraries print.

What is printed may come from data: control characters are escaped (`escape_controls`), and keys are removed (`redaction`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TextIO

from reasongenrm.redaction import hide_in_message, hide_known

if TYPE_CHECKING:
    from rich.console import Console

    from reasongenrm.records import Comparison, Rating

_user_stdout: TextIO | None = None
_user_stderr: TextIO | None = None
"""The user's streams, once file descriptors 1 and 2 lead to the log."""

_log: BinaryIO | None = None
"""The file that descriptors 1 and 2 lead to instead; it has no name, and ends with this process, until it is kept."""
_log_path: Path | None = None

_live_console: Console | None = None
"""The console of the bar that is on the terminal now: lines printed through it appear above the bar."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed: C0 with ESC, which begins sequences such as OSC, DEL, C1, and those that turn
the direction of text (Unicode 16, PropList, Bidi_Control)."""

LINE_SECONDS = 30.0
"""Where no bar is shown, a line of progress is printed at least this often, and at every tenth of the work."""


def escape_controls(text: str) -> str:
    """Return a text with control characters but tab and line feed as `\\u001b`, which is also valid inside JSON."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class OutputError(Exception):
    """A stream to the user that cannot be written: a full disk, or a pipe whose reader has closed it.

    It is no `ReasonGenRMError`, which loops over rows and questions may catch.

    Attributes:
        closed_pipe: True if the reader has closed the pipe, which is no error of the user.
    """

    def __init__(self, stream: str, error: OSError) -> None:
        super().__init__(f"{stream}: cannot be written: {error.strerror or error}")
        self.closed_pipe = isinstance(error, BrokenPipeError)


class _LogStream(io.TextIOWrapper):
    """A stream that drops what cannot be written: a full disk must not stop the library that prints."""

    def __init__(self, number: int, like: TextIO | None) -> None:
        encoding, errors = (like.encoding, like.errors) if like else ("utf-8", "backslashreplace")
        binary = open(number, "wb", closefd=False)  # noqa: SIM115
        super().__init__(binary, encoding=encoding, errors=errors, line_buffering=True)

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._failed(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        pass


class _UserStream(_LogStream):
    """A stream to the user: raises `OutputError` for a closed pipe, and for results that cannot be written."""

    def __init__(self, number: int, like: TextIO | None, label: str) -> None:
        super().__init__(number, like)
        self.label = label

    def _failed(self, error: OSError) -> None:
        if self.label == "stderr" and not isinstance(error, BrokenPipeError):
            return
        null = os.open(os.devnull, os.O_WRONLY)  # what is still in the buffer must not fail again at exit
        os.dup2(null, self.fileno(), inheritable=self.fileno() <= 2)
        os.close(null)
        raise OutputError(self.label, error) from error


def open_streams() -> None:
    """Make the three standard streams usable: /dev/null where the caller has closed one, and `OutputError`.

    While a standard file descriptor is closed, the next file that is opened takes its number, and receives what C code
    and child processes print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # all lower ones are open, so that this one is the next to be opened
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = _UserStream(1, sys.stdout, "stdout")
    sys.stderr = _UserStream(2, sys.stderr, "stderr")


def stdout() -> TextIO:
    """Return the stream for results: the user's stdout, wherever file descriptor 1 leads."""
    return _user_stdout or sys.stdout


def stderr() -> TextIO:
    """Return the stream for progress and errors: the user's stderr, wherever file descriptor 2 leads."""
    return _user_stderr or sys.stderr


def redirect_libraries() -> None:
    """Send what libraries print to a log until this process exits; `say` and `show` still reach the user.

    File descriptors 1 and 2 are redirected, so that C code, child processes and messages at interpreter exit go to the
    log too. It is a temporary file until `log_to` or `log_path` gives it a name. An uncaught exception and a fatal
    signal still print their traceback on the user's stderr.
    """
    global _user_stdout, _user_stderr
    warnings.filterwarnings("ignore")
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    _user_stdout, _user_stderr = _duplicate(sys.stdout, "stdout"), _duplicate(sys.stderr, "stderr")
    _move_log(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115
    sys.stdout = _LogStream(1, sys.stdout)
    sys.stderr = _LogStream(2, sys.stderr)
    sys.excepthook = _show_traceback
    faulthandler.enable(_user_stderr)


def log_to(path: Path) -> None:
    """Move the log of `redirect_libraries` into another file, which is appended to; without a redirect do nothing."""
    global _log_path
    if _log is None or _log_path == path:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("a+b", buffering=0)
    command = escape_controls(hide_in_message(" ".join(sys.argv)))
    log.write(f"--- {datetime.now():%Y-%m-%d %H:%M:%S} {command}\n".encode(errors="backslashreplace"))
    _move_log(log)
    _log_path = path


def log_path() -> Path | None:
    """Return the file that libraries print to, which remains when this process exits; None without a redirect."""
    global _log_path
    if _log is not None and _log_path is None:
        descriptor, name = tempfile.mkstemp(prefix="reasongenrm-", suffix=".log")
        _move_log(open(descriptor, "wb", buffering=0))  # noqa: SIM115
        _log_path = Path(name)
    return _log_path


def log_note() -> str:
    """Return the end of a message, which names the log; an empty text where there is none."""
    with contextlib.suppress(OSError):  # such as a full disk
        return f"; output of the libraries: {path}" if (path := log_path()) else ""
    return ""


def _move_log(log: BinaryIO) -> None:
    """Lead file descriptors 1 and 2 to another log, after the content of the one before."""
    global _log
    if _log is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        log.write(os.pread(_log.fileno(), os.fstat(_log.fileno()).st_size, 0))
        _log.close()
    _log = log
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)


def _duplicate(stream: TextIO, label: str) -> TextIO:
    """Return another stream to the same file; child processes do not inherit it."""
    stream.flush()
    return _UserStream(os.dup(stream.fileno()), stream, label)


def _show_traceback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    text = escape_controls(hide_in_message("".join(traceback.format_exception(kind, error, trace))))
    print(f"{text}reasongenrm: internal error{log_note()}", file=stderr())
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)


def show(*texts: object) -> None:
    """Print results for the user on stdout."""
    print(escape_controls(hide_known(" ".join(map(str, texts)))), file=stdout(), flush=True)


def show_line(json_line: str) -> None:
    """Print one line of JSON for another program on stdout; the caller flushes."""
    stdout().write(escape_controls(json_line))


def say(text: str) -> None:
    """Print one line of progress for the user on stderr, and into the log."""
    from rich.console import Console

    text = escape_controls(hide_in_message(text))
    console = _live_console or Console(file=stderr(), highlight=False)
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
    _write_to_log(text)


def _write_to_log(line: str) -> None:
    if _log is not None:
        with contextlib.suppress(OSError):  # a full disk is reported by what has to be written
            print(line, file=sys.stderr, flush=True)


@contextmanager
def _progress(title: str, total: int | None, unit: str = "") -> Iterator[Callable[..., None]]:
    """Show progress: a live bar on a terminal; elsewhere, and in the log, a line now and then (see `LINE_SECONDS`).

    Yields a function that takes the units done, details to show after them, and the total where it was not known.
    """
    global _live_console
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(file=stderr())
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[status]}"))
    live = Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal,
        redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    task = live.add_task(title, total=total, status="")
    first: tuple[int, float] | None = None if total is None else (0, time.monotonic())
    line_done, line_time = 0, time.monotonic()

    def update(done: int, details: str = "", *, total: int | None = total) -> None:
        nonlocal first, line_done, line_time
        now = time.monotonic()
        first_done, began = first = first or (done, now)  # a resumed task does not begin at 0
        parts = [f"{done}/{total}{unit}" if total else "", details]
        if total and first_done < done < total:
            left = (now - began) / (done - first_done) * (total - done)
            parts.append(f"{timedelta(seconds=round(left))} left")
        status = ", ".join(filter(None, parts))
        live.update(task, completed=done, total=total, status=status)
        tenth = total is not None and (done >= total > line_done or done - line_done >= total / 10)
        if tenth or now - line_time >= LINE_SECONDS:
            line_done, line_time = done, now
            (_write_to_log if console.is_terminal else say)(f"{title}: {status}")

    _live_console, outer = console if console.is_terminal else None, _live_console
    try:
        with live:
            yield update
    finally:
        _live_console = outer


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of a task; yields `advance(n)`."""
    done = 0
    with _progress(title, total) as update:

        def advance(n: int) -> None:
            nonlocal done
            done += n
            update(done)

        yield advance


@contextmanager
def waiting_line(title: str) -> Iterator[None]:
    """Show that something is under way whose end is not known: on a terminal with the time so far, elsewhere as one line."""
    with _progress(title, None):
        (say if _live_console is None else _write_to_log)(title)
        yield


class TrainingStep(NamedTuple):
    """Where a training is.

    Attributes:
        step: optimizer steps done.
        total: optimizer steps of the whole training.
        loss: the last one logged, in nats; None before.
        tokens_per_second: tokens trained on since this start, per second; None before the first loss.
    """

    step: int
    total: int
    loss: float | None = None
    tokens_per_second: float | None = None


@contextmanager
def training_bar(title: str) -> Iterator[Callable[[TrainingStep], None]]:
    """Show steps, loss, tokens per second and time left of a training; yields a function that takes each step."""
    with _progress(title, None, " steps") as update:

        def show_step(step: TrainingStep) -> None:
            details = [] if step.loss is None else [f"loss {step.loss:.4f}"]
            if step.tokens_per_second is not None:
                details.append(f"{step.tokens_per_second:.0f} tokens/s")
            update(step.step, ", ".join(details), total=step.total)

        yield show_step


@contextmanager
def judging_bar(title: str) -> Iterator[Callable[[int, Sequence[Comparison] | Sequence[Rating]], None]]:
    """Show the progress of a judge whose input has no known length; yields `advance(rows, judged)`.

    Shown are rows done, comparisons or ratings that could not be read, those that failed, and tokens sampled per second.
    """
    done = unparsed = failed = tokens = 0
    began = time.monotonic()

    def status() -> str:
        rate = tokens / max(time.monotonic() - began, 1e-9)
        return f"{done} done, {unparsed} unparsed, {failed} errors, {rate:.0f} tokens/s"

    with _progress(title, None) as update:

        def advance(rows: int, judged: Sequence[Comparison] | Sequence[Rating]) -> None:
            nonlocal done, unparsed, failed, tokens
            done += rows
            failed += sum(one.outcome == "error" for one in judged)
            unparsed += sum(one.outcome in ("unparsed", "truncated") for one in judged)
            tokens += sum(one.tokens for one in judged)
            update(done, status())

        yield advance
    say(f"{title}: {status()}")
