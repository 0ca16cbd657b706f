"""`reasongenrm scalar filter` and `distil export-dpo`: keep the replies that a head scores high; make pairs of scored replies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from reasongenrm.chat.markers import break_markers
from reasongenrm.console import say
from reasongenrm.data.scored_pairs import (
    Candidate,
    LengthDifference,
    ScoredPair,
    balanced_pairs,
    eligible_pairs,
    widest_pairs,
)
from reasongenrm.errors import ConfigError, DataError, first_line
from reasongenrm.records import Drop, Message
from reasongenrm.rows.replies import Reply, read_replies
from reasongenrm.rows.turns import is_number
from reasongenrm.run import file_hash
from reasongenrm.scalar.model import ScalarRewardModel, head_scale
from reasongenrm.store import PartStore, dump_line, jsonl_writer, to_json, write_json, write_jsonl

WINDOW = 1024
"""Replies that are read and scored together."""

HINT = "a row has context, message and response, or prompt and answer; see docs/data-format.md"


def filter_replies(
    head: str, source: str, target: str, *, threshold: float, batch_size: int = 32
) -> dict[str, int]:
    """Write the rows whose reply has a score of at least `threshold`, with all their columns and the new column `score`.

    The other rows are in `<target>.dropped.jsonl`: those below the threshold with their score and columns, those that cannot
    be read with the reason. Both files are complete or absent. Scores are kept beside them: a killed command continues, and
    another threshold scores nothing again.

    Args:
        head: folder of a trained head.
        source: rows; see `rows.replies.read_replies`.
        target: JSONL file.
        threshold: in units of the head's score.
        batch_size: replies per forward pass.

    Returns:
        `rows`, `kept`, and the number of dropped rows by reason (`below_threshold`, …); they add up.

    Raises:
        ConfigError: `target` exists, or the threshold is not a number.
        DataError: `source` cannot be read, or no row of it.
        EngineError: the folder does not hold a trained head.
    """
    if not math.isfinite(threshold):
        raise ConfigError("not a finite number", location="threshold", hint="give a score of the head")
    _check_new(source, target)
    scores = _head_scores(head, source, target, batch_size)
    if not head_scale(head).is_judge_scale:
        say(
            f"{head}: it has learned from pairs, so its scores compare replies to one message; a threshold compares all with all"
        )
    counts: Counter[str] = Counter(rows=0, kept=0)
    with jsonl_writer(Path(target)) as keep, jsonl_writer(_dropped(target)) as drop:
        for item in read_replies(source, whole=True):
            counts["rows"] += 1
            if isinstance(item, Drop):
                counts[item.reason] += 1
                drop(to_json(item))
                continue
            score = scores[item.id]["score"]
            if problem := _not_json(item):
                counts[problem.reason] += 1
                drop(to_json(problem))
            elif score >= threshold:
                counts["kept"] += 1
                keep(item.row.columns | {"score": score})
            else:
                counts["below_threshold"] += 1
                detail = f"The score {score:.4g} is below the threshold {threshold:g}."
                record = Drop(item.row.location, item.row.origin, "below_threshold", detail, "filter")
                drop(to_json(record) | {"score": score, "row": item.row.columns})
    say(f"{target}: {_counts(counts)}")
    return dict(counts)


def _not_json(reply: Reply) -> Drop | None:
    """Return a Drop where a column of the row cannot be written as JSON, such as NaN; others have been read as JSON."""
    try:
        dump_line(dict(reply.row.columns))
    except (TypeError, ValueError, RecursionError) as error:
        detail = f"A column cannot be written as JSON ({first_line(error)}); correct or remove it."
        return Drop(reply.row.location, reply.row.origin, "not_json", detail, "filter")
    return None


def export_dpo(
    source: str,
    target: str,
    *,
    head: str | None = None,
    gap: float = 0.1,
    balance: bool = True,
    batch_size: int = 32,
) -> dict[str, Any]:
    """Write one preference pair per context, for DPO: `prompt`, `chosen` and `rejected` as messages, and both scores.

    It is TRL's conversational format with an explicit prompt. The rows of `source` are replies; those with the same context are
    its candidates. Contexts without a pair, and rows that cannot be used, are in `<target>.dropped.jsonl`; the counts and the
    difference of the lengths are in `<target>.report.json`.

    Args:
        source: rows; see `rows.replies.read_replies`.
        target: JSONL file.
        head: folder of a head that scores the replies; None: the rows have a column `score`.
        gap: least difference of the two scores, above 0.
        balance: choose pairs whose chosen replies are not longer on average (`data.scored_pairs.balanced_pairs`); otherwise the
            pair of each context with the widest gap is written.
        batch_size: replies per forward pass.

    Returns:
        The report: `counts`, `gap`, `balance`, and `length` with `widest` (the pairs with the widest gap) and `written`.

    Raises:
        ConfigError: `target` exists, or the gap is not above 0.
        DataError: `source` cannot be read, or has no pair.
        EngineError: the folder does not hold a trained head.
    """
    if not 0 < gap < math.inf:
        raise ConfigError(f"{gap} is not above 0", location="gap", hint="give a difference of scores")
    _check_new(source, target)
    scores = _head_scores(head, source, target, batch_size) if head is not None else None
    groups, contexts, drops = _candidates(source, scores)
    counts: Counter[str] = Counter(rows=sum(map(len, groups.values())) + len(drops), contexts=len(groups))
    pairs_by_context = eligible_pairs(groups, gap)
    widest = widest_pairs(pairs_by_context)
    pairs = balanced_pairs(pairs_by_context) if balance else widest
    written = {pair.context_id for pair in pairs}
    for context_id, candidates in groups.items():
        if context_id not in written:
            drops.append(_context_drop(context_id, len(candidates), gap, context_id in pairs_by_context))
    counts.update(drop.reason for drop in drops)
    counts["pairs"] = len(pairs)
    if not pairs:
        hint = "lower the gap, or give each context several replies"
        raise DataError(f"no pair ({_counts(counts)})", location=source, hint=hint)
    length = {"widest": LengthDifference.measure(widest), "written": LengthDifference.measure(pairs)}
    report = {"counts": dict(counts), "gap": gap, "balance": balance}
    report["length"] = {name: asdict(value) for name, value in length.items()}
    write_jsonl(_dropped(target), map(to_json, drops))
    write_json(Path(f"{target}.report.json"), report)
    write_jsonl(Path(target), (_dpo_row(contexts[pair.context_id], pair) for pair in pairs))
    say(f"{target}: {_counts(counts)}")
    say(f"length, chosen against rejected: {_length_line(length['widest'])} in the pairs with the widest gap")
    say(f"                                 {_length_line(length['written'])} in the pairs that are written")
    return report


def _candidates(
    source: str, scores: PartStore | None
) -> tuple[dict[str, list[Candidate]], dict[str, tuple[Message, ...]], list[Drop]]:
    """Return the candidates of each context, the contexts, and the rows that cannot be used."""
    groups: dict[str, list[Candidate]] = {}
    contexts: dict[str, tuple[Message, ...]] = {}
    drops: list[Drop] = []
    seen: set[str] = set()
    for item in read_replies(source, optional=("score",)):
        if isinstance(item, Drop):
            drops.append(item)
            continue
        location, origin = item.row.location, item.row.origin
        score = scores[item.id]["score"] if scores is not None else item.row.columns.get("score")
        if not is_number(score):
            detail = "The row has no finite number in the column `score`; give the head that scores it."
            drops.append(Drop(location, origin, "no_score", detail, "export"))
        elif item.id in seen:
            detail = "The same reply to this context came before."
            drops.append(Drop(location, origin, "duplicate", detail, "export"))
        else:
            seen.add(item.id)
            contexts[item.context_id] = item.context
            groups.setdefault(item.context_id, []).append(Candidate(item.response, float(score)))
    return groups, contexts, drops


def _context_drop(context_id: str, candidates: int, gap: float, eligible: bool) -> Drop:
    """Return why a context has no pair."""
    if eligible:
        reason, detail = (
            "length_balance",
            "Its pairs would make the chosen replies longer, or shorter, on average.",
        )
    elif candidates == 1:
        reason, detail = "one_reply", "The context has one reply; a pair needs two."
    else:
        reason, detail = (
            "small_gap",
            f"No two of its {candidates} replies have scores that differ by {gap:g}.",
        )
    return Drop(context_id, "?", reason, detail, "export")


def _dpo_row(context: Sequence[Message], pair: ScoredPair) -> dict[str, Any]:
    """Return a row for TRL; chat markers in texts get a backslash, as in `data/export.py`."""

    def turn(role: str, text: str) -> Message:
        return Message(role=role, content=break_markers(text, "\\"))

    return {
        "prompt": [turn(one["role"], one["content"]) for one in context],
        "chosen": [turn("assistant", pair.chosen.response)],
        "rejected": [turn("assistant", pair.rejected.response)],
        "score_chosen": pair.chosen.score,
        "score_rejected": pair.rejected.score,
    }


def _length_line(length: LengthDifference) -> str:
    assert length.mean_extra is not None and length.share_longer is not None
    return (
        f"{length.mean_extra:+.1f} characters on average, longer in {length.share_longer:.0%} "
        f"({length.pairs} pairs)"
    )


def _head_scores(head: str, source: str, target: str, batch_size: int) -> PartStore:
    """Return the scores of all replies by their id, in a file beside the target; those that it has are not computed again."""
    store = PartStore(Path(f"{target}.scores-{file_hash(head)}.jsonl"), marked=False)
    load = cache(lambda: ScalarRewardModel.from_pretrained(head))
    rows = 0
    for replies in _windows(source):
        new = {reply.id: reply for reply in replies if reply.id not in store}
        rows += len(replies)
        if not new:
            continue
        if store.finished:
            store.reopen()
        contexts, texts = [one.context for one in new.values()], [one.response for one in new.values()]
        scores = load().score_batch(contexts=contexts, responses=texts, batch_size=batch_size)
        store.append({"id": name, "score": score} for name, score in zip(new, scores, strict=True))
    if not rows:
        raise DataError("no row can be read", location=source, hint=HINT)
    if not store.finished:
        store.finish(list(store))
    return store


def _windows(source: str) -> Iterator[list[Reply]]:
    replies = (item for item in read_replies(source) if isinstance(item, Reply))
    while window := list(islice(replies, WINDOW)):
        yield window


def _check_new(source: str, target: str) -> None:
    """Raise a ConfigError where the target exists, or a file beside it would replace the source."""
    if Path(target).exists():
        raise ConfigError("the file exists", location=target, hint="name another file, or move this one away")
    if Path(source).resolve() == _dropped(target).resolve():
        raise ConfigError(
            "the dropped rows would replace the input", location=target, hint="name another file"
        )


def _dropped(target: str) -> Path:
    return Path(f"{target}.dropped.jsonl")


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
