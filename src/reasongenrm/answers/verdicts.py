"""Judges' verdicts on pairs that people label: columns of a row, output of `judge compare`, or verdicts of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, cast, get_args

from reasongenrm.errors import DataError
from reasongenrm.records import Drop, Winner
from reasongenrm.rows.files import read_rows
from reasongenrm.rows.turns import BadRow, check_text, is_number, kind_of, quoted

JUDGES = "judges"
"""Column of rows: judge -> what it said."""

UNNAMED = "judge"
"""Name of the judge of a row's column `winner`."""

_FIRST_WINS: Mapping[Winner, float] = {"A": 1.0, "tie": 0.5, "B": 0.0}
_SWAPPED: Mapping[Winner, Winner] = {"A": "B", "B": "A", "tie": "tie"}


def swap(winner: Winner, swapped: bool = True) -> Winner:
    """Return a winner with A and B exchanged, if the answers are swapped."""
    return _SWAPPED[winner] if swapped else winner


@dataclass(frozen=True, slots=True)
class JudgeVerdict:
    """What a judge said of a pair.

    Attributes:
        winner: `A` when the file's first answer is better, `B` the second, `tie`, or None when nothing can be read.
        prob_a: P(the first answer is better) in [0, 1]; None if unknown.
        reasons: order -> explanation; in order `BA` the first answer is called B.
    """

    winner: Winner | None
    prob_a: float | None = None
    reasons: Mapping[Literal["AB", "BA"], str] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """Return winner and probability as JSON."""
        return {"winner": self.winner, "prob_a": self.prob_a}

    def reason(self, swapped: bool) -> str:
        """Return the explanation whose letters are those of the shown order, or else the other one, with a note.

        Args:
            swapped: whether the file's second answer is shown as A.
        """
        own, other = ("BA", "AB") if swapped else ("AB", "BA")
        if text := self.reasons.get(cast(Literal["AB", "BA"], own)):
            return text
        text = self.reasons.get(cast(Literal["AB", "BA"], other), "")
        return f"(A and B are exchanged in this reason)\n{text}" if text else ""


def read_row_verdicts(columns: Mapping[str, Any]) -> dict[str, JudgeVerdict]:
    """Return the verdicts in a row of pairs: judge -> verdict.

    They are in the column `judges`, an object whose values are winners or objects with `winner` and `prob_a`; or in the
    columns of `judge compare` (`winner`, `prob_a`, `reason`, `reasons`), as those of the judge `judge`.

    Raises:
        BadRow: a verdict is not valid.
    """
    judges = columns.get(JUDGES)
    if judges is None:
        judges = {}
    if not isinstance(judges, Mapping):
        raise BadRow("bad_judges", f"`{JUDGES}` is {kind_of(judges)}; make it an object: judge -> verdict.")
    verdicts = {
        check_text(name, JUDGES): _verdict(value if isinstance(value, Mapping) else {"winner": value})
        for name, value in judges.items()
    }
    return verdicts | ({UNNAMED: _verdict(columns)} if "winner" in columns else {})


def _verdict(columns: Mapping[str, Any]) -> JudgeVerdict:
    """Return a verdict from the columns of `judge compare`.

    Raises:
        BadRow: a column is not valid.
    """
    winner, probability = columns.get("winner"), columns.get("prob_a")
    if winner is not None and winner not in get_args(Winner):
        raise BadRow("bad_verdict", f"`winner` is {quoted(winner)}; write A, B, tie or null.")
    if probability is not None and not (is_number(probability) and 0 <= probability <= 1):
        raise BadRow("bad_verdict", f"`prob_a` is {quoted(probability)}; give a number from 0 to 1, or null.")
    given = columns.get("reasons") or {}
    if not isinstance(given, Mapping):
        raise BadRow("bad_verdict", f"`reasons` is {kind_of(given)}; make it an object: order -> reason.")
    reasons = {"AB": columns.get("reason"), **given}
    texts = {
        order: check_text(reasons[order], f"reasons.{order}") for order in ("AB", "BA") if reasons.get(order)
    }
    return JudgeVerdict(
        winner, None if probability is None else float(probability), cast(dict[Any, str], texts)
    )


