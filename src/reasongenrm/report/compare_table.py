"""What else differs between two runs: their recipes, files, packages and machines, as far as the manifests know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from reasongenrm.report.comparison import CHANGES, ROW_OUTCOMES, Change, Comparison
from reasongenrm.report.pages import printable
from reasongenrm.report.run_files import Manifest
from reasongenrm.report.tables import Entry, escape_markdown, footnotes, grid, score_cell

if TYPE_CHECKING:
    from rich.table import Table


_LONGEST = 100


_FIRST = ("model", "prompts", "templates", "judges", "seed", "limit", "evaluate", "data", "select", "train")


_NONE = "none"


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that is not the same in two runs.

    Attributes:
        setting: a dotted key of the recipe, `file PATH`, a package, or another entry of the manifest.
        before, after: its values, shortened; `none` where there is none.
    """

    setting: str
    before: str
    after: str


def differences(before: Manifest, after: Manifest) -> list[Difference]:
    """Return what differs, the recipe first.

    A run's name is no difference, nor the folder of its own files; of a file that both name, the hashes are compared.
    """
    recipes = [{key: value for key, value in one.recipe.items() if key != "name"} for one in (before, after)]
    found = sorted(_unequal(*recipes), key=_importance)
    found += [(f"file {name}", *hashes) for name, *hashes in _unequal(*map(_files, (before, after))) if None not in hashes]  # fmt: skip
    found += [(f"package {name}", *versions) for name, *versions in _unequal(before.versions, after.versions)]
    ends = [{"git": one.git, "python": one.python, "machine": one.machine} for one in (before, after)]
    found += _unequal(*ends)
    return [Difference(name, _shown(old), _shown(new)) for name, old, new in found]


