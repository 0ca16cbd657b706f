"""Run one stage and print, as JSON, the files of the suite whose functions ran until an output file was there."""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import reasongenrm
from reasongenrm.cli import main

SOURCE = str(Path(reasongenrm.__file__).parent) + os.sep


def files_until(output: Path, words: list[str]) -> set[str]:
    """Return the source files, relative to the package, that ran while `main(words)` made `output`."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:  # called once per call of a function
        code = frame.f_code
        # Functions only: a class body has another flag.
        if code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(SOURCE):
            files.add(code.co_filename.removeprefix(SOURCE))

    replace = os.replace

    def replace_and_stop(*names: Any, **options: Any) -> None:
        replace(*names, **options)
        if output.exists():
            stop()

    def stop() -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        os.replace = replace

    for module in pkgutil.walk_packages([SOURCE], "reasongenrm."):
        import_module(module.name)  # what runs at import does nothing to a row
    os.replace = replace_and_stop  # type: ignore[assignment]
    threading.settrace(note)
    sys.settrace(note)
    code = main(words)
    stop()
    assert code == 0 and output.exists()
    return files


def print_files(output: str, words: list[str]) -> None:
    """Print the files that ran while a command line made an output."""
    print(json.dumps(sorted(files_until(Path(output), words))))
