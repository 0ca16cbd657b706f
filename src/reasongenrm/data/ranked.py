"""Ranked answers of one or several annotators, CSV or JSONL: the pairs that follow from the ranks, and agreement."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from reasongenrm.metrics.agreement import kendall_w, pairwise_tau_b
from reasongenrm.records import CRITERIA, Drop, Message, PreferencePair, content_id, with_criteria
from reasongenrm.rows.files import RawRow, csv_rows, json_lines
from reasongenrm.rows.turns import BadRow, check_text, is_list, kind_of, read_criteria, read_prompt

COLUMNS = ("prompt", "answer", "rank")
ANNOTATOR = "annotator"


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """One answer to a prompt.

    Attributes:
        location: `file:line` of the first row with this answer.
        text: the answer.
        ranks: annotator (empty where a row names none) -> rank as in the file, 1 for the best.
    """

    location: str
    text: str
    ranks: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RankedPrompt:
    """A prompt with its answers.

    Attributes:
        location: `file:line` of its first usable row.
        history: turns up to and including the last user turn.
        answers: in the order of the file.
    """

    location: str
    history: tuple[Message, ...]
    answers: list[RankedAnswer] = field(default_factory=list)

    def mean_ranks(self) -> dict[str, dict[int, float]]:
        """Return annotator -> index in `answers` -> rank among the answers that this annotator ranked.

        Ties get the mean of the ranks they share, so that `1, 2, 2, 3` and `1, 2, 2, 4` are equivalent; the values
        are multiples of one half, and their sums exact.
        """
        from scipy.stats import rankdata

        ranks_by_annotator: dict[str, dict[int, float]] = {}
        for index, answer in enumerate(self.answers):
            for annotator, rank in answer.ranks.items():
                ranks_by_annotator.setdefault(annotator, {})[index] = rank
        return {
            annotator: dict(zip(ranks, rankdata(list(ranks.values())).tolist(), strict=True))
            for annotator, ranks in ranks_by_annotator.items()
        }


def read_ranked(path: str) -> tuple[list[RankedPrompt], list[Drop]]:
    """Read a whole file of ranked answers: its prompts in the order of the file, and the rows that cannot be used.

    A CSV file has a header with `prompt,answer,rank`; a line of `.jsonl` has the same keys, where `prompt` is a text
    or a list of messages, or a whole prompt with `answers` and `ranks` (lists of one length). `annotator` and
    `criteria` are optional; other columns are ignored. Prompts are the same if they are equal apart from surrounding white space; so are
    answers, and annotators. The file is held in memory, since a prompt's answers may be anywhere in it.

    Raises:
        DataError: the file cannot be read; or a CSV is not UTF-8, lacks a column or repeats it, or has unmatched
            quotes (then the ends of its rows are unknown, so no row can be trusted).
    """
    prompts: dict[str, RankedPrompt] = {}
    drops: list[Drop] = []

    @contextmanager
    def drop_bad_row(location: str) -> Iterator[None]:
        try:
            yield
        except BadRow as bad:
            drops.append(Drop(location, Path(path).stem, bad.reason, bad.detail, "load"))

    for row in _rows(path, COLUMNS):
        with drop_bad_row(row.location):
            for columns in _columns_of_answers(row, lists=_is_jsonl(path)):
                with drop_bad_row(row.location):
                    _add_rank(prompts, columns, row.location)
    return list(prompts.values()), drops


def has_ranks(path: str) -> bool:
    """Whether the first readable row of a file of answers, CSV or JSONL, has a column of ranks.

    Raises:
        DataError: the file cannot be read.
    """
    first = next((row for row in _rows(path) if isinstance(row, RawRow)), None)
    return first is not None and ("rank" in first.columns or "ranks" in first.columns)


def _rows(path: str, required: tuple[str, ...] = ()) -> Iterator[RawRow | Drop]:
    file = os.path.expanduser(path)
    if _is_jsonl(path):
        return (line.decode() for line in json_lines(file))
    return csv_rows(Path(file), required, unique=(*required, ANNOTATOR, CRITERIA))


def _is_jsonl(path: str) -> bool:
    return path.lower().endswith(".jsonl")


def _columns_of_answers(row: RawRow | Drop, *, lists: bool) -> list[dict[str, Any]]:
    """Return the columns of each answer of a row.

    Args:
        lists: whether the row may have lists of answers and ranks instead of one answer.

    Raises:
        BadRow: the row cannot be read, or lacks columns.
    """
    if isinstance(row, Drop):
        raise BadRow(row.reason, row.detail)
    columns = row.columns
    if not lists or not {"answers", "ranks"} & columns.keys():
        if missing := [name for name in COLUMNS if name not in columns]:
            detail = f"There is no {', '.join(missing)}; give prompt, answer and rank, or answers and ranks."
            raise BadRow("missing_column", detail)
        return [columns]
    answers: Any = columns.get("answers")
    ranks: Any = columns.get("ranks")
    if columns.get("answer") is not None or columns.get("rank") is not None:
        raise BadRow("two_forms", "The row has one answer and a list of answers; give either.")
    if not is_list(answers) or not is_list(ranks):
        detail = f"`answers` is {kind_of(answers)} and `ranks` {kind_of(ranks)}; make both lists."
        raise BadRow("bad_type", detail)
    if len(answers) != len(ranks):
        detail = f"There are {len(answers)} answers and {len(ranks)} ranks; give one rank per answer."
        raise BadRow("length_mismatch", detail)
    if not answers:
        raise BadRow("no_answers", "The prompt has no answers; give at least two or remove the row.")
    return [columns | {"answer": text, "rank": rank} for text, rank in zip(answers, ranks, strict=True)]


def _add_rank(prompts: dict[str, RankedPrompt], columns: Mapping[str, Any], location: str) -> None:
    """Add the rank of one answer by one annotator; `prompts` maps a hash of the stripped turns to the prompt.

    Raises:
        BadRow: a column is invalid, or the annotator has ranked this answer before.
    """
    turns = read_prompt(columns.get("prompt"), "prompt")
    history = with_criteria(turns, read_criteria(columns.get(CRITERIA)))
    text = check_text(columns["answer"], "answer")
    if not text.strip():
        raise BadRow("empty_answer", "The answer is empty; fill it or remove the row.")
    rank, annotator = _rank(columns["rank"]), _annotator(columns.get(ANNOTATOR))
    key = content_id([(turn["role"], turn["content"].strip()) for turn in history])
    prompt = prompts.setdefault(key, RankedPrompt(location, tuple(history)))
    answer = next((earlier for earlier in prompt.answers if earlier.text.strip() == text.strip()), None)
    if answer is None:
        answer = RankedAnswer(location, text)
        prompt.answers.append(answer)
    if annotator in answer.ranks:
        by = f" by {annotator[:40]!r}" if annotator else ""
        detail = (
            f"{answer.location} has the same answer to this prompt "
            f"(rank {answer.ranks[annotator]:g}{by}); keep one of the two."
        )
        raise BadRow("duplicate_answer", detail)
    answer.ranks[annotator] = rank


def _rank(value: Any) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow("missing_rank", "The rank is empty; give a number, 1 for the best answer.")
    try:
        rank = math.nan if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        rank = math.nan
    if not math.isfinite(rank) or rank < 1:
        quote = repr(value[:40]) if isinstance(value, str) else repr(value)[:40]
        raise BadRow("bad_rank", f"The rank is {quote}; give a number of at least 1 (1 is the best answer).")
    return rank


def _annotator(name: Any) -> str:
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    return "" if name is None else check_text(name, ANNOTATOR).strip()


def load_ranked(path: str) -> Iterator[PreferencePair | Drop]:
    """Read a whole file of ranked answers and return its drops, in file order, then its pairs, prompt by prompt.

    A row (see `read_ranked`) is not a pair: k answers of unequal ranks become k(k-1)/2 pairs, and a row that is
    dropped, or a prompt without two answers to compare, becomes one Drop (stage `load`; its location is the
    `file:line` at which the row begins).

    The mean rank over the annotators decides, taken over ranks within the prompt (Borda's count: ties get the mean
    of their ranks, so an annotator's scale does not matter). Two answers are compared by the annotators who ranked
    both of them: a partial ranking counts for the answers that it contains, and no rank is made up for the others.
    Answers of one mean rank are tied and not paired, nor are two that no annotator ranked together.

    Raises:
        DataError: as `read_ranked`.
    """
    prompts, drops = read_ranked(path)
    return _pairs(prompts, drops, Path(path).stem)


def _pairs(prompts: list[RankedPrompt], drops: list[Drop], source: str) -> Iterator[PreferencePair | Drop]:
    yield from drops
    for prompt in prompts:
        comparisons = list(_comparisons(prompt))
        if not comparisons:
            n = len(prompt.answers)
            problem = "Only one usable answer" if n == 1 else f"No two of the {n} answers differ in rank"
            detail = f"{problem} for this prompt; give it answers of at least two ranks."
            yield Drop(prompt.location, source, "nothing_to_compare", detail, "load")
        for better, worse, distance in comparisons:
            texts = prompt.answers[better].text, prompt.answers[worse].text
            yield PreferencePair.make(prompt.history, *texts, source, distance=distance)


def _comparisons(prompt: RankedPrompt) -> Iterator[tuple[int, int, float]]:
    """Yield the indexes of the better and the worse answer of each pair, best answers first, and the distance of
    their ranks: the mean over the annotators who ranked both."""
    ranks = prompt.mean_ranks()
    means = [
        fmean(by_index[index] for by_index in ranks.values() if index in by_index)
        for index in range(len(prompt.answers))
    ]
    by_mean = sorted(range(len(means)), key=means.__getitem__)  # stable: ties stay in file order
    for one, other in combinations(by_mean, 2):
        leads = [rank[other] - rank[one] for rank in ranks.values() if one in rank and other in rank]
        if lead := sum(leads):
            pair = (one, other) if lead > 0 else (other, one)
            yield *pair, abs(lead) / len(leads)


def agreement(path: str) -> dict[str, Any] | None:
    """Return Kendall's W of the annotators in a file of ranked answers, or None with fewer than two annotators.

    The W of a prompt is over the annotators who ranked all of its answers, of whom there must be two.

    Returns:
        Plain JSON values: `annotators` and `prompts` in the file; `rated`, the number of prompts that have a W;
        `mean_w` over these (None where there are none); `per_prompt`: for each of these `location`, `history` (content
        hash of the prompt's turns), `answers`, `annotators`, `w` and `p_value`.

    Raises:
        DataError: as `read_ranked`.
    """
    prompts, _ = read_ranked(path)
    annotators = {name for prompt in prompts for answer in prompt.answers for name in answer.ranks}
    if len(annotators) < 2:
        return None
    per_prompt = [row for prompt in prompts if (row := _concordance(prompt))]
    return {
        "annotators": len(annotators),
        "prompts": len(prompts),
        "rated": len(per_prompt),
        "mean_w": round(fmean(row["w"] for row in per_prompt), 6) if per_prompt else None,
        "per_prompt": per_prompt,
    }


def mean_tau_b(path: str) -> float | None:
    """Return the mean of Kendall's tau-b over prompts and pairs of annotators, or None where no pair has one.

    Raises:
        DataError: as `read_ranked`.
    """
    prompts, _ = read_ranked(path)
    taus = [tau for prompt in prompts for tau in pairwise_tau_b(prompt.mean_ranks()) if tau is not None]
    return round(fmean(taus), 6) if taus else None


def _concordance(prompt: RankedPrompt) -> dict[str, Any] | None:
    n = len(prompt.answers)
    ranks = [[row[index] for index in range(n)] for row in prompt.mean_ranks().values() if len(row) == n]
    result = kendall_w(ranks) if n >= 2 and len(ranks) >= 2 else None
    if result is None:
        return None
    w, p_value = result
    return {
        "location": prompt.location,
        "history": content_id(prompt.history),
        "answers": n,
        "annotators": len(ranks),
        "w": round(w, 6),
        "p_value": round(p_value, 6),
    }
