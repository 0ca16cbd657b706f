"""The files of allenai's leaderboards for RewardBench and RewardBench 2, as upstream's own runners write them.

Upstream: `save_to_hub` in `rewardbench/utils.py`, and what `scripts/run_rm.py`, `run_generative.py`, `run_v2.py` and
`run_generative_v2.py` pass to it, of https://github.com/allenai/reward-bench
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from reasongenrm.benchmarks.base import Results, ScoredBenchmark, row_results, rows_by_subset
from reasongenrm.benchmarks.rewardbench import PRIOR_SECTION
from reasongenrm.benchmarks.rewardbench2 import TIES
from reasongenrm.errors import DataError
from reasongenrm.records import Message, Row


@dataclass(frozen=True, slots=True)
class Entry:
    """A model on the leaderboard.

    Attributes:
        model: `org/name`, or a local path.
        model_type: upstream's value: `Generative RM`, `Seq. Classifier`, `Custom Classifier` or `DPO`.
        chat_template: name of the template; upstream writes `tokenizer` where the tokenizer's own is used; None for a
            model behind a chat API.
    """

    model: str
    model_type: str = "Generative RM"
    chat_template: str | None = None

    @property
    def file(self) -> str:
        """Path of the model's files inside a folder of the leaderboard: `org/name.json`, of a local path its last two parts."""
        parts = [part for part in PurePosixPath(self.model).parts if part not in ("/", "..")]
        return "/".join(parts[-2:]) + ".json"

    def header(self) -> dict[str, Any]:
        """Return what every file begins with."""
        return {"model": self.model, "model_type": self.model_type, "chat_template": self.chat_template}


def leaderboard_files(
    scored: ScoredBenchmark, rows: Sequence[Row], results: Results, entry: Entry
) -> dict[str, dict[str, Any]]:
    """Return the files of one result: path in the leaderboard's repository -> content.

    - `eval-set/<model>.json`: `model`, `model_type`, `chat_template` and one accuracy per subset.
    - `eval-set-scores/<model>.json`: columns with one item per row, in the order of the rows: subset, id, result, texts,
      and the scores of a model that gives each answer one.
    - `pref-sets/…`, `pref-sets-scores/…`: the same of the prior sets, only if they were judged.

    `json_text` gives the text of a file.

    Args:
        scored: of RewardBench or RewardBench 2.
        rows, results: that were scored.
        entry: the model.

    Raises:
        DataError: a toy benchmark, which has no leaderboard.
    """
    score = scored.score
    if score.toy:
        problem = "a toy benchmark has no leaderboard"
        raise DataError(problem, location=score.benchmark, hint="judge RewardBench itself")
    accuracies: dict[str, dict[str, Any]] = {"eval-set": entry.header()}
    folders = {}
    for name, subset in score.subsets.items():
        folders[name] = "pref-sets" if subset.section == PRIOR_SECTION else "eval-set"
        accuracies.setdefault(folders[name], entry.header())[name] = subset.accuracy
    lines: dict[str, list[dict[str, Any]]] = {folder: [] for folder in accuracies}
    for row, result in _row_lines(scored, rows):
        lines[folders[row.subset]].append(_line(row, result, results))
    files = {f"{folder}/{entry.file}": content for folder, content in accuracies.items()}
    for folder, some in lines.items():
        names = list(dict.fromkeys(name for line in some for name in line))
        columns: dict[str, Any] = {name: [line.get(name) for line in some] for name in names}
        files[f"{folder}-scores/{entry.file}"] = columns | entry.header()
    return files


def json_text(content: dict[str, Any]) -> str:
    """Return the text of a file, in the layout of upstream's."""
    return json.dumps(content, indent=4, sort_keys=True)


def _row_lines(scored: ScoredBenchmark, rows: Sequence[Row]) -> Iterator[tuple[Row, float | None]]:
    """Yield every row with its credit; the score of Ties is of questions, so its rows have none, as in upstream's files."""
    credits: dict[str, float | None] = {}
    for subset, group in rows_by_subset(rows).items():
        values = [None] * len(group) if subset == TIES else scored.credits[subset]
        credits |= {row.id: value for row, value in zip(group, values, strict=True)}
    for row in rows:
        yield row, credits[row.id]


def _line(row: Row, result: float | None, results: Results) -> dict[str, Any]:
    texts = [[*row.history, Message(role="assistant", content=answer)] for answer in row.answers]
    compared = row_results(row, results)
    scores: list[float] | None = None
    if all(one.scores is not None for one in compared):
        by_place: dict[int, float] = {}
        for one, (right, wrong) in zip(compared, row.places, strict=True):
            if one.scores is not None:
                by_place |= {right: one.scores[0], wrong: one.scores[1]}
        scores = [by_place[place] for place in range(len(row.answers))]
    line: dict[str, Any] = {"id": row.details.get("id", row.id), "subset": row.subset, "results": result}
    if len(row.answers) == 2:
        line |= {"text_chosen": texts[0], "text_rejected": texts[1]}
        return line | ({"scores_chosen": scores[0], "scores_rejected": scores[1]} if scores else {})
    line |= {"num_correct": row.right}
    if scores:
        return line | {"text": texts, "scores": scores}
    return line | {"texts_chosen": texts[: row.right], "texts_rejected": texts[row.right :]}
