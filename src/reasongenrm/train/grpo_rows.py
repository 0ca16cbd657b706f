"""Prompts of GRPO: the rows of `grpo.jsonl`, and the other order of their pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.recipe import Recipe, TrainStep
from reasongenrm.errors import DataError
from reasongenrm.records import REFERENCE_POINTS, JudgePrompt, Order, PreferencePair
from reasongenrm.rows.turns import BadRow, check_text, read_points, read_prompt
from reasongenrm.store import read_jsonl
from reasongenrm.train.rollouts import TwoTurns
from reasongenrm.train.tokens import record_files

COLUMNS = "see grpo.jsonl for the columns"


def read_rows(
    recipe: Recipe, step: TrainStep, encoder: ChatEncoder, turns: TwoTurns
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the rows to train on, and counts of them for `training.json`.

    A row has the columns of `grpo.jsonl` that the rewards need, and `ids`, the prompt's token ids. With both orders, rows 2i and
    2i + 1 are the orders of one pair: the one of the file first, the other one rendered from the pair. A pair of which an order
    leaves no room for a reason in the context is left out.

    Raises:
        DataError: no rows, a row without its columns, or one whose pair is not in `pairs.jsonl`.
    """
    both, [path] = recipe.train.grpo.both_orders, record_files(recipe, step)
    file_rows = list(_located_rows(path))
    units = _pair_units(recipe, file_rows) if both else [[row] for _, row in file_rows]
    kept = []
    for unit in units:
        for row in unit:
            row["ids"] = encoder.encode(row["prompt"], generation=True)
        if max(len(row["ids"]) for row in unit) + turns.longest <= recipe.engine.max_model_len:
            kept.append(unit)
    rows = [row for unit in kept for row in unit]
    if not rows:
        problem = "no prompts to train on" if not units else "no prompt leaves room for a reason"
        hint = "set engine.max_model_len higher, or train.grpo.max_tokens lower" if units else _NO_PROMPTS
        raise DataError(problem, location=str(path), hint=hint)
    return rows, {
        "prompts": len(file_rows),
        "prompts_left_out": _all_prompts(recipe.folder) - len(file_rows),
        "too_long": (len(units) - len(kept)) * (2 if both else 1),
        "rows": len(rows),
    }


_NO_PROMPTS = "see data_report.html: records.grpo keeps prompts that the student solves in some of its samples, but not in all"


def _pair_units(
    recipe: Recipe, file_rows: Sequence[tuple[str, dict[str, Any]]]
) -> list[list[dict[str, Any]]]:
    """Return both orders of every pair; a pair with both orders in the file comes once."""
    pairs = _read_pairs(recipe.folder / "pairs.jsonl")
    wording = PromptFile.load(recipe.prompts)
    units: dict[str, list[dict[str, Any]]] = {}
    for location, row in file_rows:
        if row["pair_id"] not in units:
            units[row["pair_id"]] = [row, _mirrored(row, pairs, wording, location)]
    return list(units.values())


def _all_prompts(folder: Path) -> int:
    """Return the number of judge prompts of stage 1; those that are always or never solved are not in grpo.jsonl."""
    return sum(1 for _ in read_jsonl(folder / "prompts.jsonl"))


def _read_pairs(path: Path) -> dict[str, PreferencePair]:
    pairs = (msgspec.convert(row, PreferencePair) for row in read_jsonl(path))
    return {pair.id: pair for pair in pairs}


def _located_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for line, row in enumerate(read_jsonl(path), 1):
        location = f"{path}:{line}"
        try:
            texts = {key: check_text(row.get(key), key) for key in ("winner", "id", "pair_id")}
            prompt = read_prompt(row.get("prompt"), "prompt")
            points = read_points(row.get(REFERENCE_POINTS))
            if texts["winner"] not in ("A", "B"):
                raise BadRow("bad_winner", f"winner {texts['winner']!r} is not A or B")
        except BadRow as error:
            raise DataError(error.detail, location=location, hint=COLUMNS) from None
        yield (
            location,
            texts | {"prompt": list(prompt), REFERENCE_POINTS: points, "source": str(row.get("source", ""))},
        )


def _mirrored(
    row: dict[str, Any], pairs: dict[str, PreferencePair], wording: PromptFile, location: str
) -> dict[str, Any]:
    """Return the row of the other order of a pair.

    Raises:
        DataError: the pair is missing, or its other answer is the chosen one.
    """
    pair = pairs.get(row["pair_id"])
    if pair is None:
        raise DataError(
            f"the pair {row['pair_id']} is not in pairs.jsonl", location=location,
            hint="keep both files of one run, or set train.grpo.both_orders=false",
        )  # fmt: skip
    order: Order = "BA" if row["winner"] == "A" else "AB"
    prompt: JudgePrompt = judge_prompt(pair, order, wording)
    if list(prompt.messages) == row["prompt"]:
        problem = f"the winner is not {row['winner']}: in pairs.jsonl {prompt.winner} is the chosen answer"
        raise DataError(problem, location=location, hint="keep both files of one run")
    return row | {"id": prompt.id, "winner": prompt.winner, "prompt": list(prompt.messages)}
