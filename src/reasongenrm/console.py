"""Progress on the terminal: one line per step of a stage."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from reasongenrm.records import Comparison


def quiet_libraries() -> None:
    """Keep the progress bars and notes of the libraries off the terminal; their warnings of weight stay."""
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("HF_DATASETS_DISABLE_PROGRESS_BARS", "1"),
        ("DS_LOG_LEVEL", "error"),
        ("PYTHONWARNINGS", "ignore"),
        ("VLLM_LOGGING_LEVEL", "ERROR"),
    ):
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")


def say(text: str) -> None:
    """Print one line for the user."""
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


@contextmanager
def judging_bar(title: str) -> Iterator[Callable[[int, Sequence[Comparison]], None]]:
    """Show what a judge has done on a terminal, and otherwise one line at the end; yields `advance(rows, comparisons)`.

    Shown are rows done, comparisons that could not be read, comparisons that failed, and tokens sampled per second.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    done = unread = failed = tokens = 0
    began = time.monotonic()

    def shown() -> str:
        rate = tokens / max(time.monotonic() - began, 1e-9)
        return f"{done} done, {unread} unparsed, {failed} errors, {rate:.0f} tokens/s"

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{title}: {shown()}", total=None)

        def advance(rows: int, comparisons: Sequence[Comparison]) -> None:
            nonlocal done, unread, failed, tokens
            done += rows
            failed += sum(found.outcome == "error" for found in comparisons)
            unread += sum(found.winner is None and found.outcome != "error" for found in comparisons)
            tokens += sum(found.tokens for found in comparisons)
            progress.update(task, description=f"{title}: {shown()}")

        yield advance
    say(f"{title}: {shown()}")


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, and otherwise one line at the start and the end; yields `advance(n)`."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        done = 0

        def count(n: int) -> None:
            nonlocal done
            done += n
            say(f"{title}: {done}/{total}")

        yield count
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total)
        yield lambda n: progress.advance(task, n)
