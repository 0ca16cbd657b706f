"""Run a notebook so that its outputs can be committed: no times, no paths, no kernel left behind."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reasongenrm.errors import DataError, EngineError, first_line
from reasongenrm.processes import die_with_parent
from reasongenrm.store import write_text

VARIABLE = "REASONGENRM_SCALAR"
"""The environment variable that names the trained head's folder."""


DEFAULT = "runs/demo/scalar"
"""The head that `make demo` leaves, from the repository's root."""


_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # a bar shows how long it took, which is never twice the same
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm's, with the path of its file
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # the debugger's warning about frozen modules
}
"""Set for the kernel."""


# A slash that begins a word, a name, and another slash: no fraction, no closing tag, no web address.
_ABSOLUTE = re.compile(r"(?<![\w.:/<)}])(?:/[A-Za-z_.][\w.-]*(?:/[\w.-]+)+|[A-Za-z]:\\\w[^\s\"']*)")


def scalar_folder() -> Path:
    """Return the folder of the head that a notebook shows: `$REASONGENRM_SCALAR`, or the demo's.

    A relative path begins at the repository's root, so that a notebook finds it from its own folder, too.
    """
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)
    return root / (os.environ.get(VARIABLE) or DEFAULT)


def execute(path: Path, *, scalar: Path, out: Path | None = None, timeout: float = 600) -> Any:
    """Run all cells of a notebook with this Python, and return it with its outputs.

    The same notebook and head give the same outputs: no times and no version of Python are kept. Settings and
    start-up files of the user's IPython are not read. The kernel works in the notebook's folder, and ends
    with this process however that ends.

    Args:
        path: the notebook; it is read, and left as it is unless `out` names it.
        scalar: folder of the trained head, told to the notebook as `$REASONGENRM_SCALAR`.
        out: where to write the notebook with its outputs; nothing is written when a cell fails.
        timeout: seconds for each cell.

    Raises:
        DataError: there is no such notebook, it cannot be read, or an output holds an absolute path.
        EngineError: a cell fails or takes too long (it is named by its number among the code cells, from 1),
            the kernel dies, or a package for notebooks is missing.
    """
    try:
        import ipykernel  # noqa: F401, the kernel's process imports it
        import nbclient  # noqa: F401
        import nbformat
    except ImportError as error:
        hint = "pip install nbclient nbformat ipykernel"
        raise EngineError(f"cannot run notebooks: {error}", location=str(path), hint=hint) from None
    notebook = _read(path)
    with TemporaryDirectory() as scratch:
        _run(notebook, path, os.environ | _QUIET | {VARIABLE: str(scalar.resolve())}, scratch, timeout)
    notebook.metadata.get("language_info", {}).pop("version", None)
    plain_outputs(notebook, location=str(path))
    if out is not None:
        write_text(out, nbformat.writes(notebook) + "\n")
    return notebook


def _run(notebook: Any, path: Path, environment: dict[str, str], scratch: str, timeout: float) -> None:
    """Put the outputs into a notebook, by a kernel that keeps all its files in a scratch folder."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    number = 0

    def count(cell: Any, cell_index: int) -> None:
        nonlocal number
        number += cell.cell_type == "code"

    manager = AsyncKernelManager(
        # Sockets in a folder of our own, not ports; their whole path may have 107 bytes.
        transport="ipc" if len(scratch) < 80 else "tcp",
        connection_file=str(Path(scratch, "kernel.json")),
        # No folders of kernels: "python3" then means this Python.
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
    )
    client = NotebookClient(notebook, km=manager, timeout=timeout, record_timing=False, on_cell_start=count)
    try:
        client.execute(
            cleanup_kc=True,
            cwd=str(path.resolve().parent),
            env=environment | {"IPYTHONDIR": scratch},
            preexec_fn=die_with_parent,  # one system call, so safe after a fork
        )
    except CellExecutionError as error:
        problem = f"{error.ename}: {(error.evalue.strip().splitlines() or [''])[0]}"
        raise EngineError(problem, location=f"{path}, code cell {number}") from None
    except (CellTimeoutError, DeadKernelError) as error:
        raise EngineError(first_line(error), location=f"{path}, code cell {number}") from error
    except RuntimeError as error:
        raise EngineError(f"no kernel: {first_line(error)}", location=str(path)) from error


def plain_outputs(notebook: Any, location: str = "notebook") -> None:
    """Check that no output of a notebook tells where it was run.

    Args:
        notebook: as nbformat reads it.
        where: what to call it.

    Raises:
        DataError: an output's text holds an absolute path or the home folder; names the code cell, from 1.
    """
    home = str(Path.home())
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(codes, 1):
        for text in _texts(cell):
            found = _ABSOLUTE.search(text)
            # A home folder of "/" is that of a system user, and in every text.
            if found or (len(home) > 1 and home in text):
                raise DataError(
                    f"an output holds the path {found.group() if found else home}",
                    location=f"{location}, code cell {number}",
                    hint="show what does not depend on the machine",
                )


def _texts(cell: Any) -> Iterator[str]:
    """Yield the texts of a cell's outputs; pictures are none."""
    for output in cell.outputs:
        yield output.get("text", "")
        yield "\n".join(output.get("traceback", []))
        for kind, content in output.get("data", {}).items():
            if kind.startswith("text/"):
                yield content


def _read(path: Path) -> Any:
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except FileNotFoundError:
        raise DataError("no such notebook", location=str(path)) from None
    except Exception as error:  # nbformat, jsonschema and json raise their own kinds for a broken file
        raise DataError(f"not a notebook: {first_line(error)}", location=str(path)) from error
    return notebook
