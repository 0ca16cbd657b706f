"""Judge conversations by a rubric: `judgments.jsonl`, `unscored.jsonl` and `judge.json` of a run of `reasongenrm distil`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from reasongenrm.config.distil import DistilRecipe
from reasongenrm.console import say, show
from reasongenrm.engines.base import UNANSWERED
from reasongenrm.errors import DataError
from reasongenrm.judge.costs import money
from reasongenrm.judge.rubric import OUTCOMES, Sample, combine_samples, sum_usage
from reasongenrm.judge.scoring import Scoring, scoring
from reasongenrm.records import Conversation, Judgment
from reasongenrm.run import Run
from reasongenrm.steps import FILE, Settings
from reasongenrm.store import PartStore, to_json, write_json, write_jsonl

FOLDER, COMPLETIONS = "judge", "completions.jsonl"
"""Where the judge's completions are, in the run folder."""

JUDGMENTS, UNSCORED, SUMMARY = "judgments.jsonl", "unscored.jsonl", "judge.json"
"""Results in the run folder."""

SHOWN = 2_000
"""Characters of an answer that cannot be read, in `unscored.jsonl`."""


def judging_settings(recipe: DistilRecipe) -> Settings:
    """Return the settings that change what the judge is sent or how it answers, for the fingerprint of its step.

    Other weights, prices, limits of a server and numbers of conversations change no completion, nor do more samples of
    a server: only what is new is judged. The completions of the step are in the folder `judge` of the run.

    Raises:
        ConfigError: the recipe of our own judge cannot be used.
    """
    judge = recipe.judge
    rubric = judge.rubric.model_dump(mode="json")
    for criterion in rubric["criteria"]:
        del criterion["weight"]
    settings: dict[str, Any] = {
        "judge.rubric": rubric["criteria"],
        "judge.temperature": judge.temperature,
        "judge.max_tokens": judge.max_tokens,
    }
    if judge.server is not None:
        settings |= {"judge.server.model": judge.server.model, f"{FILE}{judge.prompt}": judge.prompt}
        if judge.server.kind == "openai":
            return settings | {"seed": recipe.seed}
        return settings | {"judge.server.effort": judge.server.effort}
    assert judge.judge is not None
    settings |= {"judge.samples": judge.samples, "judge.judge": judge.judge.model_dump(mode="json")}
    return settings | {f"{FILE}{file}": str(file) for file in judge.judge.files()}


def judge_conversations(recipe: DistilRecipe, run: Run, conversations: Sequence[Conversation]) -> None:
    """Judge every conversation that is not judged yet; write `judgments.jsonl`, `unscored.jsonl` and `judge.json`.

    The files are written again at every start, from the completions in `judge/`, which cost money only once. Shows the
    estimate of the costs before, and the true costs after.

    Args:
        recipe: the judge.
        run: its folder is held by the caller (`Run.claim`).
        conversations: with unique ids.

    Raises:
        ConfigError: the prompt file or the recipe of our own judge cannot be used.
        EngineError: a key is missing, or servers failed to answer; the next start asks again for what is missing.
        DataError: there is no conversation, or none could be scored.
    """
    if not conversations:
        hint = "give a file with conversations; dropped.jsonl has the rows that cannot be used"
        raise DataError("no conversation to judge", location=recipe.conversations, hint=hint)
    work, store = scoring(recipe, conversations), PartStore(run.path(FOLDER, COMPLETIONS))
    if any(name not in store for name in work.ids):
        if store.finished:
            store.reopen()
        say(f"judge, estimate: {work.estimate(set(store)).line()}")
        work.complete_missing(store)
    # Completions that are not needed now have been paid for, too.
    store.finish(dict.fromkeys([*work.ids, *(name for name in store if not name.endswith(UNANSWERED))]))
    _write_results(recipe, run, conversations, work, store)


def preview_judging(recipe: DistilRecipe, conversations: Sequence[Conversation]) -> None:
    """Print a prompt, the counts and the estimate of the costs; call nothing and write nothing (`--dry-run`).

    Raises:
        ConfigError: the prompt file, or the recipe of our own judge, cannot be used.
    """
    work = scoring(recipe, conversations)
    for title, text in work.example().items() if conversations else ():
        show(f"--- {title}\n{text}")
    done = _stored_ids(recipe.folder / FOLDER)
    count = sum(name in done for name in work.ids)
    show(f"judge: {len(conversations):,} conversations; {count:,} of {len(work.ids):,} answers are there")
    show(f"judge, estimate: {work.estimate(done).line()}")