def _unequal(before: Any, after: Any, *, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted key and both values of every leaf that differs, in the order of the keys; None is absent."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            dotted = f"{key}.{name}" if key else str(name)
            yield from _unequal(before.get(name), after.get(name), key=dotted)
    elif before != after:
        yield key, before, after


def _importance(found: tuple[str, Any, Any]) -> tuple[int, str]:
    """Sort what decides most first, and the rest by name."""
    section = found[0].split(".")[0]
    return (_FIRST.index(section) if section in _FIRST else len(_FIRST)), found[0]


def _files(manifest: Manifest) -> dict[str, str]:
    """Return the hashes of the files that the stage read, those of the run's own folder without its name."""
    files = manifest.settings.get("files", {})
    own = f"runs/{manifest.recipe.get('name')}/"
    return {name.removeprefix(own): value for name, value in files.items()}


def _shown(value: Any) -> str:
    if value is None:
        return _NONE
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


_EXCERPT = 80


_LISTED = 25  # changed rows of a kind in compare.md; changes.jsonl and the page have all of them


_EXPLAINED = (
    "Scores are the benchmark's official ones, in %. The difference is that of the two scores, in points, with its 95% "
    "paired bootstrap interval: rows are resampled within their subsets, what both models said of a row together.",
    "Better and worse: rows that the model alone, and that the reference alone, has right in every order of every "
    "comparison. p: McNemar's exact test of whether the one is as likely as the other (McNemar 1947, Psychometrika "
    "12:153-157).",
    "The last three columns count the rows that changed from the reference to the model: right to wrong and wrong to "
    "right in every order of every comparison, and every other change of outcome. Outcomes: "
    + "; ".join(f"{name}: {note}" for name, note in ROW_OUTCOMES.items())
    + ".",
)


_HOLM = (
    "{count} comparisons are made here; p (Holm) is corrected for that (Holm 1979, Scandinavian Journal of Statistics "
    "6:65-70). The intervals are not: each holds for its own comparison."
)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run that is compared.

    Attributes:
        label: its name here.
        models: those that are compared.
        git: the commit it was evaluated with.
    """

    label: str
    models: tuple[str, ...]
    git: str


@dataclass(frozen=True, slots=True)
class Part:
    """A benchmark's comparisons as a table.

    Attributes:
        title: benchmark and reference.
        headings: of the columns; that of the first is empty.
        lines: one line of cells per comparison.
        notes: what a reader must know before comparing the numbers.
        comparisons: what the lines are about.
    """

    title: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]

    @classmethod
    def of(cls, comparisons: Sequence[Comparison]) -> Part:
        """Return the table of a benchmark's comparisons, which have one reference."""
        reference = comparisons[0].reference
        scores: list[Entry] = [(one.model.label, score, {}) for one in comparisons for score in one.scores]
        return cls(
            f"{reference.benchmark.name}, against {reference.label}",
            ("", *_cells(comparisons[0])),
            tuple((one.model.label, *_cells(one).values()) for one in comparisons),
            (*footnotes(scores), *dict.fromkeys(note for one in comparisons for note in one.notes)),
            tuple(comparisons),
        )


@dataclass(frozen=True, slots=True)
class Report:
    """Some models side by side.

    Attributes:
        comparisons: those of a benchmark stand together.
        notes: what was not compared, and why.
        runs: the runs; the first model of the first one is the reference.
        settings: every other run, and what differs from the first.
    """

    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    runs: tuple[RunFacts, ...]
    settings: tuple[tuple[str, tuple[Difference, ...]], ...]

    @property
    def title(self) -> str:
        """What is compared with what."""
        first, *others = [run.label for run in self.runs]
        return f"{', '.join(others)} against {first}" if others else f"The models of {first}"

    @property
    def parts(self) -> list[Part]:
        """One table per benchmark."""
        by_benchmark = groupby(
            self.comparisons, lambda one: (one.reference.benchmark.key, one.reference.benchmark.kind)
        )
        return [Part.of(list(group)) for _, group in by_benchmark]

    @property
    def correction(self) -> list[str]:
        """What was done about there being several comparisons."""
        return [_HOLM.format(count=len(self.comparisons))] if len(self.comparisons) > 1 else []

    @property
    def explained(self) -> list[str]:
        """What the columns mean."""
        return [*_EXPLAINED, *self.correction]


def tables(report: Report) -> Iterator[Table]:
    """Yield the terminal's tables: one per benchmark, its notes as the caption."""
    from rich.table import Table
    from rich.text import Text

    for part in report.parts:
        caption = Text("\n".join(part.notes)) if part.notes else None
        table = Table(title=Text(part.title), caption=caption, caption_justify="left")
        for number, heading in enumerate(part.headings):
            # One word per line: the cells are wider than these, and shall not wrap.
            table.add_column(
                Text(heading.replace(" ", "\n")), justify="right" if number else "left", overflow="fold"
            )
        for line in part.lines:
            table.add_row(*map(Text, line))  # Text: a name is not markup
        yield table


def markdown(report: Report) -> str:
    """Return the comparison as Markdown; of long lists of rows the beginning."""
    blocks = [f"# {escape_markdown(report.title)}"]
    blocks.append(grid(("run", "models", "git"), [(run.label, ", ".join(run.models), run.git) for run in report.runs], text_columns=3))  # fmt: skip
    blocks += map(escape_markdown, (*report.explained, *report.notes))
    for part in report.parts:
        table = grid(part.headings, part.lines).replace(
            "| (empty) |", "| |", 1
        )  # the corner says nothing on purpose
        blocks += [f"## {escape_markdown(part.title)}", table, *map(escape_markdown, part.notes)]
        for one in part.comparisons:
            blocks += _changes(one)
    blocks += ["## What else differs", *_settings(report)]
    return printable("\n\n".join(blocks)) + "\n"


def versus(one: Comparison) -> str:
    """Return which two models are compared."""
    return f"{one.model.label} against {one.reference.label}"


def transitions(one: Comparison) -> list[tuple[str, str, str]]:
    """Return how many rows went from which outcome to which other one."""
    return [
        (before, after, f"{rows:,}") for (before, after), rows in one.transitions.items() if before != after
    ]


def excerpt(change: Change) -> str:
    """Return the beginning of the row's last turn, on one line."""
    line = " ".join(change.row.history[-1]["content"].split()) if change.row.history else ""
    return line if len(line) <= _EXCERPT else f"{line[:_EXCERPT]}…"


def _cells(one: Comparison) -> dict[str, str]:
    """Return the cells by their headings."""
    reference, model = map(score_cell, one.scores)
    low, high = map(_points, one.interval)
    return {
        "rows": f"{one.rows:,}",
        "reference [95%]": reference,
        "score [95%]": model,
        "difference [95%]": f"{_points(one.difference)} [{low}, {high}]",
        "better": f"{one.paired.better:,}",
        "worse": f"{one.paired.worse:,}",
        "p": _p_value(one.paired.p),
        **({} if one.p_holm is None else {"p (Holm)": _p_value(one.p_holm)}),
        **{kind: f"{rows:,}" for kind, rows in one.counts.items()},
    }


def _points(difference: float) -> str:
    return f"{round(100 * difference, 1) + 0.0:+.1f}"  # + 0.0: no minus before a zero


def _p_value(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _changes(one: Comparison) -> Iterator[str]:
    yield f"### {escape_markdown(versus(one))}: rows that changed"
    if not one.changes:
        yield "None."
        return
    moved = transitions(one)
    if moved:
        yield grid(("with the reference", "with the model", "rows"), moved, text_columns=2)
    for kind in CHANGES:
        changes = [change for change in one.changes if change.kind == kind]
        if changes:
            cut = (
                f" (the first {_LISTED}; all of them are in changes.jsonl)" if len(changes) > _LISTED else ""
            )
            yield f"#### {kind}: {len(changes):,}{cut}"
            rows = [(c.row.id, c.row.subset, c.before, c.after, excerpt(c)) for c in changes[:_LISTED]]
            yield grid(
                ("row", "subset", "with the reference", "with the model", "prompt"), rows, text_columns=5
            )


def _settings(report: Report) -> Iterator[str]:
    first = report.runs[0].label
    if not report.settings:
        yield "All models are of one run."
    for run, found in report.settings:
        yield f"### {escape_markdown(run)} against {escape_markdown(first)}"
        rows = [(one.setting, one.before, one.after) for one in found]
        yield (
            grid(("setting", first, run), rows, text_columns=3)
            if rows
            else "Nothing that the manifests know."
        )
