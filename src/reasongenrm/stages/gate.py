"""The gate of `reasongenrm agree`: a least kappa, and a most by which it may fall below that of an earlier call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasongenrm.config.agree import Gate
from reasongenrm.console import say
from reasongenrm.errors import ConfigError
from reasongenrm.report.people import AgreementReport
from reasongenrm.store import read_json

RESULT = "agreement.json"
"""File of the numbers in the folder of a call."""


class KappaGate:
    """The gate: a least kappa, and the kappas of an earlier call.

    Args:
        gate: its settings.
        content: of the baseline's file; None without one.
    """

    def __init__(self, gate: Gate, content: Mapping[str, Any] | None) -> None:
        self.gate, self.content = gate, content

    @classmethod
    def read(cls, gate: Gate) -> KappaGate:
        """Return the gate.

        Raises:
            ConfigError: the baseline does not exist, or is not a result of `agree`.
        """
        if gate.baseline is None:
            return cls(gate, None)
        path, hint = Path(gate.baseline).expanduser(), f"give {RESULT} of an earlier `reasongenrm agree`"
        if not path.is_file():
            raise ConfigError("file not found", location=str(path), hint=hint)
        content = read_json(path)
        judges = content.get("judges") if isinstance(content, dict) else None
        if not isinstance(judges, dict) or not all(
            isinstance(one, dict) and "kappa" in one for one in judges.values()
        ):
            raise ConfigError("not a result of `reasongenrm agree`", location=str(path), hint=hint)
        return cls(gate, content)

    def check(self, report: AgreementReport) -> None:
        """Check that the gate can say something.

        Raises:
            ConfigError: there is no judge, or none of the baseline's.
        """
        if self.gate.min_kappa is None and self.content is None:
            return
        if not report.judges:
            hint = "give a judge: a recipe, --model, --verdicts, or the column judges"
            raise ConfigError("the gate has no judge to check", location=report.source, hint=hint)
        if self.content is None:
            return
        if not self.content["judges"].keys() & report.judges.keys():
            hint = f"it has {', '.join(self.content['judges'])}; name this judge so with --name"
            raise ConfigError(
                "none of these judges is in the baseline", location=str(self.gate.baseline), hint=hint
            )
        if self.content.get("rows_id") != report.rows_id:
            say(
                f"{self.gate.baseline}: the baseline has other rows or labels; the drop is not of the same rows"
            )

    def failures(self, report: AgreementReport) -> list[str]:
        """Return one line for each judge that fails."""
        lines = []
        for name, judge in report.judges.items():
            kappa = judge.kappa.value
            if kappa is None:
                lines.append(f"{name}: kappa is undefined, since all labels are equal")
                continue
            if self.gate.min_kappa is not None and kappa < self.gate.min_kappa:
                lines.append(f"{name}: kappa {kappa:.3f} is below {self.gate.min_kappa:g}")
            before = (self.content or {"judges": {}})["judges"].get(name, {}).get("kappa")
            before = before.get("value") if isinstance(before, Mapping) else None
            if before is not None and before - kappa > self.gate.max_drop:
                lines.append(
                    f"{name}: kappa {kappa:.3f} is more than {self.gate.max_drop:g} below the baseline's {before:.3f}"
                )
        return lines
