"""`reasongenrm rubric draft`: preference rows -> proposed criteria -> those that agree with the labels -> a rubric to edit.

The rows are split by prompt: on one part the writer proposes, on the second each candidate is judged alone and the criteria
are selected and weighted, and on the third, which neither has seen, the numbers of the report are measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.chat.proposal_prompt import ProposalPrompt
from reasongenrm.config.draft import RubricDraft
from reasongenrm.config.prepare import SourceConfig
from reasongenrm.config.rubric import Criterion
from reasongenrm.console import bar, say, show, stdout
from reasongenrm.data.sources import load_sources
from reasongenrm.engines.base import Engine, complete_missing
from reasongenrm.engines.loading import open_server
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.criteria import comparison_text
from reasongenrm.judge.proposals import (
    ProposedCriterion,
    merged_candidates,
    proposal_requests,
    read_proposals,
)
from reasongenrm.judge.selection import prompt_id, select_criteria
from reasongenrm.records import Drop, Message, PreferencePair, Row, content_id, unit_hash, with_criteria
from reasongenrm.report.rubric_draft import DraftReport, draft_markdown, draft_tables, rubric_yaml
from reasongenrm.run import Run
from reasongenrm.stages.fingerprints import hashed
from reasongenrm.steps import FILE, Settings, Step
from reasongenrm.store import PartStore, completion_from_json, to_json, write_json, write_jsonl, write_text

PROPOSE, SELECT, TEST = "propose", "select", "test"
"""Parts of the rows."""

COMPLETIONS = "completions.jsonl"

CONTEXT = 32_768
"""Tokens of prompt and completion together: servers that take messages know their own limit."""


@dataclass(frozen=True)
class _Draft:
    """A draft as a run: its folder is `rubric.draft` beside `rubric.yaml`.

    Attributes:
        rows: file of the rows.
        settings: who writes, who judges, what is kept.
        target: the rubric's file.
    """

    rows: str
    settings: RubricDraft
    target: Path

    @property
    def folder(self) -> Path:
        return self.target.with_suffix(".draft")

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        return {"rows": self.rows, **self.settings.model_dump(mode=mode)}

    def steps(self) -> dict[str, Step]:
        """Return the steps, with the hashes of the files that they read now."""
        s = self.settings
        writer = s.writer or (s.judge.server if s.judge else None)
        proposals: Settings = {
            "seed": s.seed, "format": s.format, "limit": s.limit, "shares": s.shares.model_dump(),
            "proposals": s.proposals.model_dump(), "writer.model": writer.model if writer else None,
            FILE + self.rows: self.rows, FILE + s.proposals.prompt: s.proposals.prompt,
        }  # fmt: skip
        keep = s.keep.model_dump()
        judged = _judge_settings(s) | {name: keep.pop(name) for name in ("candidates", "same_text")}
        steps = {
            "proposals": Step(proposals, ("proposals",)),
            "selection": Step(judged, ("selection",), after=("proposals",)),
            "test": Step(keep, ("test",), after=("selection",)),
        }
        return hashed(steps, self.folder)


def _judge_settings(settings: RubricDraft) -> dict[str, Any]:
    """Return what changes the judge's verdicts."""
    if settings.judge is not None:
        judge = settings.judge.model_dump(mode="json", exclude={"server"})
        served = {
            "judge.server.model": settings.judge.server.model,
            FILE + settings.prompts: settings.prompts,
        }
        judging = settings.judging.model_dump(mode="json") if settings.judging else None
        return {"judge": judge, "judging": judging} | served
    assert settings.own_judge is not None
    own = settings.own_judge
    return {"own_judge": own.model_dump(mode="json")} | {f"{FILE}{file}": str(file) for file in own.files()}


