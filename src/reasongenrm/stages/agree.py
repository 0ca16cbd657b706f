"""`reasongenrm agree`: labelled rows -> verdicts of a judge -> agreement with people -> report and gate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reasongenrm.config.agree import AgreeConfig, AnyJudge
from reasongenrm.console import say, stdout
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.api import DEFAULT_PROMPTS, Judge
from reasongenrm.judge.criteria import load_rubric
from reasongenrm.metrics.people import UNREAD, LabelStatistics, LabelTable
from reasongenrm.records import Drop, content_id
from reasongenrm.report.people import (
    AgreementReport,
    Disagreement,
    agreement_json,
    agreement_page,
    agreement_text,
    summary_tables,
)
from reasongenrm.rows.labels import (
    JudgeLabel,
    LabelledRow,
    judge_label,
    no_rows,
    read_columns,
    read_labels,
)
from reasongenrm.run import Run
from reasongenrm.stages.ask import ask
from reasongenrm.stages.fingerprints import hashed
from reasongenrm.stages.gate import RESULT, KappaGate
from reasongenrm.steps import FILE, Step
from reasongenrm.store import read_jsonl, to_json, write_json, write_jsonl, write_text


def agree(config: AgreeConfig, redo: Iterable[str] = ()) -> bool:
    """Write the agreement of judges with people to the folder `config.out`, print it, and return whether the gate passed.

    The judge's verdicts are kept in `verdicts/<name>/`, by the content of the rows: rows that are added later are judged
    alone, and a killed command continues.

    Args:
        config: see `AgreeConfig`.
        redo: words that name steps to do again: `verdicts.<name>`.

    Raises:
        ConfigError: a setting is not valid, or the judge has changed since it judged these rows.
        DataError: no labelled row can be read, or a file of verdicts has none of the rows.
        EngineError: the judge cannot be used.
    """
    gate = KappaGate.read(config.gate)
    run = Run(config, "agree")
    with run.claim(_steps(config), redo):
        rows = _load(config, run)
        verdicts = {name: dict(part) for name, part in _labels_in_file(rows).items()}
        for name, path in config.verdicts.items():
            _add_judge(verdicts, name, _verdicts_of(path, rows, config.pass_score), "--verdicts")
        if config.judge is not None:
            assert config.judge_name is not None
            _add_judge(verdicts, config.judge_name, _judge(config, run, rows), "--name")
        report = _report(config, rows, verdicts)
        gate.check(report)
        _write(report, run)
        say(f"report: {run.path('agreement.html')}")
        failures = gate.failures(report)
        for failure in failures:
            say(f"gate: {failure}")
        return not failures


def _steps(config: AgreeConfig) -> dict[str, Step]:
    """Return the step of the judge; other numbers are computed again at every call."""
    if config.judge is None:
        return {}
    name = f"verdicts.{config.judge_name}"
    settings = {"pass_score": config.pass_score} | judge_settings(config.judge)
    if config.rubric:
        settings[FILE + config.rubric] = config.rubric
    return hashed({name: Step(settings, (f"verdicts/{config.judge_name}/*",))}, config.folder)


def judge_settings(judge: AnyJudge) -> dict[str, Any]:
    """Return what changes a judge's verdicts, with its files under FILE."""
    if judge.recipe is not None:
        own = judge.recipe
        return {"judge.recipe": own.model_dump(mode="json")} | {
            f"{FILE}{file}": str(file) for file in own.files()
        }
    settings = judge.model_dump(mode="json", exclude={"recipe": True, "engine": True, "other": {"server"}})
    found = {f"judge.{key}": value for key, value in settings.items()}
    found["judge.server.model"] = judge.other.server.model if judge.other else None
    files = [
        judge.adapter,
        judge.model if judge.model and Path(judge.model).is_dir() else None,
        judge.prompts,
    ]
    return found | {f"{FILE}{file}": file for file in files if file}


def _open(judge: AnyJudge, run: Run) -> Judge:
    if judge.recipe is not None:
        return Judge.from_recipe(judge.recipe.recipe, judge.recipe.name, overrides=judge.recipe.overrides)
    if judge.other is not None:
        return Judge.from_other(
            judge.other, prompts=judge.prompts or DEFAULT_PROMPTS, judging=judge.judging,
            state=run.path("verdicts", "batches.jsonl"),
        )  # fmt: skip
    assert judge.model is not None
    return Judge.from_pretrained(
        judge.model, adapter=judge.adapter, reasons=judge.reasons, prompts=judge.prompts, judging=judge.judging,
        engine=judge.engine,
    )  # fmt: skip


def _load(config: AgreeConfig, run: Run) -> list[LabelledRow]:
    """Read the rows, and list those that cannot be read.

    Raises:
        DataError: no row can be read.
    """
    rows: list[LabelledRow] = []
    drops: list[Drop] = []
    for row in read_labels(config.labels, read_columns(config.columns)):
        if isinstance(row, Drop):
            drops.append(row)
        else:
            rows.append(row)
    dropped = run.path("dropped.jsonl")
    if drops:
        write_jsonl(dropped, map(to_json, drops))
    else:
        dropped.unlink(missing_ok=True)
    if not rows:
        raise no_rows(config.labels, len(drops))
    listed = f", {len(drops)} dropped ({dropped})" if drops else ""
    say(f"{config.labels}: {len(rows)} labelled rows{listed}")
    return rows


def _labels_in_file(rows: Iterable[LabelledRow]) -> dict[str, dict[str, JudgeLabel]]:
    """Return judge -> row id -> what the file says of it."""
    found: dict[str, dict[str, JudgeLabel]] = {}
    for row in rows:
        for name, label in row.judges.items():
            found.setdefault(name, {})[row.id] = label
    return found


