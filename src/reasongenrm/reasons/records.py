"""Training records from prompts and scored reasons: genrm, sft, dpo, grpo and general data.

A reason is *right* when it concludes the label and does not lead the student away from it, P(A|U,R) >= 1/2; otherwise
it is *wrong*: it concludes the other verdict, or leads to it. It is *fluent* as far as the student would write it
itself, P(R|U). Both are the probabilities of R* (`reasons/select.py`): exponentials of mean log-probabilities, so
geometric means per token.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import DEFAULT_GRAMMAR, Grammar
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.prepare import Corner, DPOConfig, GRPOConfig
from reasongenrm.config.recipe import Recipe, is_blind_student
from reasongenrm.data.general import mix
from reasongenrm.reasons.select import Choice, eligible_reasons, selector, unfit_drop, unselected_drops
from reasongenrm.records import (
    REFERENCE_POINTS,
    Drop,
    JudgePrompt,
    Letter,
    Message,
    Reason,
    ScoredReason,
    SFTRecord,
)
from reasongenrm.run import Run
from reasongenrm.store import jsonl_writer, to_json, write_jsonl


def direct_record(prompt: JudgePrompt, grammar: Grammar) -> SFTRecord:
    """Return a prompt's verdict-only record."""
    return SFTRecord(
        prompt=prompt.messages,
        reason="",
        response=grammar.text(prompt.winner),
        id=prompt.id,
        source=prompt.source,
        pair_id=prompt.pair_id,
        order=prompt.order,
    )


def p_reason(reason: ScoredReason) -> float:
    """Return P(R|U) in (0, 1], per token."""
    return math.exp(reason.reason_logprob)


def p_verdict(reason: ScoredReason) -> float:
    """Return P(A|U,R) of the right verdict in (0, 1], per token."""
    return math.exp(reason.verdict_logprob)


def is_right(reason: ScoredReason) -> bool:
    """Whether a reason concludes the label and does not lead the student to the other verdict."""
    return reason.verdict == reason.winner and p_verdict(reason) >= 0.5


CORNERS: dict[Corner, tuple[bool, Callable[[ScoredReason], float]]] = {
    "right_fluent": (True, lambda s: p_verdict(s) * p_reason(s)),
    "right_disfluent": (True, lambda s: p_verdict(s) * (1 - p_reason(s))),
    "wrong_fluent": (False, lambda s: (1 - p_verdict(s)) * p_reason(s)),
    "wrong_disfluent": (False, lambda s: (1 - p_verdict(s)) * (1 - p_reason(s))),
}
"""Corner -> whether its reasons are right, and the value in [0, 1] by which the best of them is chosen."""


def in_corner(group: Iterable[ScoredReason], corner: Corner) -> ScoredReason | None:
    """Return a prompt's reason with the highest value of a corner, or None where none is right (or wrong).

    `wrong_fluent` is the argmin of −(1 − P(A|U,R))·P(R|U). Ties go to the lowest id.
    """
    right, value = CORNERS[corner]
    candidates = [reason for reason in group if is_right(reason) == right]
    return min(candidates, key=lambda reason: (-value(reason), reason.id), default=None)


def dpo_pair(group: Iterable[ScoredReason], config: DPOConfig) -> tuple[ScoredReason, ScoredReason] | None:
    """Return the chosen and the rejected reason of one prompt's group.

    None where a corner is empty, or where both corners give the same text.
    """
    group = list(group)
    chosen, rejected = in_corner(group, config.chosen), in_corner(group, config.rejected)
    if chosen is None or rejected is None:
        return None
    if (chosen.text, final_verdict(chosen)) == (rejected.text, final_verdict(rejected)):
        return None
    return chosen, rejected


def final_verdict(reason: ScoredReason) -> Letter:
    """Return the verdict to write after a reason: the label after a right one, the other letter after a wrong one.

    This is what the reason concludes, except for a reason that concludes the label but leads the student away from
    it: there it is what the student would write, so that no rejected completion ends in the right verdict.
    """
    if is_right(reason):
        return reason.winner
    return "B" if reason.winner == "A" else "A"


def dpo_row(
    prompt: JudgePrompt, chosen: ScoredReason, rejected: ScoredReason, grammar: Grammar = DEFAULT_GRAMMAR
) -> dict[str, Any]:
    """Return a row of `dpo.jsonl` in TRL's conversational preference format (`prompt`, `chosen`, `rejected`).

    Further columns: `id` (the judge prompt's), `pair_id`, `source`, and for both sides `scores` (P(R|U) as `reason`,
    P(A|U,R) as `verdict`) and `teachers`.
    """
    sides = {"chosen": chosen, "rejected": rejected}
    return {
        "prompt": list(prompt.messages),
        **{
            name: [
                Message(role="reason", content=reason.text),
                Message(role="assistant", content=grammar.text(final_verdict(reason))),
            ]
            for name, reason in sides.items()
        },
        "id": prompt.id,
        "pair_id": prompt.pair_id,
        "source": prompt.source,
        "scores": {
            name: {"reason": round(p_reason(reason), 6), "verdict": round(p_verdict(reason), 6)}
            for name, reason in sides.items()
        },
        "teachers": {name: reason.teacher for name, reason in sides.items()},
    }


