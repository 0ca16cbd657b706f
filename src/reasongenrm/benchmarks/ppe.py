"""PPE, preference proxy evaluations: votes of people, and answers that can be checked.

Sources: the paper, Frick et al. 2024, arXiv 2410.14872; the dataset cards of lmarena-ai/PPE-Human-Preference-V1 and
lmarena-ai/PPE-{MMLU-Pro,MATH,GPQA,IFEval,MBPP-Plus}-Best-of-K; upstream README of github.com/lmarena/PPE.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reasongenrm.benchmarks import loading
from reasongenrm.benchmarks.base import (
    ScoredBenchmark,
    Scoring,
    Table,
    by_row,
    check_rows,
    found,
    mean,
    mean_credit,
    rating,
    score_rows,
)
from reasongenrm.records import Drop, PairResult, Row, content_id
from reasongenrm.rows.files import RawRow
from reasongenrm.rows.turns import BadRow, check_text, is_list, kind_of

HUMAN = "Human preference"
CORRECTNESS = "Correctness"
ROWS = {"MMLU-Pro": 512, "MATH": 512, "GPQA": 512, "IFEval": 512, "MBPP-Plus": 507}
"""Subset of the correctness part -> questions, as published (2,555 in all)."""

FLAGS = ("hard_prompt", "easy_prompt", "if_prompt", "math_prompt", "is_code")
"""Columns of the human part that say what a prompt is; a prompt can have several."""

MAX_PAIRS = 16
"""Comparisons of a question that names none: all right answers with all wrong ones, or this many of them, drawn."""

_ANSWERS = tuple(f"response_{number}" for number in range(1, 33))
COLUMNS = ("question_id", "prompt", "question", "winner", "language", *FLAGS, "subset",
           "scores", "responses", *_ANSWERS, "sampled_conflict_pairs")  # fmt: skip
_BEST_OF_K = re.compile(r"PPE-(.+)-Best-of-K", re.IGNORECASE)
_WINNERS = {"model_a": 0, "model_b": 1, "1": 0, "2": 1, "tie": None, "tie (bothbad)": None}


@dataclass(frozen=True, slots=True)
class PPE(Scoring):
    """PPE; the score is the mean of its two parts, where both are in the rows, and else that of the one.

    Attributes:
        name, split: see `Benchmark`; the correctness datasets have the split `train`.
    """

    name: str = "PPE"
    split: str = "test"

    def rows(
        self, path: str, *, split: str | None = None, revision: str | None = None, limit: int | None = None
    ) -> Iterator[Row | Drop]:
        """See `Benchmark`; which part a row belongs to is told by its columns.

        Human preference: `prompt`, `response_1`, `response_2`, `winner` (`model_a`, `model_b`, `tie`,
        `tie (bothbad)`), `language` and FLAGS where they are there. A vote for neither is a Drop (`human_tie`): the
        accuracy leaves it out.

        Correctness: `prompt` or `question`, `responses` or `response_1`, `response_2`, …, `scores` (one boolean per
        answer), and the comparisons as `sampled_conflict_pairs` (two places in `scores`, from 0) where they are
        there; the same comparison twice counts once. A question whose answers are all right, or all wrong, is a
        Drop.
        """
        raw = loading.raw_rows(path, COLUMNS, split=split or self.split, revision=revision, limit=limit)
        hint = (
            "a row has the columns prompt, response_1, response_2 and winner, or prompt, responses and scores"
        )
        return loading.parsed_rows(raw, _parse, location=path, hint=hint)

    def score_details(
        self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0
    ) -> ScoredBenchmark:
        """See `Benchmark`.

        Every vote counts alike; of the correctness part every benchmark does, and in it every question.
        Details: the accuracy per flag, and `best of k`, the share of questions whose highest-rated answer is right
        (shared by those that share the highest rating), among the answers that were compared.
        """
        check_rows(rows)
        judged: dict[str, Counter[str]] = {HUMAN: Counter(), CORRECTNESS: Counter()}
        for row in rows:
            judged[row.details["part"]][row.subset] += 1
        known = list(ROWS) if judged[CORRECTNESS] else []
        others = sorted(set(judged[CORRECTNESS]) - set(known))
        sections: dict[str, dict[str, int]] = {
            HUMAN: {name: judged[HUMAN][name] for name in sorted(judged[HUMAN])},
            CORRECTNESS: dict.fromkeys([*known, *others], 1),
        }
        table = Table(self.name, False, {name: s for name, s in sections.items() if s}, ROWS)
        details = _details(rows, results)
        return score_rows(table, rows, results, by_row(mean_credit), seed=seed, details=details)


def _details(rows: Sequence[Row], results: Mapping[str, PairResult]) -> dict[str, float | None]:
    details: dict[str, float | None] = {}
    for flag in FLAGS:
        flagged = [found(row, results) for row in rows if flag in row.details.get("flags", ())]
        details[flag] = mean([mean([r.credit for r in one]) for one in flagged]) if flagged else None
    best = [_best_is_right(row, rating(row, results)) for row in rows if row.details["part"] == CORRECTNESS]
    details["best of k"] = mean(best) if best else None
    return details


def _best_is_right(row: Row, ratings: Sequence[float]) -> float:
    highest = [place for place, value in enumerate(ratings) if value == max(ratings)]
    return mean([float(place < row.right) for place in highest])


def _parse(raw: RawRow) -> Row:
    return _correctness(raw) if raw.columns.get("scores") is not None else _human(raw)


def _human(raw: RawRow) -> Row:
    winner = loading.one_of(raw, "winner", _WINNERS)
    if winner is None:
        raise BadRow("human_tie", "The vote was for neither answer; the accuracy is over the other votes.")
    answers = [loading.text(raw, "response_1"), loading.text(raw, "response_2")]
    language = raw.columns.get("language")
    subset = check_text(language, "language").strip() if language is not None else ""
    flags = [flag for flag in FLAGS if raw.columns.get(flag) is True]
    details = {"part": HUMAN, "flags": flags}
    turns = loading.prompt(raw, "prompt", "question")
    return Row.make(
        f"human/{subset or 'unknown'}", turns, [answers[winner]], [answers[1 - winner]], details=details
    )


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
    if not names:
        raise BadRow("missing_column", "There is no column `responses` or `response_1`, `response_2`, ….")
    if names != list(_ANSWERS[: len(names)]):
        raise BadRow("missing_column", f"The answers {', '.join(names)} are not numbered from 1 on.")
    return [loading.text(raw, name) for name in names]


def _pairs(raw: RawRow, scores: Sequence[bool], name: str) -> list[tuple[int, int]]:
    """Return the comparisons as (place of a right answer, place of a wrong one)."""
    sampled = raw.columns.get("sampled_conflict_pairs")
    if sampled is not None:
        return _sampled(sampled, scores)
    rights = [place for place, score in enumerate(scores) if score]
    wrongs = [place for place, score in enumerate(scores) if not score]
    if not rights or not wrongs:
        which = "right" if rights else "wrong"
        raise BadRow(f"all_{which}", f"All answers are {which}; there is nothing to compare.")
    pairs = [(i, j) for i in rights for j in wrongs]
    if len(pairs) <= MAX_PAIRS:
        return pairs
    return sorted(random.Random(name).sample(pairs, MAX_PAIRS))


def _sampled(sampled: object, scores: Sequence[bool]) -> list[tuple[int, int]]:
    if not isinstance(sampled, Sequence) or isinstance(sampled, str):
        raise BadRow("bad_pairs", f"`sampled_conflict_pairs` is {kind_of(sampled)}; make it a list of pairs.")
    pairs: dict[tuple[int, int], None] = {}
    for pair in sampled:
        whole = is_list(pair) and len(pair) == 2 and all(type(place) is int for place in pair)
        if not whole or not all(0 <= place < len(scores) for place in pair):
            raise BadRow("bad_pairs", f"`sampled_conflict_pairs` holds {pair!r}, which is no pair of places.")
        if scores[pair[0]] == scores[pair[1]]:
            raise BadRow("bad_pairs", f"Both answers of the pair {list(pair)} have the same score.")
        right, wrong = pair if scores[pair[0]] else reversed(pair)
        pairs[right, wrong] = None
    if not pairs:
        raise BadRow("bad_pairs", "`sampled_conflict_pairs` is empty; there is nothing to compare.")
    return list(pairs)


def _benchmark(raw: RawRow) -> str:
    said = raw.columns.get("subset")
    name = said if isinstance(said, str) and said.strip() else raw.origin
    named = _BEST_OF_K.search(name)
    name = named[1] if named else name.strip()
    return next((known for known in ROWS if known.lower() == name.lower()), name)