def _stored_ids(folder: Path) -> set[str]:
    """Return the ids of the completions that a run has, finished or not, without changing its files."""
    ids = set()
    for path in folder.glob("completions*.jsonl"):
        for line in path.read_bytes().splitlines():
            try:
                ids.add(msgspec.json.decode(line, type=dict)["id"])
            except (ValueError, KeyError):
                break  # the last line of a process that was killed
    return ids


def _write_results(
    recipe: DistilRecipe,
    run: Run,
    conversations: Sequence[Conversation],
    work: Scoring,
    store: PartStore,
) -> None:
    judgments: list[Judgment] = []
    problems: list[dict[str, Any]] = []
    for conversation in conversations:
        samples = work.samples(store, conversation)
        judgments.append(combine_samples(conversation.id, recipe.judge.rubric, samples))
        problems += _problems(conversation, samples)
    write_jsonl(run.path(UNSCORED), problems)
    scored = [judgment for judgment in judgments if judgment.score is not None]
    if not scored:
        hint = f"see {UNSCORED}; correct the judge, and add --redo judge"
        problem = f"no reply could be scored, the first one with: {problems[0]['problem']}"
        raise DataError(problem, location=str(run.path(UNSCORED)), hint=hint)
    write_jsonl(run.path(JUDGMENTS), map(to_json, judgments))
    summary = _summary(recipe, judgments, work, store)
    write_json(run.path(SUMMARY), summary)
    for line in _summary_lines(summary):
        say(f"judge: {line}")


def _problems(conversation: Conversation, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    """Yield a row of `unscored.jsonl` for every sample without scores."""
    for number, sample in enumerate(samples):
        if sample.outcome != "ok":
            yield {
                "id": conversation.id,
                "sample": number,
                "outcome": sample.outcome,
                "problem": sample.problem,
                "text": sample.text[:SHOWN],
            }


def _summary(
    recipe: DistilRecipe, judgments: Sequence[Judgment], work: Scoring, store: PartStore
) -> dict[str, Any]:
    """Return the counts, mean scores, tokens and costs of `judge.json`; the outcomes of samples add up to their number."""
    judge = recipe.judge
    outcomes: Counter[str] = Counter()
    for judgment in judgments:
        outcomes.update(judgment.outcomes)
    counts = {name: outcomes[name] for name in OUTCOMES}
    total = len(judgments) * judge.samples
    assert sum(counts.values()) == total, f"outcomes do not add up: {counts}"
    scored = [judgment for judgment in judgments if judgment.score is not None]
    return {
        "model": judge.server.model if judge.server else None,
        "judge": None if judge.judge is None else judge.judge.model_dump(mode="json"),
        "conversations": {"all": len(judgments), "scored": len(scored)},
        "samples": {"all": total} | counts,
        "scores": {
            c.name: fmean(judgment.scores[c.name] for judgment in scored) for c in judge.rubric.criteria
        },
        "score": fmean(judgment.score for judgment in scored if judgment.score is not None),
        "tokens": sum_usage(judgment.usage for judgment in judgments),
        "prices": None if judge.prices is None else judge.prices.model_dump(mode="json"),
        "cost": work.cost(store),
        "estimate": asdict(work.estimate(())),
    }


def _summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    rows, samples, tokens = summary["conversations"], summary["samples"], summary["tokens"]
    unscored = ", ".join(f"{samples[name]} {name}" for name in OUTCOMES[1:] if samples[name])
    problems = f"; {unscored}: see {UNSCORED}" if unscored else ""
    yield f"{rows['scored']:,} of {rows['all']:,} conversations are scored{problems}"
    cost = "no prices, no costs" if summary["cost"] is None else f"cost {money(summary['cost'])}"
    cached = f" ({tokens['cached_input']:,} from the cache)" if tokens["cached_input"] else ""
    yield f"{tokens['input']:,} tokens in{cached} and {tokens['output']:,} out; {cost}"
