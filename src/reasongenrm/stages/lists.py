"""Stage 1 for judges of lists: lists from the pairs of a run, their reasons in `lists/`, and the training records.

A list of two is a pair: its reason is the one that was selected for the pair. Longer lists have reasons of their own, which are
sampled, scored and selected as those of pairs are.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

import msgspec

from reasongenrm.chat.encoder import ChatEncoder, load_tokenizer, template_text
from reasongenrm.chat.grammar import LETTERS
from reasongenrm.chat.lists import list_judge_prompts
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.recipe import REASONED, VERDICT_ONLY, Recipe, Template, list_templates
from reasongenrm.console import say
from reasongenrm.errors import ConfigError
from reasongenrm.reasons.lists import answer_lists
from reasongenrm.reasons.records import direct_record
from reasongenrm.reasons.select import selector
from reasongenrm.records import AnswerList, JudgePrompt, PreferencePair, SFTRecord
from reasongenrm.run import Run
from reasongenrm.stages.reasons import read_scored_prompts, sample_all, score_all
from reasongenrm.store import jsonl_writer, read_jsonl, to_json, write_jsonl

LISTS = "lists.jsonl"


def list_run(run: Run) -> Run:
    """Return a run whose files are those of the lists, in the folder `lists/`."""
    lists = copy.copy(run)
    lists.folder = run.path("lists")
    return lists


class ListPolicy:
    """Wording, token ids and limits of one template for lists.

    Args:
        recipe: has the limits, the chat template and the teachers.
        prompt_file: the wording for pairs and lists.
        template: one for lists.

    Attributes:
        prompts: the wording of the judge's user turn.
        wording: the same with the verdicts on eight answers, for teachers and records.
        encoder: of the judge.

    Raises:
        ConfigError: the prompt file lacks `listwise`, or `listwise_hindsight`, which a teacher needs.
    """

    def __init__(self, recipe: Recipe, prompt_file: PromptFile, template: Template) -> None:
        self._recipe = recipe
        reasoned = template not in VERDICT_ONLY
        teachers = recipe.teachers.values() if reasoned else ()
        if prompt_file.listwise_hindsight is None and any(one.mode == "hindsight" for one in teachers):
            raise ConfigError(
                "the prompt file has no key `listwise_hindsight`",
                location="prompts",
                hint="add the keys `listwise_hindsight` and `listwise_phrases`, as in configs/prompts/judge.yaml",
            )
        self.prompts = prompt_file if reasoned else prompt_file.for_direct()
        self.wording = self.prompts.for_lists(len(LETTERS))
        text = template_text(recipe.templates[template], key=f"templates.{template}")
        self.encoder = ChatEncoder(load_tokenizer(recipe.model), text, self.wording.verdict)
        reason_tokens = max((teacher.max_tokens for teacher in teachers), default=0)
        self._limit = min(recipe.data.max_tokens, recipe.engine.max_model_len - reason_tokens)

    def judge_prompts(self, answers: AnswerList) -> list[JudgePrompt]:
        """Return the judge prompts of a list."""
        recipe = self._recipe
        return list_judge_prompts(
            answers, self.prompts, seed=recipe.seed, both_orders=recipe.data.both_orders
        )

    def length(self, record: SFTRecord) -> int:
        """Return the length of a training record in tokens."""
        return sum(map(len, self.encoder.record(record.prompt, record.reason, record.response)))

    def record(self, prompt: JudgePrompt) -> SFTRecord:
        """Return a prompt's record without a reason."""
        return direct_record(prompt, self.wording.verdict)

    def fits(self, answers: AnswerList) -> bool:
        """Whether a list leaves room for its verdict, and for a reason of each teacher."""
        return all(self.length(self.record(prompt)) <= self._limit for prompt in self.judge_prompts(answers))


def read_pairs(run: Run) -> Iterator[PreferencePair]:
    """Yield the pairs of `pairs.jsonl`."""
    return (msgspec.convert(row, PreferencePair) for row in read_jsonl(run.path("pairs.jsonl")))


