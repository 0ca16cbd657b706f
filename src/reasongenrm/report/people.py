"""Report of `reasongenrm agree`: people's agreement with each other and with judges, as JSON, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reasongenrm.metrics.people import (
    JudgeAgreement,
    JudgeDifference,
    PeopleAgreement,
    Value,
)
from reasongenrm.report.pages import render
from reasongenrm.report.tables import MISSING, TextTable, percent, points

SHOWN = 20
"""Disagreements per judge that the page shows; the files have all."""

KAPPA_NOTE = (
    "Kappa is 1 for full agreement and 0 for agreement by chance. Intervals (95%) are bootstraps over prompts: rows with the same "
    "prompt are drawn together."
)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A row on which a judge says something else than people's majority.

    Attributes:
        id, location: of the row.
        majority: people's label.
        people: annotator -> label.
        label: the judge's, or `unread`.
        prob_a: see `JudgeLabel`.
        prompt: the last user turn.
        answers: two, or one.
    """

    id: str
    location: str
    majority: str
    people: Mapping[str, str]
    label: str
    prob_a: float | None
    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AgreementReport:
    """All numbers of a call.

    Attributes:
        source: file of the labels.
        rows_id: content hash of rows and labels.
        kinds: the labels that people may give.
        prompts: number of different prompts.
        seed: of the intervals.
        people: agreement of the annotators.
        judges: judge -> its agreement with people.
        differences: of every two judges.
        disagreements: judge -> rows, the plainest first.
    """

    source: str
    rows_id: str
    kinds: tuple[str, ...]
    prompts: int
    seed: int
    people: PeopleAgreement
    judges: Mapping[str, JudgeAgreement]
    differences: Sequence[JudgeDifference]
    disagreements: Mapping[str, Sequence[Disagreement]]


def agreement_json(report: AgreementReport) -> dict[str, Any]:
    """Return every number; the disagreements are in files of their own."""
    numbers = asdict(report)
    numbers.pop("disagreements")
    return {"level": 0.95} | numbers


def number(value: Value | None) -> str:
    """Return a kappa with its interval."""
    if value is None or value.value is None:
        return MISSING
    text = f"{value.value + 0.0:.3f}"  # + 0.0: no "-0.000"
    return text if value.interval is None else f"{text} [{value.interval[0]:.3f}, {value.interval[1]:.3f}]"


def share(value: Value | None) -> str:
    """Return a share in percent with its interval."""
    if value is None or value.value is None:
        return MISSING
    text = percent(value.value)
    return (
        text
        if value.interval is None
        else f"{text} [{percent(value.interval[0])}, {percent(value.interval[1])}]"
    )


def difference(value: Value | None) -> str:
    """Return a difference of shares in percentage points with its interval."""
    if value is None or value.value is None:
        return MISSING
    text = points(value.value)
    return (
        text
        if value.interval is None
        else f"{text} [{points(value.interval[0])}, {points(value.interval[1])}]"
    )


def summary_tables(report: AgreementReport) -> list[TextTable]:
    """Return the tables for the terminal: people, judges, and the comparison of judges."""
    tables = [
        _people_table(report.people),
        _judges_table(report.judges),
        _differences_table(report.differences),
    ]
    return [table for table in tables if table.rows]


def _people_table(people: PeopleAgreement) -> TextTable:
    rows = [
        (f"{two.one} and {two.other}", f"{two.rows}", number(two.kappa), share(two.agreement))
        for two in people.two
    ]
    if len(people.two) > 1:
        mean = MISSING if people.mean_kappa is None else f"{people.mean_kappa:.3f}"
        rows.append(("mean of the pairs", "", mean, ""))
    if people.fleiss is not None and people.fleiss_raters > 2:
        rows.append(
            (
                f"Fleiss' kappa, {people.fleiss_raters} labels",
                f"{people.fleiss_rows}",
                number(people.fleiss),
                "",
            )
        )
    if people.alpha is not None:
        rows.append(("Krippendorff's alpha", "", number(people.alpha), ""))
    rows += [
        (f"{name} and the others' majority", "", number(value), "") for name, value in people.others.items()
    ]
    labels = ", ".join(f"{count} {label}" for label, count in sorted(people.labels.items()))
    notes = (f"{people.rows} rows, of which {people.majority} have a majority; labels: {labels}.", KAPPA_NOTE)
    return TextTable(
        ("people", "rows", "kappa [95%]", "equal, % [95%]"), tuple(rows), title="People", notes=notes
    )


def _judges_table(judges: Mapping[str, JudgeAgreement]) -> TextTable:
    rows = [
        (
            name, number(one.kappa), share(one.accuracy), share(one.macro_f1), f"{one.rows}", f"{one.agreeing}",
            f"{one.disagreeing}", f"{one.unread}",
        )
        for name, one in judges.items()
    ]  # fmt: skip
    headings = (
        "judge",
        "kappa [95%]",
        "accuracy, % [95%]",
        "macro-F1, % [95%]",
        "n",
        "agreeing",
        "disagreeing",
        "unread",
    )
    note = "Against people's majority; n = agreeing + disagreeing + unread."
    return TextTable(headings, tuple(rows), title="Judges and people", notes=(note,))


