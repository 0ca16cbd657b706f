"""General chat and reasoning data: rows of other people's datasets -> records to mix into a judge's own by weight."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from reasongenrm.config.prepare import GeneralConfig
from reasongenrm.errors import DataError
from reasongenrm.records import Drop, Message, SFTRecord, content_id, unit_hash
from reasongenrm.rows.files import UNKNOWN_SOURCE, RawRow, read_rows
from reasongenrm.rows.turns import ROLES, BadRow, check_prompt, check_text, read_prompt, read_turns

REASON_ROLES = ("reason", "think")
_COLUMNS = ("prompt", "reason", "response", "messages", "source")
_THINK = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)

Key = tuple[float, int]


def load_general(config: GeneralConfig) -> Iterator[SFTRecord | Drop]:
    """Stream a dataset's rows, each as a record or as a Drop of stage `load`; memory does not grow with the input.

    A row holds `prompt` (a text, or messages that end in the user's turn), `response` and, if it likes, `reason`; or
    `messages`, whose last turn is the assistant's answer to those before it. The answer's reason is the turn of role
    `reason` or `think` before it, its key `reasoning_content`, or a `<think>…</think>` block at its beginning; more
    than one of these is an error of the row. Reasons of earlier answers are left out of the prompt, as the chat
    templates of reasoning models do. Reason and answer are stripped of outer white space.

    Raises:
        ConfigError, DataError: see `reading.read_rows`.
    """
    rows = read_rows(
        config.path, required=(), optional=_COLUMNS, split=config.split, revision=config.revision
    )
    return (row if isinstance(row, Drop) else _record(row) for row in rows)


def mix(
    configs: Sequence[GeneralConfig],
    judge_records: int,
    seed: int,
    too_long: Callable[[SFTRecord], Drop | None] = lambda record: None,
) -> tuple[list[SFTRecord], dict[str, Any], list[Drop]]:
    """Take `round(weight * judge_records)` records of each dataset, or all where there are fewer.

    Which ones, and their order, is a function of the seed and the records' ids: the lowest `unit_hash(seed, id)` are
    taken, wherever they stand in the files. Memory holds only as many records as are taken.

    Args:
        configs: the datasets, in their order; a record that an earlier one gave is not taken again.
        judge_records: number of the judge's own records.
        seed: of the run.
        too_long: says why a record may not be taken; asked only about records that would be.

    Returns:
        The records; counts; and the drops: every row that cannot be read, and each repeated or long row that stood
        in the way of a record that was taken. The counts are plain JSON: `taken` in all, and for each of `datasets`
        its `path`, `weight`, `wanted`, `taken`, `read`, `not_needed` (good or repeated rows beyond the
        number wanted, whose contents were not looked at any further), `dropped` by slug, and `note`;
        `read = taken + not_needed + dropped`.

    Raises:
        DataError: a dataset gives no record.
    """
    records: list[SFTRecord] = []
    drops: list[Drop] = []
    taken: set[str] = set()
    datasets = []
    for config in configs:
        draw = _Draw(round(config.weight * judge_records), seed, taken, too_long)
        for row in load_general(config) if draw.wanted else ():
            draw.add(row)
        if draw.wanted and not draw.heap:
            first = f"; the first dropped: {draw.drops[0].detail}" if draw.drops else ""
            hint = "give rows with prompt and response, or with messages"
            raise DataError(f"no record can be taken{first}", location=config.path, hint=hint)
        found = draw.records()
        taken.update(record.id for record in found)
        records += found
        drops += draw.drops
        datasets.append(_counts(config, draw, len(found)))
    return records, {"taken": len(records), "datasets": datasets}, drops


def _counts(config: GeneralConfig, draw: _Draw, found: int) -> dict[str, Any]:
    note = None
    if not draw.wanted:
        note = "the weight asks for less than half a record: the dataset was not read"
    elif found < draw.wanted:
        note = f"only {found} usable records of {draw.wanted} wanted: all were taken, none twice"
    return {
        "path": config.path,
        "weight": config.weight,
        "wanted": draw.wanted,
        "taken": found,
        "read": draw.read,
        "not_needed": draw.read - found - len(draw.drops),
        "dropped": dict(sorted(Counter(drop.reason for drop in draw.drops).items())),
        "note": note,
    }


class _Draw:
    """The records of one dataset with the lowest keys, of those seen so far.

    Args:
        wanted: how many.
        seed: of the run.
        taken: ids that earlier datasets gave.
        too_long: see `mix`.
    """

    def __init__(
        self, wanted: int, seed: int, taken: set[str], too_long: Callable[[SFTRecord], Drop | None]
    ) -> None:
        self.wanted, self.seed, self.taken, self.too_long = wanted, seed, taken, too_long
        self.heap: list[tuple[Key, SFTRecord]] = []  # keys negated: the worst record comes first
        self.ids: set[str] = set()
        self.read = 0
        self._bad: list[Drop] = []
        self._passed: list[tuple[Key, Drop]] = []

    def add(self, row: SFTRecord | Drop) -> None:
        """Look at one row."""
        self.read += 1
        if isinstance(row, Drop):
            self._bad.append(row)
            return
        key = (-unit_hash(self.seed, row.id), -int(row.id, 16))
        if len(self.heap) == self.wanted and key < self.heap[0][0]:
            return
        if row.id in self.ids or row.id in self.taken:
            detail = "An earlier row has the same prompt, reason and response; remove one of them."
            self._passed.append((key, Drop(row.id, row.source, "duplicate", detail, "general")))
        elif (long := self.too_long(row)) is not None:
            self._passed.append((key, long))
        else:
            self.ids.add(row.id)
            heapq.heappush(self.heap, (key, row))
            if len(self.heap) > self.wanted:
                _, worst = heapq.heappop(self.heap)
                self.ids.remove(worst.id)
                self._forget()

    def _forget(self) -> None:
        """Let go of drops that no longer stand in the way of a record: what is reported depends on no order of rows."""
        if len(self._passed) > 2 * self.wanted:
            self._passed = self._in_the_way()

    def _in_the_way(self) -> list[tuple[Key, Drop]]:
        full = len(self.heap) == self.wanted
        return [entry for entry in self._passed if not full or entry[0] >= self.heap[0][0]]

    @property
    def drops(self) -> list[Drop]:
        """What was left out, with the rows that cannot be read first."""
        return self._bad + [drop for _, drop in self._in_the_way()]

    def records(self) -> list[SFTRecord]:
        """Return the records, lowest hash first."""
        return [record for _, record in sorted(self.heap, key=lambda entry: entry[0], reverse=True)]


def _record(row: RawRow) -> SFTRecord | Drop:
    """Return a row as a record, or as a Drop that says what is wrong; never raises on bad input."""
    source = UNKNOWN_SOURCE
    try:
        named = row.columns.get("source")
        source = (check_text(named, "source").strip() if named is not None else "") or row.origin
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
        found = ", ".join(sorted(map(str, columns))[:8]) or "none"
        detail = (
            f"There is no {' and no '.join(missing)} (found: {found}); give prompt and response, or messages."
        )
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
    if (beside := columns["messages"][-1].get("reasoning_content")) is not None:
        reasons.append(check_text(beside, "messages[-1].reasoning_content"))
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
    """Return the one reason (or none) and the answer without a block of thought."""
    block = _THINK.match(answer)
    if block:
        reasons = [*reasons, block.group(1)]
        answer = answer[block.end() :]
    elif answer.lstrip().startswith("<think>"):
        raise BadRow(
            "open_think", "The answer opens <think> and does not close it; it was cut off, remove it."
        )
    filled = [reason.strip() for reason in reasons if reason.strip()]
    if len(filled) > 1:
        raise BadRow("two_reasons", f"The answer has {len(filled)} reasons; leave one of them.")
    if not answer.strip():
        raise BadRow("empty_answer", "The answer is empty; fill it or remove the row.")
    return filled[0] if filled else "", answer.strip()
