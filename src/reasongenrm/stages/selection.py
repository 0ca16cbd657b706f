"""Third step of stage 1, free to repeat: choose reasons, and write the records that training reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, get_args

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import Grammar, verdict_text
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.prepare import Selector
from reasongenrm.config.recipe import Recipe, is_blind_student
from reasongenrm.data.general import mix
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.reasons.records import dpo_pair, dpo_row, grpo_row, solve_rate, worth_learning
from reasongenrm.reasons.select import Choice, groups, losers, selector, unfit
from reasongenrm.records import Drop, JudgePrompt, Reason, ScoredReason, SFTRecord
from reasongenrm.run import Run
from reasongenrm.stages.reasons import read_reasons, read_work
from reasongenrm.store import jsonl_writer, read_jsonl, to_json, write_jsonl

SELECTORS: tuple[Selector, ...] = get_args(Selector)


def read_groups(run: Run) -> Iterator[tuple[str, list[ScoredReason]]]:
    """Yield each prompt's id with its scored reasons."""
    return groups(ScoredReason(**row) for row in read_jsonl(run.path("scored.jsonl")))


@dataclass
class _Tally:
    """What became of the reasons."""

    prompts: int = 0
    pairs: int = 0  # with a reason kept
    sampled: Counter[str] = field(default_factory=Counter)  # teacher -> reasons
    kept: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    dpo: int = 0
    dpo_too_long: int = 0
    grpo: int = 0

    def to_dict(self, recipe: Recipe) -> dict[str, Any]:
        sampled, kept = self.sampled.total(), self.kept.total()
        assert sampled == kept + self.dropped.total(), "a reason was lost or counted twice"
        return {
            "prompts": self.prompts,
            "prompts_without_reason": self.prompts - kept,
            "sampled": sampled,
            "kept": kept,
            "dropped": dict(sorted(self.dropped.items())),
            "mean_tokens_kept": round(self.tokens / kept, 1) if kept else None,
            "teachers": {
                name: {"mode": teacher.mode, "sampled": self.sampled[name], "kept": self.kept[name]}
                for name, teacher in recipe.teachers.items()
            },
        }


class _Writer:
    """Writes the records of one prompt after the other."""

    def __init__(self, recipe: Recipe, run: Run, encoder: ChatEncoder, stack: ExitStack) -> None:
        def out(name: str) -> Any:
            return stack.enter_context(jsonl_writer(run.path(name)))

        self._recipe, self._encoder = recipe, encoder
        self._rule = selector(recipe.select, recipe.seed)
        self._students = {n for n, teacher in recipe.teachers.items() if is_blind_student(teacher)}
        self._sft, self._dropped = out("sft.jsonl"), out("reasons_dropped.jsonl")
        self._dpo = out("dpo.jsonl") if recipe.records.dpo else None
        self._grpo = out("grpo.jsonl") if recipe.records.grpo else None
        self.tally = _Tally()
        self._last_pair = ""

    def prompt(
        self,
        prompt: JudgePrompt,
        reasons: Sequence[Reason],
        scored: list[ScoredReason],
        prompts: PromptFile,
    ) -> None:
        self.tally.prompts += 1
        self.tally.sampled.update(reason.teacher for reason in reasons)
        for reason in reasons:
            drop = unfit(reason, prompt, prompts, self._recipe.select.giveaway_words)
            if drop:
                self._drop(drop)
        choice = self._keep(prompt, self._rule(scored))
        for drop in losers(scored, choice, prompt.source):
            self._drop(drop)
        self._preferences(prompt, scored)
        self._reinforcement(prompt, reasons)

    def _drop(self, drop: Drop) -> None:
        self.tally.dropped[drop.reason] += 1
        self._dropped(to_json(drop))

    def _keep(self, prompt: JudgePrompt, choice: Choice | None) -> Choice | None:
        """Write the chosen reason's record; one that is too long is dropped here, and still stands as the choice."""
        if choice is None:
            return None
        kept = choice.reason
        length = self._length(prompt, kept.text)
        if length > self._recipe.data.max_tokens:
            detail = f"{length} tokens; data.max_tokens is {self._recipe.data.max_tokens}"
            self._drop(Drop(kept.id, prompt.source, "record_too_long", detail, "reason"))
            return choice
        record = SFTRecord(
            prompt=prompt.messages,
            reason=kept.text,
            response=verdict_text(prompt.winner, self._encoder.grammar),
            id=prompt.id,
            source=prompt.source,
            pair_id=prompt.pair_id,
            order=prompt.order,
            teacher=kept.teacher,
            score=choice.value,
        )
        self._sft(record.to_row())
        self.tally.kept[kept.teacher] += 1
        self.tally.tokens += kept.tokens
        self.tally.pairs += prompt.pair_id != self._last_pair  # a pair's prompts stand together
        self._last_pair = prompt.pair_id
        return choice

    def _length(self, prompt: JudgePrompt, reason: str) -> int:
        asked = self._encoder.encode(prompt.messages, generation=True)
        return len(asked) + len(self._encoder.completion(reason, verdict_text("A", self._encoder.grammar)))

    def _preferences(self, prompt: JudgePrompt, scored: list[ScoredReason]) -> None:
        if self._dpo is None or self._recipe.records.dpo is None:
            return
        found = dpo_pair(scored, self._recipe.records.dpo)
        if found is None:
            return
        if max(self._length(prompt, side.text) for side in found) > self._recipe.data.max_tokens:
            self.tally.dpo_too_long += 1
            return
        self._dpo(dpo_row(prompt, *found, self._encoder.grammar))
        self.tally.dpo += 1

    def _reinforcement(self, prompt: JudgePrompt, reasons: Sequence[Reason]) -> None:
        if self._grpo is None or self._recipe.records.grpo is None:
            return
        own = [reason for reason in reasons if reason.teacher in self._students]
        solved, samples = solve_rate(own, prompt.winner)
        if worth_learning(solved, samples, self._recipe.records.grpo):
            self._grpo(grpo_row(prompt, solved, samples))
            self.tally.grpo += 1


