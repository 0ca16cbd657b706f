"""`reasongenrm select`: compare selectors on the scored reasons of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reasongenrm.config.recipe import Recipe
from reasongenrm.console import stdout
from reasongenrm.errors import ConfigError
from reasongenrm.reasons.select import selector
from reasongenrm.records import SELECTORS, Selector
from reasongenrm.report.tables import TextTable
from reasongenrm.run import Run
from reasongenrm.stages.reasons import read_scored


@dataclass
class SelectorComparison:
    """What one selector selects, compared with another one.

    Attributes:
        kept: prompts with a selected reason.
        prompts: prompts with a scored reason.
        tokens: of all selected reasons, under the student's tokenizer.
        both, same: prompts for which the other selector selects a reason too, and those of them with the same one.
    """

    kept: int = 0
    prompts: int = 0
    tokens: int = 0
    both: int = 0
    same: int = 0

    @property
    def mean_tokens(self) -> float:
        """Mean length of the selected reasons, in tokens."""
        return self.tokens / self.kept if self.kept else 0.0

    @property
    def overlap(self) -> float:
        """Share of `both` that is the same, in [0, 1]."""
        return self.same / self.both if self.both else 0.0


def compare_selectors(
    recipe: Recipe, run: Run, names: Sequence[Selector], against: Selector
) -> dict[Selector, SelectorComparison]:
    """Apply each of the selectors to `scored.jsonl`; no sampling, no scoring, and no file is written.

    Raises:
        ConfigError: the run has no scored reasons, or the formula cannot be evaluated.
    """
    if not run.path("scored.jsonl").exists():
        raise ConfigError("no scored reasons yet", location=str(run.folder), hint="run 1_prepare.sh first")
    rules = {name: selector(recipe.select, recipe.seed, name) for name in (*names, against)}
    comparisons = {name: SelectorComparison() for name in names}
    for _, group in read_scored(run):
        choices = {name: rule(group) for name, rule in rules.items()}
        other = choices[against]
        for name, row in comparisons.items():
            row.prompts += 1
            if choice := choices[name]:
                row.kept += 1
                row.tokens += choice.reason.tokens
                row.both += other is not None
                row.same += other is not None and choice.reason.id == other.reason.id
    return comparisons


def select(recipe: Recipe, names: Sequence[Selector], against: Selector | None) -> None:
    """Print what other selectors would select from the reasons of a finished run.

    Raises:
        ConfigError: see `compare_selectors`.
    """
    from rich.console import Console

    against = against or recipe.select.selector
    comparisons = compare_selectors(recipe, Run(recipe, "prepare"), names or SELECTORS, against)
    headings = ("selector", "prompts", "kept", "share", "mean tokens", f"same as {against}")
    rows = [
        (name, str(row.prompts), str(row.kept), f"{100 * row.kept / max(1, row.prompts):.1f} %",
         f"{row.mean_tokens:.1f}", f"{100 * row.overlap:.1f} %")
        for name, row in comparisons.items()
    ]  # fmt: skip
    title = f"{recipe.name}: prompts with a scored reason, and what each selector keeps"
    Console(file=stdout(), width=110).print(TextTable(headings, tuple(rows), title=title).rich())
