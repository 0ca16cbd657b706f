"""`AppSources`: what `reasongenrm app` was started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reasongenrm.app.slot import JudgeSlot

if TYPE_CHECKING:
    from reasongenrm.config.recipe import Recipe


@dataclass(frozen=True, slots=True)
class AppSources:
    """Inputs of the page's tabs.

    Attributes:
        recipe: the recipe of the judge that loads at the start; None: none does.
        judge: that judge's name in the recipe; None: the recipe's first.
        runs: folder of the run folders.
        answers: answers to rank; None: the tab Rank says how to give them.
        ranks: file that receives the ranked answers.
        pairs: pairs to label; None: the tab Label says how to give them.
        labels: file that receives the labels.
        verdicts: a judge's verdicts on the pairs, shown after a label; None if there are none beside those in the pairs.
        local: whether only this machine can open the page; else it connects to no server that a visitor names, and reads
            no folder but those of the runs.
        annotator: first value of the fields that ask for a name.
        slot: the judge that the page holds.
    """

    recipe: Recipe | None = None
    judge: str | None = None
    runs: Path = Path("runs")
    answers: Path | None = None
    ranks: Path | None = None
    pairs: Path | None = None
    labels: Path | None = None
    verdicts: Path | None = None
    local: bool = True
    annotator: str = ""
    slot: JudgeSlot = field(default_factory=JudgeSlot)
