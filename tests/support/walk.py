"""Run one stage and print, as JSON, the files of the suite whose functions ran until an output file was there.

python tests/support/walk.py OUTPUT VERB RECIPE [key=value ...]
"""

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

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        # Functions only: a class body has another flag.
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(SOURCE):
            files.add(code.co_filename.removeprefix(SOURCE))
        elif event == "c_return" and argument is os.replace and output.exists():
            stop()

    def stop() -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    for module in pkgutil.walk_packages([SOURCE], "reasongenrm."):
        import_module(module.name)  # what runs at import does nothing to a row
    threading.setprofile(note)
    sys.setprofile(note)
    code = main(words)
    stop()
    assert code == 0 and output.exists()
    return files


if __name__ == "__main__":
    print(json.dumps(sorted(files_until(Path(sys.argv[1]), sys.argv[2:]))))
