"""Python's garbage collector in the command line's own process: it pauses while libraries load, and rests at the end.

torch, transformers and vLLM make millions of objects that stay until the process ends. Visiting them again and again took half
of the time of a short command (bench/startup.py).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_owned = False


def own_process() -> None:
    """Allow this module to change the collector: this process runs one command and then ends.

    In any other process, such as a notebook, the functions below do nothing.
    """
    global _owned
    _owned = True


@contextmanager
def paused() -> Iterator[None]:
    """Import libraries and load models without automatic collections; later ones do not visit what was loaded."""
    if not _owned or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def skip_loaded() -> None:
    """While paused: also keep collections that a library asks for from visiting what was loaded so far."""
    if _owned and not gc.isenabled():
        gc.freeze()


def stop() -> None:
    """End all collections, also those that libraries ask for: the process ends, and its memory with it."""
    if _owned:
        gc.freeze()
        gc.callbacks.append(_skip_all)


def _skip_all(phase: str, info: dict[str, Any]) -> None:
    """Exclude all objects from a collection that starts; vLLM calls `gc.unfreeze` when it closes."""
    if phase == "start":
        gc.freeze()
