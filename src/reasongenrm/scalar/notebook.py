"""Run a notebook so that its outputs can be committed: without times or paths, and without a kernel left behind."""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reasongenrm.errors import DataError, EngineError, first_line
from reasongenrm.processes import die_with_parent
from reasongenrm.store import write_text

VARIABLE = "REASONGENRM_SCALAR"
"""Environment variable with the folder of the trained head."""

DEFAULT = "runs/scalar-demo/scalar"
"""The head that `make demo` trains, relative to the repository root."""

BASE_VARIABLE = "REASONGENRM_BASE"
"""Environment variable with the base of the heads that practice.ipynb trains: a folder or a hub id."""

_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # a bar shows how long it took, which differs each time
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm's, with the path of its file
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # the debugger's warning about frozen modules
}
"""Environment variables of the kernel."""

# A slash that begins a word, a name, and another slash: not a fraction, a closing tag or a web address.
_ABSOLUTE = re.compile(r"(?<![\w.:/<)}])(?:/[A-Za-z_.][\w.-]*(?:/[\w.-]+)+|[A-Za-z]:\\\w[^\s\"']*)")


def repository_root() -> Path:
    """Return the repository that holds the current folder, or the current folder where none does."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)


def scalar_folder() -> Path:
    """Return the folder of the head for the notebook: `$REASONGENRM_SCALAR`, or the demo's.

    A relative path starts at the repository root, so that a notebook finds it from its own folder too.
    """
    return repository_root() / (os.environ.get(VARIABLE) or DEFAULT)


def base_name() -> str | None:
    """Return `$REASONGENRM_BASE`, the base of the heads that practice.ipynb trains; None: a tiny one, made in seconds."""
    return os.environ.get(BASE_VARIABLE) or None


def execute(path: Path, *, scalar: Path, out: Path | None = None, timeout: float = 600) -> Any:
    """Run all cells of a notebook with this Python, and return the notebook with its outputs.

    The same notebook and head give the same outputs: times and the Python version are not kept. Settings and start-up
    files of the user's IPython are not read. The kernel works in the notebook's folder, and ends with this process.

    Args:
        path: the notebook; not changed unless `out` names it.
        scalar: folder of the trained head, passed to the notebook as `$REASONGENRM_SCALAR`. With `$REASONGENRM_BASE` the
            notebook may use the model hub, otherwise not.
        out: where to write the notebook with its outputs; nothing is written when a cell fails.
        timeout: seconds for each cell.

    Raises:
        DataError: the notebook cannot be read, or an output holds an absolute path.
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
    try:
        notebook: Any = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except FileNotFoundError:
        hint = "run the command in the root folder of the repository"
        raise DataError("file not found", location=str(path), hint=hint) from None
    except Exception as error:  # nbformat, jsonschema and json raise their own kinds for a broken file
        problem, hint = f"not a notebook: {first_line(error)}", "restore the file"
        raise DataError(problem, location=str(path), hint=hint) from error
    with TemporaryDirectory() as scratch:
        environment = os.environ | _QUIET | {VARIABLE: str(scalar.resolve())}
        if not base_name():
            environment["HF_HUB_OFFLINE"] = "1"
        _run(notebook, path, environment, scratch, timeout)
    notebook.metadata.get("language_info", {}).pop("version", None)
    check_outputs(notebook, location=str(path))
    if out is not None:
        write_text(out, nbformat.writes(notebook) + "\n")
    return notebook


def _run(notebook: Any, path: Path, environment: dict[str, str], scratch: str, timeout: float) -> None:
    """Add the outputs to a notebook, with a kernel that keeps all its files in a scratch folder."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    manager = AsyncKernelManager(
        # Sockets in our own folder, not ports; a socket's path has at most 107 bytes.
        transport="ipc" if len(scratch) < 80 else "tcp",
        connection_file=str(Path(scratch, "kernel.json")),
        # Without kernel folders, "python3" means this Python.
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
    )
    client = NotebookClient(notebook, km=manager, timeout=timeout, record_timing=False)
    try:
        client.execute(
            cleanup_kc=True,
            cwd=str(path.resolve().parent),
            env=environment | {"IPYTHONDIR": scratch},
            preexec_fn=die_with_parent,  # one system call, so safe after a fork
        )
    except CellExecutionError as error:
        problem = f"{error.ename}: {(error.evalue.strip().splitlines() or [''])[0]}"
        hint = "correct the cell, or train the head"
    except (CellTimeoutError, DeadKernelError) as error:
        problem, hint = first_line(error), "stop other programs, and try again"
    except RuntimeError as error:
        problem, hint = f"no kernel: {first_line(error)}", "pip install ipykernel"
        raise EngineError(problem, location=str(path), hint=hint) from error
    else:
        return
    raise EngineError(problem, location=f"{path}, code cell {client.code_cells_executed}", hint=hint)


def check_outputs(notebook: Any, location: str = "notebook") -> None:
    """Check that no output of a notebook, as nbformat reads it, contains an absolute path or the home folder.

    Raises:
        DataError: an output does; names the code cell, from 1.
    """
    home = str(Path.home())
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code_cells, 1):
        for output in cell.outputs:
            data = output.get("data", {})
            texts = [content for kind, content in data.items() if kind.startswith("text/")]
            text = "\n".join([output.get("text", ""), *output.get("traceback", []), *texts])
            match = _ABSOLUTE.search(text)
            # A home folder of "/" is that of a system user, and in every text.
            if match or (len(home) > 1 and home in text):
                raise DataError(
                    f"an output holds the path {match.group() if match else home}",
                    location=f"{location}, code cell {number}",
                    hint="show only what does not depend on the machine",
                )
