"""PPE, preference proxy evaluations: human votes, and questions whose answers can be checked.

How to Evaluate Reward Models for RLHF. Frick et al. 2024, https://arxiv.org/abs/2410.14872
Upstream: README of https://github.com/lmarena/PPE; the dataset cards of lmarena-ai/PPE-Human-Preference-V1 and
lmarena-ai/PPE-{MMLU-Pro,MATH,GPQA,IFEval,MBPP-Plus}-Best-of-K
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from reasongenrm.benchmarks import base, loading
from reasongenrm.benchmarks.base import Benchmark, Results, Shares, Table
from reasongenrm.records import Row, content_id
from reasongenrm.rows.files import RawRow
from reasongenrm.rows.turns import BadRow, is_list, kind_of, quoted

HUMAN = "Human preference"
CORRECTNESS = "Correctness"
ROWS = {"MMLU-Pro": 512, "MATH": 512, "GPQA": 512, "IFEval": 512, "MBPP-Plus": 507}
"""Subset of the correctness part -> questions, as published (2,555 in all)."""

FLAGS = ("hard_prompt", "easy_prompt", "if_prompt", "math_prompt", "is_code")
"""Boolean columns of the human part, the kinds of a prompt; a prompt can have several."""

MAX_PAIRS = 16
"""Largest number of comparisons of a question without a list of them; more are sampled down to it."""

_ANSWERS = tuple(f"response_{number}" for number in range(1, 33))
_BEST_OF_K = re.compile(r"PPE-(.+)-Best-of-K", re.IGNORECASE)
_WINNERS = {"model_a": 0, "model_b": 1, "1": 0, "2": 1, "tie": None, "tie (bothbad)": None}


class PPE(Benchmark):
    """PPE; the score is the mean of its two parts, or the accuracy of one part if the rows have only that."""

    name = "PPE"
    split = "test"  # of the correctness datasets: train
    columns = ("question_id", "prompt", "question", "winner", "language", *FLAGS, "subset",
               "scores", "responses", *_ANSWERS, "sampled_conflict_pairs")  # fmt: skip
    row_hint = (
        "a row has the columns prompt, response_1, response_2 and winner, or prompt, responses and scores"
    )

    def read_row(self, raw: RawRow) -> Row:
        """See `Benchmark`; a row with `scores` belongs to the correctness part.

        A vote for neither answer is a Drop (`human_tie`), and so is a question whose answers are all right or all wrong.
        Without `sampled_conflict_pairs` (two indexes in `scores`, from 0) every right answer is compared with every wrong
        one; a repeated comparison counts once.
        """
        return _correctness(raw) if raw.columns.get("scores") is not None else _human(raw)

    def table(self, rows: Sequence[Row]) -> Table:
        """See `Benchmark`; every vote has the same weight; in the correctness part, every benchmark has."""
        votes = Counter(row.subset for row in rows if row.details["part"] == HUMAN)
        checked = {row.subset for row in rows if row.details["part"] == CORRECTNESS}
        sections: dict[str, dict[str, int]] = {HUMAN: dict(sorted(votes.items()))} if votes else {}
        if checked:
            sections[CORRECTNESS] = dict.fromkeys([*ROWS, *sorted(checked - set(ROWS))], 1)
        return Table(self.name, sections, ROWS)

    def details(self, rows: Sequence[Row], results: Results, sections: Shares) -> Shares:
        """Return the accuracy per flag, and `best of k`, the share of questions whose highest-rated answer is right.

        Only answers that were compared count; those that share the highest rating share the question.
        """
        details: Shares = {}
        for flag in FLAGS:
            flagged = [row for row in rows if flag in row.details.get("flags", ())]
            credits = (self.row_credit(row, base.row_results(row, results)) for row in flagged)
            details[flag] = base.share(credits)
        questions = [row for row in rows if row.details["part"] == CORRECTNESS]
        details["best of k"] = base.share(base.best_is_right(row, results) for row in questions)
        return details


def _human(raw: RawRow) -> Row:
    winner = loading.one_of(raw, "winner", _WINNERS)
    if winner is None:
        raise BadRow("human_tie", "The vote is for neither answer; the accuracy counts only votes for one.")
    answers = [loading.text(raw, "response_1"), loading.text(raw, "response_2")]
    subset = f"human/{loading.text(raw, 'language', default='').strip() or 'unknown'}"
    details = {"part": HUMAN, "flags": [flag for flag in FLAGS if raw.columns.get(flag) is True]}
    turns = loading.prompt(raw, "prompt", "question")
    return Row.make(subset, turns, [answers[winner]], [answers[1 - winner]], details=details)


def _correctness(raw: RawRow) -> Row:
    turns = loading.prompt(raw, "prompt", "question")
    answers = _answers(raw)
    scores = raw.columns["scores"]
    if not is_list(scores) or not all(isinstance(score, bool) or score in (0, 1) for score in scores):
        raise BadRow("bad_type", "`scores` must be a list of booleans, one per answer.")
    if len(scores) != len(answers):
        raise BadRow("bad_count", f"There are {len(answers)} answers and {len(scores)} scores.")
    pairs = _pairs(raw, [bool(score) for score in scores], content_id(turns, answers))
    rights, wrongs = sorted({i for i, _ in pairs}), sorted({j for _, j in pairs})
    return Row.make(
        _benchmark(raw),
        turns,
        [answers[i] for i in rights],
        [answers[j] for j in wrongs],
        places=[(rights.index(i), len(rights) + wrongs.index(j)) for i, j in pairs],
        details={"part": CORRECTNESS},
    )


def _answers(raw: RawRow) -> list[str]:
    if raw.columns.get("responses") is not None:
        return loading.texts(raw, "responses")
    names = [name for name in _ANSWERS if raw.columns.get(name) is not None]
    if not names or names != list(_ANSWERS[: len(names)]):
        problem = f"Name the answers `responses`, or `response_1`, `response_2`, …; found: {', '.join(names) or 'none'}."
        raise BadRow("missing_column", problem)
    return [loading.text(raw, name) for name in names]


def _pairs(raw: RawRow, scores: Sequence[bool], key: str) -> list[tuple[int, int]]:
    """Return the comparisons as (index of a right answer, index of a wrong one); `key` seeds their sample."""
    sampled = raw.columns.get("sampled_conflict_pairs")
    if sampled is not None:
        return _sampled(sampled, scores)
    rights = [index for index, score in enumerate(scores) if score]
    wrongs = [index for index, score in enumerate(scores) if not score]
    if not rights or not wrongs:
        which = "right" if rights else "wrong"
        raise BadRow(f"all_{which}", f"All answers are {which}; there is nothing to compare.")
    pairs = [(i, j) for i in rights for j in wrongs]
    if len(pairs) <= MAX_PAIRS:
        return pairs
    return sorted(random.Random(key).sample(pairs, MAX_PAIRS))


def _sampled(sampled: Any, scores: Sequence[bool]) -> list[tuple[int, int]]:
    if not is_list(sampled):
        raise BadRow("bad_pairs", f"`sampled_conflict_pairs` is {kind_of(sampled)}; make it a list of pairs.")
    pairs = []
    for pair in sampled:
        is_pair = is_list(pair) and len(pair) == 2 and all(type(index) is int for index in pair)
        if not is_pair or not all(0 <= index < len(scores) for index in pair):
            raise BadRow(
                "bad_pairs", f"`sampled_conflict_pairs` has {quoted(pair)}; make it a pair of indexes."
            )
        if scores[pair[0]] == scores[pair[1]]:
            raise BadRow("bad_pairs", f"Both answers of the pair {list(pair)} have the same score.")
        right, wrong = pair if scores[pair[0]] else reversed(pair)
        pairs.append((right, wrong))
    if not pairs:
        raise BadRow("bad_pairs", "`sampled_conflict_pairs` is empty; there is nothing to compare.")
    return list(dict.fromkeys(pairs))


def _benchmark(raw: RawRow) -> str:
    subset = raw.columns.get("subset")
    name = subset if isinstance(subset, str) and subset.strip() else raw.origin
    match = _BEST_OF_K.search(name)
    name = match[1] if match else name.strip()
    return next((known for known in ROWS if known.lower() == name.lower()), name)