def _add_judge(
    verdicts: dict[str, dict[str, JudgeLabel]], name: str, part: dict[str, JudgeLabel], key: str
) -> None:
    if name in verdicts:
        hint = "give it another name"
        raise ConfigError(f"two judges are called {name!r}", location=key, hint=hint)
    verdicts[name] = part


def _verdicts_of(path: str, rows: list[LabelledRow], pass_score: float) -> dict[str, JudgeLabel]:
    """Return row id -> the verdict of a file.

    Raises:
        DataError: it cannot be read, or has none of the rows' ids.
    """
    kinds = rows[0].kinds
    lines = {str(line.get("id")): line for line in read_jsonl(Path(path))}
    found = {
        row.id: judge_label(lines[row.id], kinds, pass_score=pass_score) for row in rows if row.id in lines
    }
    if not found:
        hint = "write them with `reasongenrm judge compare --in LABELS`, which keeps the ids"
        raise DataError("none of its ids is that of a labelled row", location=path, hint=hint)
    if len(found) < len(rows):
        say(f"{path}: verdicts for {len(found)} of {len(rows)} rows")
    return found


def _judge(config: AgreeConfig, run: Run, rows: list[LabelledRow]) -> dict[str, JudgeLabel]:
    """Return row id -> the judge's verdict; rows that it has not judged yet are judged now."""
    assert config.judge is not None and config.judge_name is not None
    judge, folder = config.judge, run.path("verdicts", config.judge_name)
    rubric = load_rubric(config.rubric) if config.rubric else None
    done = _kept_verdicts(folder)
    missing = {row.content: row for row in rows if row.content not in done}
    if missing:
        name = hashlib.sha256("".join(sorted(missing)).encode()).hexdigest()[:16]
        columns = ("a", "b") if len(rows[0].answers) == 2 else ("answer",)
        source = folder / f"{name}.rows.jsonl"
        lines = (
            {"id": content, "prompt": row.prompt, **dict(zip(columns, row.answers, strict=True))}
            for content, row in missing.items()
        )
        write_jsonl(source, lines)
        verb = "compare" if len(columns) == 2 else "rate"
        ask(verb, lambda: _open(judge, run), str(source), str(folder / f"{name}.jsonl"), rubric=rubric)
        source.unlink()
        done = _kept_verdicts(folder)
    kinds = rows[0].kinds
    return {
        row.id: judge_label(done[row.content], kinds, pass_score=config.pass_score)
        for row in rows
        if row.content in done
    }


def _kept_verdicts(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(folder.glob("*.jsonl"))
    done = [file for file in files if len(file.suffixes) == 1]  # not the rows, nor what is half written
    return {line["id"]: line for file in done for line in read_jsonl(file)}


def _report(
    config: AgreeConfig, rows: list[LabelledRow], verdicts: Mapping[str, Mapping[str, JudgeLabel]]
) -> AgreementReport:
    table = LabelTable(
        kinds=rows[0].kinds,
        ids=[row.id for row in rows],
        clusters=[content_id(row.prompt) for row in rows],
        people=[row.people for row in rows],
        lengths=[tuple(map(len, row.answers)) for row in rows],
    )
    statistics = LabelStatistics(table, seed=config.seed)
    columns = {
        name: [part[row.id].label or UNREAD if row.id in part else None for row in rows]
        for name, part in verdicts.items()
    }
    judges = {name: found for name, column in columns.items() if (found := statistics.judge(column))}
    without = sorted(columns.keys() - judges.keys())
    for name in without:
        say(f"{name}: no row has both its verdict and a majority; it is left out")
    return AgreementReport(
        source=config.labels,
        rows_id=content_id([(row.content, dict(row.people)) for row in rows]),
        kinds=table.kinds,
        prompts=len(set(table.clusters)),
        seed=config.seed,
        people=statistics.people(),
        judges=judges,
        differences=statistics.differences({name: columns[name] for name in judges}),
        disagreements={
            name: list(_disagreements(rows, statistics.majority, verdicts[name])) for name in judges
        },
    )


def _disagreements(
    rows: list[LabelledRow], majority: list[str | None], verdicts: Mapping[str, JudgeLabel]
) -> Iterator[Disagreement]:
    """Yield the rows on which a judge says something else than the majority, the plainest first.

    The order: share of people with the majority's label, their number, then how sure the judge is of its own label.
    """
    found: list[tuple[float, float, float, LabelledRow, str, JudgeLabel]] = []
    for row, label in zip(rows, majority, strict=True):
        verdict = verdicts.get(row.id)
        if label is None or verdict is None or verdict.label == label:
            continue
        count = list(row.people.values()).count(label)
        sure = 0.0 if verdict.label is None or verdict.prob_a is None else abs(verdict.prob_a - 0.5)
        found.append((-count / len(row.people), -count, -sure, row, label, verdict))
    for _, _, _, row, label, verdict in sorted(found, key=lambda item: (*item[:3], item[3].id)):
        yield Disagreement(
            id=row.id, location=row.location, majority=label, people=dict(row.people),
            label=verdict.label or UNREAD, prob_a=verdict.prob_a,
            prompt=row.prompt[-1]["content"], answers=row.answers,
        )  # fmt: skip


def _write(report: AgreementReport, run: Run) -> None:
    lines = ({"judge": name} | to_json(row) for name, rows in report.disagreements.items() for row in rows)
    write_jsonl(run.path("disagreements.jsonl"), lines)
    write_text(run.path("agreement.md"), agreement_text(report))
    write_text(run.path("agreement.html"), agreement_page(report))
    write_json(run.path(RESULT), agreement_json(report))
    from rich.console import Console

    for table in summary_tables(report):
        Console(file=stdout(), width=120).print(table.rich(narrow=True))
