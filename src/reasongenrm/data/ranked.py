"""Ranked answers of one annotator or several, CSV or JSONL, and the pairs that the ranks make."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from reasongenrm.errors import DataError
from reasongenrm.records import Drop, Message, PreferencePair
from reasongenrm.rows.files import kind_of, read_rows
from reasongenrm.rows.turns import BadRow, check_text, is_list, read_prompt

COLUMNS = ("prompt", "answer", "rank")


ANNOTATOR = "annotator"


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """One answer to a prompt.

    Attributes:
        where: `file:line` of the row that first gave it.
        text: the answer.
        ranks: annotator (empty where a row names none) -> rank as it was written, 1 for the best.
    """

    location: str
    text: str
    ranks: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RankedPrompt:
    """A prompt with its answers.

    Attributes:
        where: `file:line` of its first usable row.
        history: turns up to and including the last user turn.
        answers: in the order of the file.
    """

    location: str
    history: tuple[Message, ...]
    answers: list[RankedAnswer] = field(default_factory=list)

    def mean_ranks(self) -> dict[str, dict[int, float]]:
        """Return annotator -> place in `answers` -> rank among the answers that this annotator ranked.

        Ties get the mean of the ranks they share, so that `1, 2, 2, 3` and `1, 2, 2, 4` say the same; the values
        are multiples of one half, and their sums exact.
        """
        from scipy.stats import rankdata

        given: dict[str, dict[int, float]] = {}
        for place, answer in enumerate(self.answers):
            for annotator, rank in answer.ranks.items():
                given.setdefault(annotator, {})[place] = rank
        return {
            annotator: dict(zip(ranks, rankdata(list(ranks.values())).tolist(), strict=True))
            for annotator, ranks in given.items()
        }


@dataclass(frozen=True, slots=True)
class _Line:
    """One usable ranking of one answer."""

    history: list[Message]
    text: str
    rank: float
    annotator: str


def read_ranked(path: str) -> tuple[list[RankedPrompt], list[Drop]]:
    """Read a whole file of ranked answers: its prompts in the order of the file, and what cannot be used.

    A `.jsonl` file holds one object per line, any other file is CSV with a header. Prompts are the same when they
    are equal apart from surrounding white space; so are answers, and annotators. The file is held in memory, since
    a prompt's answers may stand anywhere in it.

    Raises:
        DataError: the file cannot be read, or is a CSV whose columns or quotes do not fit.
    """
    file = Path(path).expanduser()
    prompts: dict[tuple[tuple[str, str], ...], RankedPrompt] = {}
    answers: dict[tuple[tuple[str, str], ...], dict[str, RankedAnswer]] = {}
    drops: list[Drop] = []
    for location, line in _jsonl(file) if file.suffix.lower() == ".jsonl" else _csv(file):
        if isinstance(line, _Line):
            key = tuple((turn["role"], turn["content"].strip()) for turn in line.history)
            prompt = prompts.setdefault(key, RankedPrompt(location, tuple(line.history)))
            answer = answers.setdefault(key, {}).get(line.text.strip())
            if answer is None:
                answer = answers[key][line.text.strip()] = RankedAnswer(location, line.text)
                prompt.answers.append(answer)
            if line.annotator not in answer.ranks:
                answer.ranks[line.annotator] = line.rank
                continue
            by = f" by {line.annotator[:40]!r}" if line.annotator else ""
            same = f"{answer.location} gives the same answer to this prompt"
            detail = f"{same} (rank {answer.ranks[line.annotator]:g}{by}); keep one of the two."
            line = BadRow("duplicate_answer", detail)
        drops.append(Drop(location, file.stem, line.reason, line.detail, "load"))
    return list(prompts.values()), drops


def has_ranks(path: str) -> bool:
    """Whether a file of answers, CSV or JSONL, has a column of ranks (JSONL: its first line that can be read).

    Raises:
        DataError: the file cannot be read.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() == ".jsonl":
        rows = (row for row in read_rows(str(file), required=(), split="train") if not isinstance(row, Drop))
        return any(name in first.columns for first in islice(rows, 1) for name in ("rank", "ranks"))
    first_row: list[str] = next(csv.reader(io.StringIO(_text(file), newline="")), [])
    return "rank" in (name.strip() for name in first_row)