def draft(rows: str, settings: RubricDraft, target: Path, *, redo: Iterable[str] = (), dry_run: bool = False) -> None:  # fmt: skip
    """Draft a rubric from preference rows, and write it to `target` with its report in `<target without ending>.draft/`.

    The same command continues after a kill.

    Args:
        rows: file, or hub id, of preference rows in `settings.format`.
        settings: who writes, who judges, what is kept.
        target: a new YAML file.
        redo: words that name steps to do again: `proposals`, `selection`, `test`.
        dry_run: print the counts and the first request for criteria; write nothing.

    Raises:
        ConfigError: the file exists, or a setting or a file has changed since the draft was begun.
        DataError: the rows are too few or cannot be read, or no criterion is kept.
        EngineError: the writer or the judge cannot be used.
    """
    if target.exists():
        hint = "name another file, or move this one away: a person may have edited it"
        raise ConfigError("the file exists", location=str(target), hint=hint)
    work = _Draft(rows, settings, target)
    prompt = ProposalPrompt.load(settings.proposals.prompt)
    if settings.judge is not None:
        PromptFile.load(settings.prompts)
    if dry_run:
        _preview(work, prompt)
        return
    run = Run(work, "rubric-draft")
    with run.claim(work.steps(), redo):
        parts, counts = _load(work, run)
        with ExitStack() as stack:
            judge = stack.enter_context(_open_judge(settings, run))
            _check_wording(judge)
            answers, proposals = _propose(work, run, judge, prompt, parts[PROPOSE])
            candidates = merged_candidates(proposals, same_text=settings.keep.same_text)
            if not candidates:
                hint = f"see {run.path('proposals')}; raise proposals.requests, or use another writer"
                raise DataError("no criterion can be read", location=rows, hint=hint)
            say(f"{len(proposals)} criteria proposed, {len(candidates)} different ones")
            selection = select_criteria(
                judge,
                candidates[: settings.keep.candidates],
                parts[SELECT],
                parts[TEST],
                settings.keep,
                selection_path=run.path("selection", COMPLETIONS),
                test_path=run.path("test", COMPLETIONS),
                seed=settings.seed,
            )
        found = (len(proposals), len(candidates), selection.criteria, selection.together, selection.better)
        _write(DraftReport(rows, counts, answers, *found), run, target)


def _write(report: DraftReport, run: Run, target: Path) -> None:
    """Write rubric and report.

    Raises:
        DataError: no criterion is kept.
    """
    write_json(run.path("report.json"), report.to_json())
    write_text(run.path("report.md"), draft_markdown(report))
    from rich.console import Console

    for table in draft_tables(report):
        if table.rows:
            Console(file=stdout(), width=110).print(table.rich())
    if not report.kept:
        hint = f"see {run.path('report.md')}; give more rows, or lower keep.accuracy"
        raise DataError("no criterion agrees with the labels", location=report.source, hint=hint)
    write_text(target, rubric_yaml(report))
    say(f"{target}: {len(report.kept)} criteria to edit; report: {run.path('report.md')}")


def _pairs(work: _Draft) -> Iterator[PreferencePair | Drop]:
    settings = work.settings
    if settings.format == "pairs":
        for row in BENCHMARKS["pairs"].rows(work.rows, limit=settings.limit):
            yield row.pairs[0] if isinstance(row, Row) else row
    else:
        yield from load_sources([SourceConfig(path=work.rows, kind=settings.format)], settings.limit)


def _split(work: _Draft) -> tuple[dict[str, list[PreferencePair]], dict[str, int], list[Drop]]:
    """Return part -> its pairs, with all rows of a prompt in one part; the counts; and the rows that cannot be read.

    Raises:
        DataError: a part has no rows.
    """
    shares, seed = work.settings.shares, work.settings.seed
    parts: dict[str, list[PreferencePair]] = {PROPOSE: [], SELECT: [], TEST: []}
    counts: Counter[str] = Counter()
    drops, seen = [], set()
    for pair in _pairs(work):
        if isinstance(pair, Drop):
            drops.append(pair)
            continue
        own_id = content_id(pair.history, pair.chosen, pair.rejected)
        counts["repeated"] += own_id in seen
        if own_id in seen:
            continue
        seen.add(own_id)
        place = unit_hash("draft", seed, prompt_id(pair))
        part = PROPOSE if place < shares.propose else TEST if place >= 1 - shares.test else SELECT
        parts[part].append(pair)
    counts["dropped"] = len(drops)
    counts.update({name: len(pairs) for name, pairs in parts.items()})
    if empty := [name for name, pairs in parts.items() if not pairs]:
        hint = "give more rows (100 prompts or more say something), or other shares"
        raise DataError(f"no rows are left to {', '.join(empty)}", location=work.rows, hint=hint)
    return parts, dict(counts), drops


def _load(work: _Draft, run: Run) -> tuple[dict[str, list[PreferencePair]], dict[str, int]]:
    parts, counts, drops = _split(work)
    if drops:
        write_jsonl(run.path("dropped.jsonl"), map(to_json, drops))
    say(f"{work.rows}: {', '.join(f'{count} rows {name}' for name, count in counts.items() if count)}")
    return parts, counts