def read_verdicts(path: Path) -> tuple[dict[str, JudgeVerdict], list[Drop]]:
    """Read verdicts by the id of their pair, and the rows that cannot be used.

    Args:
        path: JSONL: output of `judge compare` (columns `id`, `winner`, `prob_a`, `reasons`), or `verdicts.jsonl` of a run's
            evaluation (a line per order, with `pair_id`, of which `a` is the right answer).

    Raises:
        DataError: the file cannot be read, or has no usable row.
    """
    verdicts: dict[str, JudgeVerdict] = {}
    orders: dict[str, dict[str, JudgeVerdict]] = {}
    drops: list[Drop] = []
    for row in read_rows(
        str(path), optional=("id", "pair_id", "order", "winner", "prob_a", "reason", "reasons")
    ):
        if isinstance(row, Drop):
            drops.append(row)
            continue
        try:
            _add_verdict(row.columns, verdicts, orders)
        except BadRow as bad:
            drops.append(Drop(row.location, row.origin, bad.reason, bad.detail, "load"))
    verdicts |= {pair: _merge(list(by_order.values())) for pair, by_order in orders.items()}
    if not verdicts:
        hint = "give the output of reasongenrm judge compare, or a run's verdicts.jsonl"
        raise DataError("no verdict can be read", location=str(path), hint=hint)
    return verdicts, drops


def _add_verdict(
    columns: Mapping[str, Any], verdicts: dict[str, JudgeVerdict], orders: dict[str, dict[str, JudgeVerdict]]
) -> None:
    """Add a row to the verdicts by pair, or to those by pair and order.

    Raises:
        BadRow: a column is missing or not valid, or the pair has a verdict already.
    """
    if "winner" not in columns:
        raise BadRow("missing_column", "There is no winner; a row has id and winner.")
    verdict = _verdict(columns)
    key, order = columns.get("pair_id", columns.get("id")), columns.get("order")
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise BadRow("bad_type", f"`id` is {kind_of(key)}; make it a string.")
    name = check_text(str(key), "id")
    if "pair_id" not in columns:
        known = verdicts
        place = name
    elif order not in ("AB", "BA"):
        raise BadRow("bad_verdict", f"`order` is {quoted(order)}; write AB or BA.")
    else:
        known, place = orders.setdefault(name, {}), order
        if order == "BA":
            verdict = _exchanged(verdict)
    if place in known:
        raise BadRow(
            "duplicate_verdict", f"The pair {quoted(name)} has a verdict already; keep one of the two."
        )
    known[place] = verdict


def _exchanged(verdict: JudgeVerdict) -> JudgeVerdict:
    """Return a verdict of order BA in the order of the file."""
    winner = None if verdict.winner is None else swap(verdict.winner)
    probability = None if verdict.prob_a is None else 1 - verdict.prob_a
    return JudgeVerdict(winner, probability, {"BA": verdict.reasons["AB"]} if verdict.reasons else {})


def _merge(verdicts: Sequence[JudgeVerdict]) -> JudgeVerdict:
    """Combine the verdicts on both orders as `judge.ask.compare_orders` does, without a margin: the mean of P(A) decides where
    each order that was read has one; else the letters do, and two that disagree are a tie."""
    read = [verdict for verdict in verdicts if verdict.winner is not None]
    reasons = {order: text for verdict in verdicts for order, text in verdict.reasons.items()}
    if not read:
        return JudgeVerdict(None, None, reasons)
    known = [verdict.prob_a for verdict in read if verdict.prob_a is not None]
    probability = fmean(known) if len(known) == len(read) else None
    share = fmean(_FIRST_WINS[verdict.winner] for verdict in read if verdict.winner is not None)
    if probability is not None and len(read) > 1:
        share = probability
    winner: Winner = "A" if share > 0.5 else "B" if share < 0.5 else "tie"
    return JudgeVerdict(winner, probability, reasons)


def judge_name(path: Path) -> str:
    """Return the name of the judge of a file of verdicts: the file's; in `<run>/evaluate/<benchmark>/<judge>/` the folder's."""
    folder = path.resolve().parent
    return folder.name if folder.parent.parent.name == "evaluate" else path.stem
