"""General chat and reasoning data: rows of public datasets -> records, mixed by weight with a judge's own records."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from reasongenrm.config.prepare import GeneralConfig
from reasongenrm.data.ngrams import batches
from reasongenrm.data.sources import source_of
from reasongenrm.errors import DataError
from reasongenrm.records import Drop, Message, SFTRecord, content_id, unit_hash
from reasongenrm.rows.files import UNKNOWN_SOURCE, RawRow, read_rows
from reasongenrm.rows.turns import ROLES, BadRow, check_prompt, check_text, read_prompt, read_turns

REASON_ROLES = ("reason", "think")
_COLUMNS = ("prompt", "reason", "response", "messages", "source")
_THINK = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)


def load_general(config: GeneralConfig) -> Iterator[SFTRecord | Drop]:
    """Stream a dataset's rows, each as a record or as a Drop of stage `load`; memory does not grow with the input.

    A row has `prompt` (a text, or messages that end in the user's turn), `response` and optionally `reason`; or
    `messages`, whose last turn is the assistant's answer to those before it. The answer's reason is the turn of role
    `reason` or `think` before it, its key `reasoning_content`, or a `<think>…</think>` block at its beginning; a row
    with more than one of these is dropped. Reasons of earlier answers are left out of the prompt, as the chat
    templates of reasoning models do. Reason and answer are stripped of outer white space.

    Raises:
        ConfigError, DataError: see `rows.files.read_rows`.
    """
    rows = read_rows(config.path, optional=_COLUMNS, split=config.split, revision=config.revision)
    return (row if isinstance(row, Drop) else _record(row) for row in rows)


def mix(
    configs: Sequence[GeneralConfig],
    judge_records: int,
    seed: int,
    too_long: Callable[[SFTRecord], Drop | None] = lambda record: None,
) -> tuple[list[SFTRecord], dict[str, Any], list[Drop]]:
    """Select `round(weight * judge_records)` records of each dataset, or all if there are fewer.

    The selection and its order depend only on the seed and the records' ids: those with the lowest
    `unit_hash(seed, id)`, wherever they are in the files. Memory grows only with the number of selected records.

    Args:
        configs: the datasets, in their order; a record that an earlier one has is not selected again.
        judge_records: number of the judge's own records.
        seed: of the run.
        too_long: returns a Drop for a record that must not be selected; called only for records that would be.

    Returns:
        The records; counts; and the drops: every unreadable row, and each repeated or long row whose hash is lower
        than that of a selected record. The counts are plain JSON: `records` in all, and for each of `datasets`
        its `path`, `weight`, `target`, `records`, `rows`, `unused` (usable or repeated rows beyond the target, not
        checked any further), `dropped` by slug, and `note`; `rows = records + unused + dropped`.

    Raises:
        DataError: a dataset has no usable record.
    """
    records: dict[str, SFTRecord] = {}
    drops: list[Drop] = []
    datasets = []
    for config in configs:
        target = round(config.weight * judge_records)
        rows = load_general(config) if target else iter(())
        count, own_records, own_drops = _select(rows, target, seed, records, too_long)
        if target and not own_records:
            first = f"; the first dropped row: {own_drops[0].detail}" if own_drops else ""
            hint = "give rows with prompt and response, or with messages"
            raise DataError(f"no record can be used{first}", location=config.path, hint=hint)
        records |= {record.id: record for record in own_records}
        drops += own_drops
        note = None
        if not target:
            note = "the weight selects less than half a record: the dataset was not read"
        elif len(own_records) < target:
            note = f"only {len(own_records)} usable records for a target of {target}: each was selected once"
        datasets.append(
            {
                "path": config.path,
                "weight": config.weight,
                "target": target,
                "records": len(own_records),
                "rows": count,
                "unused": count - len(own_records) - len(own_drops),
                "dropped": dict(sorted(Counter(drop.reason for drop in own_drops).items())),
                "note": note,
            }
        )
    return list(records.values()), {"records": len(records), "datasets": datasets}, drops


def _select(
    rows: Iterator[SFTRecord | Drop],
    target: int,
    seed: int,
    earlier: Collection[str],
    too_long: Callable[[SFTRecord], Drop | None],
) -> tuple[int, list[SFTRecord], list[Drop]]:
    """Return the number of rows, the usable records with the lowest hashes, and the drops, unreadable rows first.

    Args:
        earlier: ids of the records of earlier datasets.
    """
    count = 0
    unreadable: list[Drop] = []
    lowest: list[tuple[tuple[float, str], SFTRecord | Drop]] = []  # (hash, id) and row, to the last record
    ids: set[str] = set()  # of the records in `lowest`
    for batch in batches(rows, 2 * target + 64):
        count += len(batch)
        unreadable += [row for row in batch if isinstance(row, Drop)]
        batch_records = [row for row in batch if isinstance(row, SFTRecord)]
        entries = [*lowest, *(((unit_hash(seed, row.id), row.id), row) for row in batch_records)]
        lowest, usable, ids = [], ids, set()
        for key, row in sorted(entries, key=itemgetter(0)):
            if len(ids) == target and key > lowest[-1][0]:
                break
            if isinstance(row, SFTRecord):
                if row.id in ids or row.id in earlier:
                    detail = "An earlier row has the same prompt, reason and response; remove one of them."
                    row = Drop(row.id, row.source, "duplicate", detail, "general")
                elif row.id not in usable and (drop := too_long(row)):
                    row = drop
                else:
                    ids.add(row.id)
            lowest.append((key, row))
    records = [row for _, row in lowest if isinstance(row, SFTRecord)]
    return count, records, unreadable + [row for _, row in lowest if isinstance(row, Drop)]


def _record(row: RawRow) -> SFTRecord | Drop:
    """Return a row as a record, or as a Drop that names the problem; never raises on invalid input."""
    source = UNKNOWN_SOURCE
    try:
        source = source_of(row)
        read = _read_messages if row.columns.get("messages") is not None else _read_columns
        prompt, reasons, answer = read(row.columns)
        reason, response = _split(reasons, answer)
    except BadRow as bad:
        return Drop(row.location, source, bad.reason, bad.detail, "load")
    turns = tuple(prompt)
    return SFTRecord(turns, reason, response, content_id("general", turns, reason, response), source)


def _read_columns(columns: Mapping[str, Any]) -> tuple[list[Message], list[str], str]:
    """Return prompt, reasons and answer of a row with `prompt` and `response`."""
    missing = [name for name in ("prompt", "response") if columns.get(name) is None]
    if missing:
        present = ", ".join(sorted(map(str, columns))[:8]) or "none"
        detail = f"There is no {' and no '.join(missing)} (found: {present}); give prompt and response, or messages."
        raise BadRow("missing_column", detail)
    prompt = read_prompt(columns["prompt"], "prompt")
    reason = columns.get("reason")
    reasons = [] if reason is None else [check_text(reason, "reason")]
    return prompt, reasons, check_text(columns["response"], "response")


def _read_messages(columns: Mapping[str, Any]) -> tuple[list[Message], list[str], str]:
    """Return prompt, reasons and answer of a row with `messages`."""
    turns = read_turns(columns["messages"], "messages", (*ROLES, *REASON_ROLES))
    answer = turns.pop()
    if answer["role"] != "assistant":
        detail = f"`messages` ends in a {answer['role']} turn; end it in the assistant's answer."
        raise BadRow("no_final_answer", detail)
    reasons = []
    if (reasoning := columns["messages"][-1].get("reasoning_content")) is not None:
        reasons.append(check_text(reasoning, "messages[-1].reasoning_content"))
    while turns and turns[-1]["role"] in REASON_ROLES:
        reasons.append(turns.pop()["content"])
    prompt = [
        Message(role=turn["role"], content=_without_reason(turn))
        for turn in turns
        if turn["role"] not in REASON_ROLES
    ]
    check_prompt(prompt, "messages")
    return prompt, reasons, answer["content"]


def _without_reason(turn: Message) -> str:
    if turn["role"] != "assistant" or not (block := _THINK.match(turn["content"])):
        return turn["content"]
    return turn["content"][block.end() :].lstrip()


def _split(reasons: list[str], answer: str) -> tuple[str, str]:
    """Return the one reason (or none), and the answer without its `<think>` block."""
    block = _THINK.match(answer)
    if block:
        reasons = [*reasons, block.group(1)]
        answer = answer[block.end() :]
    elif answer.lstrip().startswith("<think>"):
        raise BadRow(
            "open_think", "The answer opens <think> and does not close it: it is cut off; remove it."
        )
    reasons = [reason.strip() for reason in reasons if reason.strip()]
    if len(reasons) > 1:
        raise BadRow("two_reasons", f"The answer has {len(reasons)} reasons; leave one of them.")
    if not answer.strip():
        raise BadRow("empty_answer", "The answer is empty; fill it or remove the row.")
    return reasons[0] if reasons else "", answer.strip()