def _preview(work: _Draft, prompt: ProposalPrompt) -> None:
    settings = work.settings
    parts, counts, _ = _split(work)
    show(f"{work.rows}: {', '.join(f'{count} rows {name}' for name, count in counts.items() if count)}")
    orders = 2 if settings.judging is None or settings.judging.both_orders else 1
    votes = settings.judging.votes if settings.judging else 1
    most = settings.keep.candidates
    show(
        f"{settings.proposals.requests} requests to the writer; to the judge at most {orders * votes * most * len(parts[SELECT])} "
        f"to select from {most} candidates, and {orders * votes * (most + 1) * len(parts[TEST])} to measure those that are kept"
    )
    first = next(
        proposal_requests(parts[PROPOSE], prompt, settings.proposals, encoder=None, seed=settings.seed)
    )
    show(f"\nThe first request to the writer:\n\n{first.messages[0]['content']}")


@contextmanager
def _open_judge(settings: RubricDraft, run: Run) -> Iterator[Judge]:
    if settings.own_judge is not None:
        own = settings.own_judge
        judge = Judge.from_recipe(own.recipe, own.name, overrides=own.overrides)
    else:
        other = settings.judge
        assert other is not None
        state = run.path("selection", "batches.jsonl")
        judge = Judge.from_other(
            other, prompts=settings.prompts, judging=settings.judging, state=state, seed=settings.seed
        )
    with judge:
        yield judge


def _check_wording(judge: Judge) -> None:
    """Render a pair with a criterion, before the writer is paid.

    Raises:
        ConfigError: the judge's prompt file does not show criteria.
    """
    history = with_criteria([Message(role="user", content="?")], comparison_text(Criterion(name="x")))
    judge_prompt(PreferencePair.make(history, "a", "b", ""), "AB", judge.prompt_file)


@contextmanager
def _open_writer(
    settings: RubricDraft, run: Run, judge: Judge
) -> Iterator[tuple[Engine, ChatEncoder | None]]:
    """Yield the engine that proposes criteria, and the chat template of one on vLLM.

    Raises:
        ConfigError: our own judge's base has no chat template.
    """
    server = settings.writer or (settings.judge.server if settings.judge else None)
    if server is not None:
        state = run.path("proposals", "batches.jsonl")
        engine = open_server(server, max_model_len=CONTEXT, state=state, key="writer", on_event=say)
        with closing(engine):
            yield engine, None
        return
    tokenizer = judge.encoder.tokenizer if judge.encoder else None
    if not getattr(tokenizer, "chat_template", None):
        hint = "give a server that writes, in the key writer"
        raise ConfigError("the base of own_judge has no chat template", location="writer", hint=hint)
    assert tokenizer is not None
    yield judge.engine, ChatEncoder(tokenizer, tokenizer.chat_template)


def _propose(
    work: _Draft, run: Run, judge: Judge, prompt: ProposalPrompt, pairs: Sequence[PreferencePair]
) -> tuple[dict[str, int], list[ProposedCriterion]]:
    """Ask for criteria; return the outcomes of the answers, and all criteria that can be read.

    What cannot be used is listed in `proposals/unreadable.jsonl`.
    """
    settings, store = work.settings, PartStore(run.path("proposals", COMPLETIONS))
    names = [f"proposal-{number}" for number in range(1, settings.proposals.requests + 1)]
    end = ""
    if not store.finished:
        with (
            _open_writer(settings, run, judge) as (engine, encoder),
            bar("proposing", len(names)) as progress,
        ):
            end = encoder.tokenizer.eos_token if encoder else ""
            requests = proposal_requests(
                pairs, prompt, settings.proposals, encoder=encoder, seed=settings.seed
            )
            complete_missing(engine, requests, store, progress=progress)
        store.finish(names)
    counts: Counter[str] = Counter()
    proposals: list[ProposedCriterion] = []
    unreadable = []
    for name in names:
        completion = completion_from_json(store[name])
        answer = read_proposals(completion, end=end)
        counts[answer.outcome] += 1
        counts["bad criteria"] += len(answer.problems) if answer.outcome == "ok" else 0
        proposals += answer.criteria
        if answer.problems:
            row = {
                "id": name,
                "outcome": answer.outcome,
                "problems": answer.problems,
                "text": completion.text,
            }
            unreadable.append(row)
    write_jsonl(run.path("proposals", "unreadable.jsonl"), unreadable)
    say(f"answers of the writer: {', '.join(f'{count} {name}' for name, count in counts.items() if count)}")
    return {name: count for name, count in counts.items() if count}, proposals
