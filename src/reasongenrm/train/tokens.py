"""Token ids of the training records, made once before anything is launched."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.config.recipe import Recipe, Template, TrainStep
from reasongenrm.errors import DataError
from reasongenrm.records import content_id
from reasongenrm.rows.turns import BadRow, check_text, read_prompt
from reasongenrm.store import read_jsonl

RECORDS: dict[Template, str] = {
    "direct": "genrm.jsonl",
    "listwise": "listwise.jsonl",
    "listwise-reason": "listwise-reason.jsonl",
    "pointwise": "pointwise.jsonl",
}
"""Record files by template; those of the other templates are in sft.jsonl."""


def refresh_folder(recipe: Recipe, step: TrainStep) -> Path:
    """Return the folder of the records that a step makes from samples of the judge that it starts from."""
    return recipe.folder / "rounds" / step.model


def votes_folder(recipe: Recipe, step: TrainStep) -> Path:
    """Return the folder of these samples."""
    return recipe.folder / "votes" / step.model


class Sampling(NamedTuple):
    """How a step samples from the judge that it starts from: votes per prompt, their limit in tokens, and their temperature."""

    votes: int
    max_tokens: int
    temperature: float


SAMPLING_KEYS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "round": {"round": ("samples", "max_tokens", "temperature")},
    "dpo": {"dpo": ("refresh",), "round": ("max_tokens", "temperature")},
    "grpo": {"grpo": ("refresh", "max_tokens", "temperature")},
}
"""By the kind of a step: the keys of `train` that are its `Sampling`, in this order. GRPO samples as it does in its training."""


def sampling(recipe: Recipe, step: TrainStep) -> Sampling:
    """Return how a step samples."""
    sections = SAMPLING_KEYS[step.kind].items()
    return Sampling(*(getattr(getattr(recipe.train, name), key) for name, keys in sections for key in keys))


def is_on_policy(recipe: Recipe, step: TrainStep) -> bool:
    """Whether a step samples its records from the judge that it starts from."""
    refresh = {"dpo": recipe.train.dpo.refresh, "grpo": recipe.train.grpo.refresh}
    return step.kind == "round" or refresh.get(step.kind) is not None


def record_files(recipe: Recipe, step: TrainStep) -> list[Path]:
    """Return the record files of a step: of SFT those of the judge's template, and general data for a wGen judge."""
    judge, folder = recipe.judges[step.judge], recipe.folder
    own = refresh_folder(recipe, step) if is_on_policy(recipe, step) else folder
    if step.kind in ("dpo", "grpo"):
        return [own / f"{step.kind}.jsonl"]
    return [own / RECORDS.get(judge.template, "sft.jsonl"), *[folder / "general.jsonl"] * judge.general]


def input_files(recipe: Recipe, step: TrainStep) -> list[Path]:
    """Return the files of stage 1 that a step reads."""
    folder = recipe.folder
    files = [path for path in record_files(recipe, step) if path.parent == folder]
    train = recipe.train
    reads_points = step.kind != "sft" and is_on_policy(recipe, step) and train.round.rationale > 0
    if reads_points or (step.kind == "grpo" and (train.grpo.both_orders or train.grpo.refresh)):
        files.append(folder / "pairs.jsonl")
    if step.kind == "round" and train.round.fill:
        files.append(folder / "sft.jsonl")
    return [*files, *[folder / "prompts.jsonl"] * is_on_policy(recipe, step)]


def training_rows(
    files: Sequence[Path], encoder: ChatEncoder, max_tokens: int
) -> Iterator[dict[str, list[int]]]:
    """Yield `input_ids` and `completion_mask` (1 on reason, header and verdict) of every record.

    A record's `prompt` is a list of messages, or a string: one user turn.

    Raises:
        DataError: a record without prompt, reason and response, or longer than `max_tokens`, which would make the
            trainer cut off the verdict; names `file:line`.
    """
    for location, row in _located_rows(files):
        with _bad_row_at(location, "sft.jsonl"):
            prompt = read_prompt(row.get("prompt"), "prompt")
            reason, response = (check_text(row.get(key), key) for key in ("reason", "response"))
        prompt_ids, completion_ids = encoder.record(prompt, reason, response)
        ids = prompt_ids + completion_ids
        _check_length(len(ids), max_tokens, location)
        yield {"input_ids": ids, "completion_mask": [0] * len(prompt_ids) + [1] * len(completion_ids)}