def _line(cells: Mapping[str, Any]) -> _Line | BadRow:
    """Return a usable ranking, or what is wrong with it; the cells are those of COLUMNS, and the annotator's."""
    try:
        prompt, answer = cells["prompt"], cells["answer"]
        if isinstance(prompt, str) and not prompt.strip():
            raise BadRow("empty_prompt", "The prompt is empty; fill it or remove the row.")
        if not check_text(answer, "answer").strip():
            raise BadRow("empty_answer", "The answer is empty; fill it or remove the row.")
        rank = _rank(cells["rank"])
        return _Line(read_prompt(prompt, "prompt"), answer, rank, _annotator(cells.get(ANNOTATOR)))
    except BadRow as bad:
        return bad


def _rank(written: Any) -> float:
    if written is None or (isinstance(written, str) and not written.strip()):
        raise BadRow("missing_rank", "The rank is empty; give a number, 1 for the best answer.")
    try:
        if isinstance(written, bool):
            raise ValueError
        rank = float(written)
    except (ValueError, TypeError, OverflowError):
        rank = math.nan
    if not math.isfinite(rank) or rank < 1:
        shown = repr(written[:40]) if isinstance(written, str) else repr(written)[:40]
        raise BadRow("bad_rank", f"The rank is {shown}; give a number from 1 (the best answer) on.")
    return rank


def _annotator(name: Any) -> str:
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    return "" if name is None else check_text(name, ANNOTATOR).strip()


def _jsonl(file: Path) -> Iterator[tuple[str, _Line | BadRow]]:
    """Yield one ranking per answer of each line, and where it stands."""
    if not file.is_file():
        raise DataError("cannot be read: no such file", location=str(file), hint="check the path")
    for row in read_rows(str(file), required=(), split="train"):
        if isinstance(row, Drop):
            yield row.location, BadRow(row.reason, row.detail)
        elif "answers" in row.columns or "ranks" in row.columns:
            for line in _spread(row.columns):
                yield row.location, line
        else:
            missing = [name for name in COLUMNS if name not in row.columns]
            if missing:
                detail = (
                    f"There is no {', '.join(missing)}; give prompt, answer and rank, or answers and ranks."
                )
                yield row.location, BadRow("missing_column", detail)
            else:
                yield row.location, _line(row.columns)


def _spread(columns: Mapping[str, Any]) -> Iterator[_Line | BadRow]:
    """Yield one ranking per answer of a line that holds a whole prompt."""
    answers: Any = columns.get("answers")
    ranks: Any = columns.get("ranks")
    if columns.get("answer") is not None or columns.get("rank") is not None:
        yield BadRow("two_forms", "The row has one answer and a list of answers; give either.")
    elif not is_list(answers) or not is_list(ranks):
        detail = f"`answers` is {kind_of(answers)} and `ranks` {kind_of(ranks)}; make both lists."
        yield BadRow("bad_type", detail)
    elif len(answers) != len(ranks):
        detail = f"There are {len(answers)} answers and {len(ranks)} ranks; give one rank per answer."
        yield BadRow("length_mismatch", detail)
    elif not answers:
        yield BadRow("no_answers", "The prompt has no answers; give at least two or remove the row.")
    else:
        shared = {"prompt": columns.get("prompt"), ANNOTATOR: columns.get(ANNOTATOR)}
        for answer, rank in zip(answers, ranks, strict=True):
            yield _line(shared | {"answer": answer, "rank": rank})


def _csv(file: Path) -> Iterator[tuple[str, _Line | BadRow]]:
    """Yield each CSV row that is not blank, and the line where it begins."""
    for location, cells in csv_rows(file, COLUMNS, once=(*COLUMNS, ANNOTATOR)):
        yield location, cells if isinstance(cells, BadRow) else _line(cells)


def csv_rows(
    file: Path, required: Sequence[str], *, once: Collection[str] | None
) -> Iterator[tuple[str, dict[str, str] | BadRow]]:
    """Yield the cells by column of each CSV row that is not blank, and `file:line` of where it begins.

    A row shorter than the header is filled with empty cells.

    Args:
        required: columns that must be there.
        once: columns that must not be there twice (None: every column with a name); of others the first counts.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or its columns or quotes do not fit.
    """
    # newline="": the csv module must see the line ends itself, as they may stand inside an answer.
    reader = csv.reader(io.StringIO(_text(file), newline=""), strict=True)
    begin = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        places = _places(header, file, required, once)
        begin = reader.line_num + 1
        for row in reader:
            if row:
                location = f"{file}:{begin}"
                if any(cell.strip() for cell in row[len(header) :]):
                    detail = (
                        "The row has more fields than the header; put quotes around texts that hold a comma."
                    )
                    yield location, BadRow("extra_fields", detail)
                else:
                    yield location, {name: row[at] if at < len(row) else "" for name, at in places.items()}
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"the CSV row that begins here cannot be read: {error}",
            location=f"{file}:{begin}",
            hint='close every quote, and write a quote inside a quoted answer twice: ""',
        ) from None