def reason_lists(recipe: Recipe, run: Run, prompt_file: PromptFile) -> None:
    """Sample and score the reasons of lists of three or more answers, where a judge of lists writes reasons.

    Raises:
        ConfigError: see `ListPolicy`.
        EngineError: a teacher or the student cannot be loaded; completed reasons are kept.
        DataError: no reason is worth scoring.
    """
    if REASONED not in list_templates(recipe):
        return
    policy, lists = ListPolicy(recipe, prompt_file, REASONED), list_run(run)
    if not lists.path("prompts.jsonl").exists():
        longer = [one for one, pairs in answer_lists(read_pairs(run), policy.fits) if len(pairs) > 1]
        write_jsonl(lists.path(LISTS), map(to_json, longer))
        prompts = (prompt for one in longer for prompt in policy.judge_prompts(one))
        write_jsonl(lists.path("prompts.jsonl"), map(to_json, prompts))
    count = sum(1 for _ in read_jsonl(lists.path("prompts.jsonl")))
    say(f"{count} judge prompts on lists of three or more answers")
    if count:
        sample_all(recipe, lists, policy.wording, count, LISTS)
        score_all(recipe, lists, policy.wording, policy.encoder, count)


def write_list_records(recipe: Recipe, run: Run, prompt_file: PromptFile) -> dict[str, int]:
    """Write `listwise.jsonl` and `listwise-reason.jsonl`, each where a judge has that template; return the counts."""
    counts: Counter[str] = Counter()
    for template in list_templates(recipe):
        policy = ListPolicy(recipe, prompt_file, template)
        records = _reasoned(recipe, run, policy) if template == REASONED else _direct(run, policy)
        counts |= {template: 0}
        with jsonl_writer(run.path(f"{template}.jsonl")) as write:
            for record in records:
                if policy.length(record) > recipe.data.max_tokens:
                    counts[f"{template}_too_long"] += 1
                    continue
                counts[template] += 1
                write(record.to_row())
    return dict(counts)


def _direct(run: Run, policy: ListPolicy) -> Iterator[SFTRecord]:
    """Yield the records of all lists, without reasons."""
    for answers, _ in answer_lists(read_pairs(run), policy.fits):
        yield from map(policy.record, policy.judge_prompts(answers))


def _reasoned(recipe: Recipe, run: Run, policy: ListPolicy) -> Iterator[SFTRecord]:
    """Yield the records of the lists that have a selected reason: those of two answers first."""
    selected: dict[str, dict[str, Any]] = {}
    for answers, pairs in answer_lists(_with_selected(run, selected), policy.fits):
        rows = [selected.pop(pair.id, {}) for pair in pairs]
        if len(pairs) > 1:
            continue
        for prompt in policy.judge_prompts(answers):
            if row := rows[0].get(prompt.order):
                record = policy.record(prompt)
                yield replace(record, reason=row["reason"], teacher=row["teacher"], score=row["score"])
    rule, lists = selector(recipe.select, recipe.seed), list_run(run)
    if not any(True for _ in read_jsonl(lists.path("prompts.jsonl"))):
        return
    for prompt, _, scored_reasons in read_scored_prompts(recipe, lists, policy.wording):
        if choice := rule(scored_reasons):
            reason = choice.reason
            yield replace(
                policy.record(prompt), reason=reason.text, teacher=reason.teacher, score=choice.value
            )


def _with_selected(run: Run, selected: dict[str, dict[str, Any]]) -> Iterable[PreferencePair]:
    """Yield the pairs; before each, `selected` gets its records of `sft.jsonl` by order."""
    groups = groupby(read_jsonl(run.path("sft.jsonl")), key=lambda row: row["pair_id"])
    pair_id, rows = next(groups, (None, iter(())))
    for pair in read_pairs(run):
        if pair.id == pair_id:
            selected[pair.id] = {row["order"]: row for row in rows}
            pair_id, rows = next(groups, (None, iter(())))
        yield pair
