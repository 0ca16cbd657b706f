"""`reasongenrm doctor`: print every check, and which kernels vLLM uses."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from reasongenrm.config.recipe import Recipe
from reasongenrm.console import show
from reasongenrm.doctor.checks import Check, all_checks
from reasongenrm.doctor.job import TINY, Job
from reasongenrm.doctor.measure import last_error, run_limited
from reasongenrm.errors import ConfigError

KERNEL_SECONDS = 90.0
"""Time for vLLM to say which kernels it uses; most of it is its import."""


def examine(recipe: Recipe) -> None:
    """Print one line per check.

    Raises:
        ConfigError: a check failed.
    """
    failed = 0
    for check in all_checks(recipe):
        show(check)
        failed += check.status == "fail"
    show(next(kernel_check(recipe)))
    if failed:
        raise ConfigError(
            f"{failed} check{'s' * (failed > 1)} failed", location="doctor", hint="see the lines with fail"
        )


def kernel_check(recipe: Recipe) -> Iterator[Check]:
    """Yield vLLM's device, model runner and attention kernel for the recipe's model."""
    with tempfile.TemporaryDirectory(prefix="reasongenrm-doctor-") as folder:
        job = Job(Path(folder), False, TINY)
        job.save()
        raw = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        (job.folder / "source.yaml").write_text(raw, encoding="utf-8")
        log = job.folder / "log"
        command = [sys.executable, "-m", "reasongenrm.doctor.parts", "kernels", folder]
        code, problem = run_limited(command, dict(os.environ), log, KERNEL_SECONDS, time.monotonic())
        rows = job.rows()
        if code == 0 and rows:
            row = rows[0]
            text = f"vLLM on {row['device']}, model runner {row['runner']}, attention {row['attention']}"
            yield Check("ok", "serving", text)
            return
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        yield Check(
            "warn", "serving", f"vLLM does not say which kernels it uses: {problem or last_error(lines)}"
        )