def preference_rows(
    files: Sequence[Path], encoder: ChatEncoder, max_tokens: int
) -> Iterator[dict[str, list[int]]]:
    """Yield `prompt_ids`, `chosen_ids` and `rejected_ids` of every row of `dpo.jsonl`; the last two are reason, header and
    verdict.

    Raises:
        DataError: a row without prompt, or without a reason and a verdict on a side, or one that is longer than
            `max_tokens`; names `file:line`.
    """
    for location, row in _located_rows(files):
        sides = {}
        with _bad_row_at(location, "dpo.jsonl"):
            prompt = read_prompt(row.get("prompt"), "prompt")
            for side in ("chosen", "rejected"):
                reason, verdict = _two_turns(row.get(side), side)
                sides[f"{side}_ids"] = encoder.completion(reason, verdict)
        prompt_ids = encoder.encode(prompt, generation=True)
        _check_length(len(prompt_ids) + max(map(len, sides.values())), max_tokens, location)
        yield {"prompt_ids": prompt_ids, **sides}


def _located_rows(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in files:
        for line, row in enumerate(read_jsonl(file), 1):
            yield f"{file}:{line}", row


@contextmanager
def _bad_row_at(location: str, example: str) -> Iterator[None]:
    try:
        yield
    except BadRow as error:
        hint = f"see {example} for the columns"
        raise DataError(error.detail, location=location, hint=hint) from None


def _two_turns(turns: Any, key: str) -> tuple[str, str]:
    """Return reason and verdict of one side of a preference row."""
    if not (
        isinstance(turns, list)
        and [isinstance(turn, dict) and turn.get("role") for turn in turns] == ["reason", "assistant"]
    ):
        raise BadRow("bad_turns", f"{key} is not a turn of the role reason and one of the role assistant")
    reason, verdict = (check_text(turn.get("content"), key) for turn in turns)
    return reason, verdict


def _check_length(tokens: int, max_tokens: int, location: str) -> None:
    if tokens > max_tokens:
        raise DataError(
            f"{tokens} tokens, more than data.max_tokens = {max_tokens}",
            location=location,
            hint="raise data.max_tokens, or remove the record from the file",
        )


def tokenise(recipe: Recipe, step: TrainStep, encoder: ChatEncoder, work: Path) -> None:
    """Tokenise a step's records into `work/tokens` (a `datasets` folder), once.

    Raises:
        DataError: no records, or one that is too long.
    """
    rows = preference_rows if step.kind == "dpo" else training_rows
    write_tokens(rows, record_files(recipe, step), encoder, recipe.data.max_tokens, work)


def write_tokens(
    rows: Callable[..., Iterator[dict[str, list[int]]]],
    files: Sequence[Path],
    encoder: ChatEncoder,
    max_tokens: int,
    work: Path,
) -> None:
    """Write the rows of record files into `work/tokens`, once.

    Args:
        rows: `training_rows` or `preference_rows`.
        files: the record files.
        encoder: of the judge.
        max_tokens: limit of a record.
        work: the step's work folder.

    Raises:
        DataError: no records, or one that is too long.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    target = work / "tokens"
    if target.exists():
        return
    if not any(file.stat().st_size for file in files):
        raise DataError("no records to train on", location=str(files[0]), hint="see data_report.html for why")
    try:
        dataset = Dataset.from_generator(
            rows,
            gen_kwargs={"files": tuple(files), "encoder": encoder, "max_tokens": max_tokens},
            cache_dir=str(work / "cache"),
            fingerprint=content_id("tokens", str(work)),
        )
    except DatasetGenerationError as error:
        raise error.__cause__ or error from None
    temporary = work / "tokens.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    dataset.save_to_disk(str(temporary))
    temporary.rename(target)
    shutil.rmtree(work / "cache", ignore_errors=True)