def _differences_table(differences: Sequence[JudgeDifference]) -> TextTable:
    rows = [
        (
            one.one, one.other, number(one.kappa), difference(one.accuracy),
            f"{one.test.better} and {one.test.worse}", f"{one.p:.3g}", f"{one.rows}",
        )
        for one in differences
    ]  # fmt: skip
    headings = ("judge", "minus", "kappa [95%]", "accuracy, points [95%]", "right alone", "p", "rows")
    note = "Paired: both judges on the same rows. p: McNemar's exact test, with Holm's correction for all comparisons."
    return TextTable(headings, tuple(rows), text_columns=2, title="Judges compared", notes=(note,))


def _detail_tables(name: str, one: JudgeAgreement) -> Iterator[TextTable]:
    rates = [(f"share of {label} that it gives", share(value)) for label, value in one.recall.items()]
    if "pass" in one.recall or "fail" in one.recall:
        names = {"pass": "true-positive rate (of pass)", "fail": "true-negative rate (of fail)"}
        rates = [(names[label], share(value)) for label, value in one.recall.items()]
    people = [(f"kappa with {who}", number(value)) for who, value in one.annotators.items()]
    bias = []
    if one.position is not None:
        bias.append(("position: A, more than people", difference(one.position)))
    if one.length is not None:
        bias.append(("length: the longer answer, more than people", difference(one.length)))
    alpha = [("Krippendorff's alpha, the judge as one more rater", number(one.alpha))]
    note = "Bias: percentage points by which the judge chooses a side oftener than people, on rows where both choose an answer."
    yield TextTable(
        ("measure", "value [95%]"),
        tuple(rates + people + alpha + bias),
        title=name,
        notes=(note,) if bias else (),
    )
    sizes = [
        (f"{size.rows}", *("–" if half is None else f"± {half:.3f}" for half in (size.kappa, size.accuracy)))
        for size in one.sizes
    ]
    text = "Half widths of the 95% interval, by resamples of these rows; twice as many rows make it about 30 % narrower."
    yield TextTable(("labelled rows", "kappa", "accuracy"), tuple(sizes), text_columns=0, title=f"{name}: how many labels", notes=(text,))  # fmt: skip


def agreement_text(report: AgreementReport) -> str:
    """Return the report as Markdown."""
    tables = [
        *summary_tables(report),
        *(t for name, one in report.judges.items() for t in _detail_tables(name, one)),
    ]
    parts = [f"# {_title(report)}\n", _summary(report) + "\n"]
    parts += [f"## {table.title}\n\n{table.markdown()}" for table in tables]
    return "\n".join(parts)


def agreement_page(report: AgreementReport) -> str:
    """Return the report as one HTML document; all text is escaped, and nothing is loaded from the network."""
    sections = [_section(table.title, [_untitled(table)]) for table in summary_tables(report)]
    for name, one in report.judges.items():
        details, sizes = _detail_tables(name, one)
        sections.append(_section(name, [_untitled(details), sizes]))
        rows = report.disagreements[name]
        if rows:
            shown = f"{min(len(rows), SHOWN)} of {len(rows)} rows; all are in disagreements.jsonl."
            section = _section(
                f"{name}: disagreements", [], texts=[shown], cards=[_card(row) for row in rows[:SHOWN]]
            )
            sections.append(section)
    return render(
        "agreement_report.html.jinja", title=_title(report), summary=[_summary(report)], sections=sections
    )


def _title(report: AgreementReport) -> str:
    return f"Agreement with people: {report.source}"


def _summary(report: AgreementReport) -> str:
    people = report.people
    text = f"{people.rows} rows of {report.prompts} prompts"
    if people.alpha is not None:
        text += f"; people agree with each other with Krippendorff's alpha {number(people.alpha)}"
    for name, one in report.judges.items():
        text += f"; {name} agrees with their majority with kappa {number(one.kappa)}"
    return text + "."


def _section(title: str, tables: list[TextTable], **parts: Any) -> dict[str, Any]:
    return {"title": title, "texts": [], "tables": tables, "pictures": [], "cards": []} | parts


def _untitled(table: TextTable) -> TextTable:
    return TextTable(table.headings, table.rows, table.text_columns, "", table.notes)


def _card(row: Disagreement) -> dict[str, Any]:
    people = ", ".join(f"{who}: {label}" for who, label in row.people.items())
    names = ("Answer A", "Answer B") if len(row.answers) == 2 else ("Answer",)
    sure = (
        ""
        if row.prob_a is None
        else f" (P(A) {row.prob_a:.2f})"
        if len(row.answers) == 2
        else f" ({row.prob_a:.2f})"
    )
    title = f"People {row.majority}, judge {row.label}{sure}"
    texts = [("Row", f"{row.id} ({row.location})"), ("Labels", people), ("Prompt", row.prompt)]
    return {"title": title, "texts": texts + list(zip(names, row.answers, strict=True))}