def _text(file: Path) -> str:
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", location=str(file), hint="check the path"
        ) from None
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            "the file is not UTF-8",
            location=f"{file}:{line}",
            hint="save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')",
        ) from None


def _places(
    header: list[str], file: Path, required: Sequence[str], once: Collection[str] | None
) -> dict[str, int]:
    """Return the position of each column."""
    missing = [name for name in required if name not in header]
    twice = [
        name
        for name in dict.fromkeys(header)
        if header.count(name) > 1 and (name in once if once is not None else name)
    ]
    if missing or twice:
        problem = (
            f"no column {', '.join(missing)}" if missing else f"column {', '.join(twice)} is there twice"
        )
        hint = f"make the first line: {','.join(required)}"
        if len(header) == 1 and any(separator in header[0] for separator in ";\t"):
            hint += ", and separate the columns with commas"
        raise DataError(f"{problem}; found: {', '.join(header) or 'none'}", location=f"{file}:1", hint=hint)
    return {name: header.index(name) for name in dict.fromkeys(header)}


def load_ranked(path: str) -> Iterator[PreferencePair | Drop]:
    """Read a whole file of ranked answers and return its dropped rows, in file order, then its pairs, prompt by prompt.

    A CSV file has a header with `prompt,answer,rank`; a line of JSONL holds the same keys, where `prompt` is a text
    or a list of messages, or a whole prompt with `answers` and `ranks` (lists of one length). `annotator` is optional;
    other columns are ignored. A row is not a pair: k answers of unequal ranks become k(k-1)/2 pairs, and a row that is
    dropped, or a prompt that is left with nothing to compare, becomes one Drop (stage `load`; `where` is the
    `file:line` at which the row begins).

    Of several annotators the mean rank decides, taken over ranks within the prompt (Borda's count: ties share the mean
    of their ranks, so the scale that an annotator writes in does not matter). Two answers are compared by the
    annotators who ranked both of them: one who did not rank all answers speaks for those they ranked, and no rank
    is made up for the others. Answers of one mean rank are tied and not paired, nor are two that nobody ranked both.

    Raises:
        DataError: no such file; or a CSV that is not UTF-8, lacks a column or has it twice, or whose quotes do not
            match (then nobody can say where a row ends, so no row of the file can be trusted).
    """
    prompts, drops = read_ranked(path)
    return _compare(prompts, drops, Path(path).stem)


def _compare(prompts: list[RankedPrompt], drops: list[Drop], source: str) -> Iterator[PreferencePair | Drop]:
    yield from drops
    for prompt in prompts:
        pairs = list(_pairs(prompt))
        if not pairs:
            count = len(prompt.answers)
            problem = (
                "Only one usable answer" if count == 1 else f"No two of the {count} answers differ in rank"
            )
            detail = f"{problem} for this prompt; give it answers of at least two ranks."
            yield Drop(prompt.location, source, "nothing_to_compare", detail, "load")
        for better, worse, distance in pairs:
            texts = prompt.answers[better].text, prompt.answers[worse].text
            yield PreferencePair.make(prompt.history, *texts, source, distance=distance)


def _pairs(prompt: RankedPrompt) -> Iterator[tuple[int, int, float]]:
    """Yield the places of the better and the worse answer of each pair, best answers first, and how many ranks lie
    between them: the mean over the annotators who ranked both."""
    ranks = prompt.mean_ranks()
    means = {place: _mean(place, ranks) for place in range(len(prompt.answers))}
    for one, other in combinations(
        sorted(means, key=means.__getitem__), 2
    ):  # stable: ties stay in file order
        leads = [given[other] - given[one] for given in ranks.values() if one in given and other in given]
        if lead := sum(leads):
            pair = (one, other) if lead > 0 else (other, one)
            yield *pair, abs(lead) / len(leads)


def _mean(place: int, ranks: Mapping[str, Mapping[int, float]]) -> float:
    given = [by_place[place] for by_place in ranks.values() if place in by_place]
    return sum(given) / len(given)