def solve_rate(reasons: Sequence[Reason], winner: Letter) -> tuple[int, int]:
    """Return how many of the student's blind samples of a prompt end in the right verdict, and how many are counted.

    A truncated sample, and one without a verdict, is not solved. Engine errors and hindsight reasons are not counted.
    """
    counted = [r for r in reasons if r.mode == "blind" and r.finish_reason != "error"]
    solved = sum(r.verdict == winner and r.finish_reason != "length" for r in counted)
    return solved, len(counted)


def worth_learning(solved: int, samples: int, config: GRPOConfig) -> bool:
    """Whether a prompt's solve rate is between the bounds, both excluded; False without samples."""
    return samples > 0 and config.above < solved / samples < config.below


def grpo_row(prompt: JudgePrompt, solved: int, samples: int, points: Sequence[str] = ()) -> dict[str, Any]:
    """Return a row of `grpo.jsonl`: TRL's conversational `prompt`; the other columns go to the reward function.

    These are `winner` (A or B), `solve_rate` in [0, 1], the number of `samples` behind it, `id`, `pair_id` and `source`; and
    `reference_points`, the pair's, if it has some.
    """
    row: dict[str, Any] = {
        "prompt": list(prompt.messages),
        "winner": prompt.winner,
        "solve_rate": round(solved / samples, 6),
        "samples": samples,
        "id": prompt.id,
        "pair_id": prompt.pair_id,
        "source": prompt.source,
    }
    return row | ({REFERENCE_POINTS: list(points)} if points else {})


