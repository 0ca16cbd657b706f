"""The rubric that `reasongenrm rubric draft` writes for a person to edit, and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from reasongenrm.metrics.intervals import McNemar
from reasongenrm.metrics.label_consistency import Share, Worth
from reasongenrm.report.tables import MISSING, TextTable, one_line, percent

KEPT = "kept"


@dataclass(frozen=True, slots=True)
class DraftedCriterion:
    """A criterion that was judged.

    Attributes:
        name, text: of the criterion.
        proposed: number of proposals with this or a near-equal text.
        fate: `kept`, or why it is left out.
        selection: on the rows that select.
        weight: of a kept one.
        test: of a kept one, on rows that neither the writer nor the selection saw.
    """

    name: str
    text: str
    proposed: int
    fate: str
    selection: Worth
    weight: float | None = None
    test: Worth | None = None


@dataclass(frozen=True, slots=True)
class DraftReport:
    """All numbers of a draft.

    Attributes:
        source: file of the rows.
        rows: part (`propose`, `select`, `test`; `dropped`, `repeated`) -> number of rows.
        answers: outcome of the writer's answers -> their number; `bad criteria`: criteria in them that cannot be used.
        proposals: number of criteria that can be read; `candidates` of them are different ones.
        criteria: those that were judged, the kept ones first.
        together: name of a way to decide the test rows -> share of right verdicts, ties as half.
        better: McNemar's test of the rubric against the judge without one, on the test rows.
    """

    source: str
    rows: Mapping[str, int]
    answers: Mapping[str, int]
    proposals: int
    candidates: int
    criteria: Sequence[DraftedCriterion]
    together: Mapping[str, Share]
    better: McNemar | None

    @property
    def kept(self) -> list[DraftedCriterion]:
        """The criteria of the rubric."""
        return [one for one in self.criteria if one.fate == KEPT]

    def to_json(self) -> dict[str, Any]:
        """Return every number."""
        return asdict(self)


def share_text(share: Share) -> str:
    """Return a share in percent with its interval."""
    if share.value is None or share.interval is None:
        return MISSING
    return f"{percent(share.value)} [{percent(share.interval[0])}, {percent(share.interval[1])}]"


def rubric_yaml(report: DraftReport) -> str:
    """Return the rubric as YAML; comments hold the numbers."""
    lines = [
        f"# Drafted by `reasongenrm rubric draft` from {one_line(report.source)!r}: edit names, texts and weights, add levels, remove what is wrong.",
        f"# Right verdicts in percent on {report.rows['test']} rows that neither the writer nor the selection saw, with 95% intervals:",
        *(f"#   {name}: {share_text(share)}" for name, share in report.together.items()),
        "# A criterion's accuracy is that on the rows which it decides: both orders name the same answer.",
        "criteria:",
    ]
    for one in report.kept:
        assert one.test is not None
        lines.append(
            f"  # accuracy {share_text(one.test.accuracy)}, decides {percent(one.test.coverage)} of the rows, "
            f"proposed {one.proposed} time{'s' * (one.proposed != 1)}"
        )
        keys = {"name": one.name, "text": one.text, "weight": round(one.weight or 1.0, 2) or 0.01}
        dumped = yaml.safe_dump(keys, sort_keys=False, allow_unicode=True, width=10_000).splitlines()
        lines += [f"  {'- ' if number == 0 else '  '}{line}" for number, line in enumerate(dumped)]
    return "\n".join(lines) + "\n"


def draft_tables(report: DraftReport) -> list[TextTable]:
    """Return the tables of the report."""
    kept = [
        (one.name, f"{one.weight:.2f}", share_text(one.test.accuracy), percent(one.test.coverage), str(one.test.unread))
        for one in report.kept
        if one.test is not None and one.weight is not None
    ]  # fmt: skip
    judged = [
        (one.name, one.fate, str(one.proposed), share_text(one.selection.accuracy), percent(one.selection.coverage))
        for one in report.criteria
    ]  # fmt: skip
    together = [(name, share_text(share)) for name, share in report.together.items()]
    notes: tuple[str, ...] = ()
    if report.better is not None:
        b = report.better
        notes = (
            f"The rubric is right on {b.better} rows that the judge alone has wrong, and wrong on {b.worse} that it has right "
            f"(McNemar's exact test: p = {b.p:.3g}).",
        )
    measured = "Measured on rows that neither the writer nor the selection saw."
    return [
        TextTable(("criterion", "weight", "accuracy", "decides", "unread"), tuple(kept), title="The rubric", notes=(measured,)),
        TextTable(("verdict by", "right"), tuple(together), title="Together", notes=notes),
        TextTable(
            ("criterion", "result", "proposed", "accuracy", "decides"), tuple(judged), text_columns=2, title="All candidates",
            notes=("Measured on the rows that select: the kept ones look better here than they are.",),
        ),
    ]  # fmt: skip


def draft_markdown(report: DraftReport) -> str:
    """Return the report."""
    counts = {
        "Rows": report.rows,
        "Answers of the writer": report.answers,
        "Criteria": {"proposed": report.proposals, "different": report.candidates, "judged": len(report.criteria), "kept": len(report.kept)},
    }  # fmt: skip
    lines = ["# Drafted rubric", ""]
    for title, numbers in counts.items():
        lines.append(f"{title}: {', '.join(f'{count} {name}' for name, count in numbers.items() if count)}.")
    parts = [f"\n## {table.title}\n\n{table.markdown()}" for table in draft_tables(report) if table.rows]
    texts = [f"- {one_line(one.name)}: {one_line(one.text)}" for one in report.kept]
    if texts:
        parts.insert(1, "\n" + "\n".join(texts) + "\n")
    return "\n".join(lines) + "\n" + "".join(parts)