def write_reasoned(recipe: Recipe, run: Run, prompts: PromptFile, encoder: ChatEncoder) -> dict[str, Any]:
    """Choose reasons and write sft, dpo, grpo and reasons_dropped.jsonl; return the report's sections.

    Raises:
        ConfigError: the formula does not work.
        DataError: no reason was kept.
    """
    waiting = read_groups(run)
    group = next(waiting, None)
    with ExitStack() as stack:
        writer = _Writer(recipe, run, encoder, stack)
        for prompt, reasons in read_reasons(recipe, run):
            scored: list[ScoredReason] = []
            if group is not None and group[0] == prompt.id:
                scored = group[1]
                group = next(waiting, None)
            writer.prompt(prompt, reasons, scored, prompts)
    assert group is None, "scored.jsonl and prompts.jsonl are of different runs"
    tally = writer.tally
    if not tally.kept:
        raise DataError(
            f"no reason was kept; dropped: {dict(tally.dropped)}",
            location="select",
            hint="see reasons_dropped.jsonl; lower select.threshold, or take another selector",
        )
    records: dict[str, Any] = {"sft": tally.kept.total()}
    if recipe.records.dpo:
        records |= {"dpo": tally.dpo, "dpo_too_long": tally.dpo_too_long}
    if recipe.records.grpo:
        records["grpo"] = tally.grpo
    return {"reasons": tally.to_dict(recipe) | {"pairs_with_reason": tally.pairs}, "records": records}


def direct_record(prompt: JudgePrompt, grammar: Grammar) -> SFTRecord:
    """Return a prompt's verdict-only record."""
    return SFTRecord(
        prompt=prompt.messages,
        reason="",
        response=verdict_text(prompt.winner, grammar),
        id=prompt.id,
        source=prompt.source,
        pair_id=prompt.pair_id,
        order=prompt.order,
    )


def write_direct(run: Run, grammar: Grammar) -> int:
    """Write genrm.jsonl, the verdict-only records of all judge prompts; return their number."""
    return write_jsonl(
        run.path("genrm.jsonl"), (direct_record(prompt, grammar).to_row() for _, prompt in read_work(run))
    )


def write_general(recipe: Recipe, run: Run, encoder: ChatEncoder, judge_records: int) -> dict[str, Any]:
    """Write general.jsonl and general_dropped.jsonl; return the counts.

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


@dataclass
class Comparison:
    """What one selector keeps.

    Attributes:
        kept: prompts that kept a reason.
        prompts: prompts with a scored reason.
        tokens: of all kept reasons, under the student's tokenizer.
        both, same: prompts for which the other selector kept a reason too, and those of them with the same one.
    """

    kept: int = 0
    prompts: int = 0
    tokens: int = 0
    both: int = 0
    same: int = 0

    @property
    def mean_tokens(self) -> float:
        """Mean length of the kept reasons, in tokens."""
        return self.tokens / self.kept if self.kept else 0.0

    @property
    def overlap(self) -> float:
        """Share of `both` that is the same, in [0, 1]."""
        return self.same / self.both if self.both else 0.0


def compare_selectors(
    recipe: Recipe, run: Run, names: Sequence[Selector], against: Selector
) -> dict[Selector, Comparison]:
    """Select anew from `scored.jsonl` with each of the selectors; nothing is sampled, scored or written.

    Raises:
        ConfigError: nothing is scored yet, or the formula does not work.
    """
    if not run.path("scored.jsonl").exists():
        raise ConfigError("nothing is scored yet", location=str(run.folder), hint="run 1_prepare.sh first")
    rules = {name: selector(recipe.select, recipe.seed, name) for name in (*names, against)}
    found = {name: Comparison() for name in names}
    for _, group in read_groups(run):
        choices = {name: rule(group) for name, rule in rules.items()}
        other = choices[against]
        for name, row in found.items():
            choice = choices[name]
            row.prompts += 1
            if choice is None:
                continue
            row.kept += 1
            row.tokens += choice.reason.tokens
            if other is not None:
                row.both += 1
                row.same += choice.reason.id == other.reason.id
    return found


def select(recipe: Recipe, names: Sequence[Selector], against: Selector | None) -> None:
    """Print what other selectors would keep of a finished run's reasons.

    Raises:
        ConfigError: see `compare_selectors`.
    """
    from rich.console import Console
    from rich.table import Table

    against = against or recipe.select.selector
    found = compare_selectors(recipe, Run(recipe, "prepare"), names or SELECTORS, against)
    table = Table(title=f"{recipe.name}: prompts with a scored reason, and what each selector keeps")
    for heading in ("selector", "prompts", "kept", "share", "mean tokens", f"same as {against}"):
        table.add_column(heading, justify="left" if heading == "selector" else "right")
    for name, row in found.items():
        table.add_row(
            name, str(row.prompts), str(row.kept), f"{100 * row.kept / max(1, row.prompts):.1f} %",
            f"{row.mean_tokens:.1f}", f"{100 * row.overlap:.1f} %",
        )  # fmt: skip
    Console(width=110).print(table)
