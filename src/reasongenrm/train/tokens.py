"""Token ids of the training records, made once before anything is launched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.config.recipe import Recipe, Template
from reasongenrm.errors import DataError
from reasongenrm.records import content_id
from reasongenrm.rows.turns import BadRow, check_text, read_prompt
from reasongenrm.store import read_jsonl

RECORDS: dict[Template, str] = {
    "direct": "genrm.jsonl",
    "listwise": "listwise.jsonl",
    "listwise-reason": "listwise-reason.jsonl",
}
"""Record files by template; those of the other templates are in sft.jsonl."""


def record_files(recipe: Recipe, name: str) -> list[Path]:
    """Return the record files a judge is trained on: those of its template, and general data for a wGen judge."""
    judge = recipe.judges[name]
    names = [RECORDS.get(judge.template, "sft.jsonl"), *["general.jsonl"] * judge.general]
    return [recipe.folder / file for file in names]


def training_rows(
    files: Sequence[Path], encoder: ChatEncoder, max_tokens: int
) -> Iterator[dict[str, list[int]]]:
    """Yield `input_ids` and `completion_mask` (1 on reason, header and verdict) of every record.

    A record's `prompt` is a list of messages, or a string: one user turn.

    Raises:
        DataError: a record without prompt, reason and response, or longer than `max_tokens`, which would make the
            trainer cut off the verdict; names `file:line`.
    """
    for file in files:
        for line, row in enumerate(read_jsonl(file), 1):
            location = f"{file}:{line}"
            try:
                prompt = read_prompt(row.get("prompt"), "prompt")
                reason, response = (check_text(row.get(key), key) for key in ("reason", "response"))
            except BadRow as error:
                raise DataError(
                    error.detail, location=location, hint="see sft.jsonl for the columns"
                ) from None
            prompt_ids, completion_ids = encoder.record(prompt, reason, response)
            ids = prompt_ids + completion_ids
            if len(ids) > max_tokens:
                raise DataError(
                    f"{len(ids)} tokens, more than data.max_tokens = {max_tokens}",
                    location=location,
                    hint="raise data.max_tokens, or remove the record from the file",
                )
            yield {"input_ids": ids, "completion_mask": [0] * len(prompt_ids) + [1] * len(completion_ids)}


def tokenise(recipe: Recipe, name: str, encoder: ChatEncoder, work: Path) -> None:
    """Tokenise a judge's records into `work/tokens` (a `datasets` folder), once.

    Raises:
        DataError: no records, or one that is too long.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    target = work / "tokens"
    if target.exists():
        return
    files = record_files(recipe, name)
    if not any(file.stat().st_size for file in files):
        raise DataError("no records to train on", location=str(files[0]), hint="see data_report.html for why")
    try:
        rows = Dataset.from_generator(
            training_rows,
            gen_kwargs={"files": tuple(files), "encoder": encoder, "max_tokens": recipe.data.max_tokens},
            cache_dir=str(work / "cache"),
            fingerprint=content_id("tokens", name, recipe.name),
        )
    except DatasetGenerationError as error:
        raise error.__cause__ or error from None
    temporary = work / "tokens.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    rows.save_to_disk(str(temporary))
    temporary.rename(target)
    shutil.rmtree(work / "cache", ignore_errors=True)