class RecordWriter:
    """Write the records of one judge prompt after the other.

    Use it as a context: its files are complete when it ends without an error, and otherwise unchanged. These are
    `genrm.jsonl`; and where the recipe has a reasoning judge, `sft.jsonl`, `reasons_dropped.jsonl`, and `dpo.jsonl` and
    `grpo.jsonl` as it sets `records.dpo` and `records.grpo`. `encoder` is that of the reasoning judge, for the length
    limit.

    Attributes:
        prompts: prompts with reasons so far.
        sampled, kept: reasons by teacher, so far.
        dropped: reasons by the slug of their `Drop` and by teacher.
        records: records by file (`genrm`, `sft`, `dpo`, `grpo`), `dpo_too_long`, and `grpo_with_points`.

    Raises:
        ConfigError: the selector's formula cannot be evaluated.
    """

    def __init__(self, recipe: Recipe, run: Run, prompt_file: PromptFile, encoder: ChatEncoder) -> None:
        self._recipe, self._run, self._prompt_file, self._encoder = recipe, run, prompt_file, encoder
        self._selector = selector(recipe.select, recipe.seed)
        self._students = {name for name, teacher in recipe.teachers.items() if is_blind_student(teacher)}
        self._files = ExitStack()
        self._write: dict[str, Callable[[dict[str, Any]], None]] = {}
        self.sampled: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.dropped: Counter[tuple[str, str]] = Counter()
        self.records: Counter[str] = Counter()
        self.prompts = self._pairs = self._tokens_kept = 0
        self._last_pair = ""
        self._teachers: dict[str, str] = {}  # by the id of a reason of the current prompt

    def __enter__(self) -> RecordWriter:
        config, names = self._recipe.records, ["genrm"]
        if self._recipe.needs_reasons():
            names += ["sft", "reasons_dropped", *["dpo"] * bool(config.dpo), *["grpo"] * bool(config.grpo)]
        for name in names:
            self._write[name] = self._files.enter_context(jsonl_writer(self._run.path(f"{name}.jsonl")))
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def add_direct(self, prompt: JudgePrompt) -> None:
        """Write a prompt's verdict-only record."""
        self._add("genrm", direct_record(prompt, self._prompt_file.verdict).to_row())

    def add_reasoned(
        self,
        prompt: JudgePrompt,
        reasons: Sequence[Reason],
        scored_reasons: Sequence[ScoredReason],
        points: Sequence[str] = (),
    ) -> None:
        """Write a prompt's records with reasons; prompts of a pair come one after the other.

        `scored_reasons` are those of the reasons that were worth scoring, `points` the reference points of the pair.
        """
        self.prompts += 1
        self.sampled.update(reason.teacher for reason in reasons)
        self._teachers = {reason.id: reason.teacher for reason in reasons}
        scored_ids = {reason.id for reason in scored_reasons}
        for reason in reasons:
            if reason.id not in scored_ids:
                words = self._recipe.select.giveaway_words
                self._drop(unfit_drop(reason, prompt, self._prompt_file, words))
        select = self._recipe.select
        eligible = eligible_reasons(scored_reasons, points, select)
        for reason_id in sorted(scored_ids - {reason.id for reason in eligible}):
            detail = f"it covers less of the reference points than select.rationale = {select.rationale}"
            self._drop(Drop(reason_id, prompt.source, "points_not_covered", detail, "reason"))
        choice = self._selector(eligible, scored_reasons)
        self._add_sft(prompt, choice)
        for drop in unselected_drops(eligible, choice, prompt.source):
            self._drop(drop)
        self._add_dpo(prompt, eligible)
        self._add_grpo(prompt, reasons, points)

    def to_dict(self) -> dict[str, Any]:
        """Return the section `reasons` of the data report."""
        sampled, kept = self.sampled.total(), self.kept.total()
        assert sampled == kept + self.dropped.total(), "a reason was lost or counted twice"
        dropped: Counter[str] = Counter()
        for (slug, _), count in sorted(self.dropped.items()):
            dropped[slug] += count
        return {
            "prompts": self.prompts,
            "prompts_without_reason": self.prompts - kept,
            "sampled": sampled,
            "kept": kept,
            "dropped": dict(dropped),
            "mean_tokens_kept": round(self._tokens_kept / kept, 1) if kept else None,
            "teachers": {
                name: {"mode": teacher.mode, "sampled": self.sampled[name], "kept": self.kept[name]}
                for name, teacher in self._recipe.teachers.items()
            },
            "pairs_with_reason": self._pairs,
        }

    def _add(self, name: str, row: dict[str, Any]) -> None:
        self._write[name](row)
        self.records[name] += 1

    def _drop(self, drop: Drop | None) -> None:
        if drop is not None:
            self.dropped[drop.reason, self._teachers[drop.location]] += 1
            self._write["reasons_dropped"](to_json(drop))

    def _add_sft(self, prompt: JudgePrompt, choice: Choice | None) -> None:
        """Write the selected reason's record, or drop the reason where the record is too long."""
        if choice is None:
            return
        reason, limit = choice.reason, self._recipe.data.max_tokens
        length = self._length(prompt, reason.text)
        if length > limit:
            detail = f"{length} tokens; data.max_tokens is {limit}"
            self._drop(Drop(reason.id, prompt.source, "record_too_long", detail, "reason"))
            return
        record = direct_record(prompt, self._encoder.grammar)
        record = replace(record, reason=reason.text, teacher=reason.teacher, score=choice.value)
        self._add("sft", record.to_row())
        self.kept[reason.teacher] += 1
        self._tokens_kept += reason.tokens
        self._pairs += prompt.pair_id != self._last_pair
        self._last_pair = prompt.pair_id

    def _length(self, prompt: JudgePrompt, reason: str) -> int:
        return sum(map(len, self._encoder.record(prompt.messages, reason, self._encoder.grammar.text("A"))))

    def _add_dpo(self, prompt: JudgePrompt, scored_reasons: Sequence[ScoredReason]) -> None:
        config = self._recipe.records.dpo
        pair = dpo_pair(scored_reasons, config) if config else None
        if pair is None:
            return
        if max(self._length(prompt, side.text) for side in pair) > self._recipe.data.max_tokens:
            self.records["dpo_too_long"] += 1
            return
        self._add("dpo", dpo_row(prompt, *pair, self._encoder.grammar))

    def _add_grpo(self, prompt: JudgePrompt, reasons: Sequence[Reason], points: Sequence[str]) -> None:
        config = self._recipe.records.grpo
        if config is None:
            return
        student_reasons = [reason for reason in reasons if reason.teacher in self._students]
        solved, samples = solve_rate(student_reasons, prompt.winner)
        if worth_learning(solved, samples, config):
            self._add("grpo", grpo_row(prompt, solved, samples, points))
            self.records["grpo_with_points"] += bool(points)


def write_general(recipe: Recipe, run: Run, encoder: ChatEncoder, judge_records: int) -> dict[str, Any]:
    """Write general.jsonl and general_dropped.jsonl; return the counts.

    The weights of the datasets refer to `judge_records`, the number of the judge's own records.

    Raises:
        DataError: a dataset gives no record.
    """

    def too_long(record: SFTRecord) -> Drop | None:
        length = sum(map(len, encoder.record(record.prompt, record.reason, record.response)))
        if length <= recipe.data.max_tokens:
            return None
        detail = f"{length} tokens; data.max_tokens is {recipe.data.max_tokens}"
        return Drop(record.id, record.source, "record_too_long", detail, "general")

    records, counts, drops = mix(recipe.records.general, judge_records, recipe.seed, too_long)
    write_jsonl(run.path("general.jsonl"), (record.to_row() for record in records))
    write_jsonl(run.path("general_dropped.jsonl"), map(to_json, drops))
    return counts
