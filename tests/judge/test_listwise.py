"""Verdicts on lists: requests, reading, rescues and votes; winners and probabilities are in the caller's order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import LETTERS
from reasongenrm.chat.lists import list_prompt
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.base import Engine, Request
from reasongenrm.judge.ask import RESCUE, RESCUE_PROMPT, ask_all, read_all
from reasongenrm.judge.listwise import ListTask
from reasongenrm.judge.memory import ask_in_memory
from reasongenrm.judge.turns import VERDICT
from reasongenrm.records import Completion, ListPrompt, ListVerdict, Message
from reasongenrm.store import PartStore

pytestmark = pytest.mark.unit

PROMPTS = PromptFile.load("configs/prompts/judge.yaml")
CONFIG = JudgingConfig(max_tokens=64)
HISTORY: list[Message] = [{"role": "user", "content": "why ?"}]


def prompt_of(count: int, number: int = 0) -> ListPrompt:
    return list_prompt(HISTORY, [f"answer {number}.{n}" for n in range(count)], PROMPTS, seed=17)


@pytest.fixture
def task(judge_encoder: ChatEncoder) -> ListTask:
    return ListTask(CONFIG, judge_encoder, 4096, PROMPTS, seed=17)


class Scripted(Engine):
    """Writes a reason, then the verdict that `choose` names by prompt id; log-probabilities favour it by a factor of 9."""

    max_model_len, block = 4096, None

    def __init__(self, task: ListTask, choose: Any) -> None:
        self.task, self.choose, self.log = task, choose, list[Request]()

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        encoder, tokens = self.task.encoder, self.task.verdict_tokens
        assert encoder and tokens
        for request in requests:
            self.log.append(request)
            if request.id.endswith(VERDICT) or request.id.endswith(RESCUE):
                name = request.id.removesuffix(VERDICT).removesuffix(RESCUE)
                letter = tokens.letters[self.choose(name, request)]
                total = len(request.logprob_token_ids) + 8
                logprobs = {
                    other: math.log((9 if other == letter else 1) / total)
                    for other in request.logprob_token_ids
                }
                yield Completion(request.id, "", "length", (letter,), {0: logprobs}, prompt_tokens=1)
            else:
                ids = (*encoder.content("so"), *tokens.reason_end)
                yield Completion(request.id, "so", "stop", ids, prompt_tokens=1)


@pytest.mark.parametrize("count", range(2, 9))
def test_every_answer_can_win(count: int, task: ListTask) -> None:
    prompt = prompt_of(count)
    for at, index in enumerate(prompt.order):
        engine = Scripted(task, lambda name, request, at=at: at)
        [(verdict, completions)] = ask_in_memory([prompt], engine, task)
        assert (verdict.winner, verdict.outcome, verdict.rescued) == (index, "ok", False)
        assert verdict.probs is not None and len(verdict.probs) == count and len(completions) == 1
        assert sum(verdict.probs) == pytest.approx(1) and verdict.probs.index(max(verdict.probs)) == index
        assert verdict.probs[index] == pytest.approx(9 / (count + 8)), (
            "renormalised over the answers of the list"
        )
        assert verdict.reason == ("so" if task.encoder and task.encoder.reasons_first else "")
        assert engine.log[-1].logprob_token_ids == task.verdict_tokens.letters  # type: ignore[union-attr]


def test_a_letter_beyond_the_list_is_rescued_among_its_letters(task: ListTask) -> None:
    prompt = prompt_of(3)
    engine = Scripted(task, lambda name, request: 1 if request.allowed else 5)
    [(verdict, _)] = ask_in_memory([prompt], engine, task)
    rescue = engine.log[-1]
    assert rescue.id.endswith(RESCUE) and rescue.allowed == task.verdict_tokens.letters[:3]  # type: ignore[union-attr]
    assert rescue.logprob_token_ids == rescue.allowed
    assert (verdict.winner, verdict.outcome, verdict.rescued) == (prompt.order[1], "ok", True)
    unrescued = ListTask(JudgingConfig(max_tokens=64, rescue=False), task.encoder, 4096, PROMPTS, seed=17)
    [(verdict, _)] = ask_in_memory([prompt], Scripted(unrescued, lambda name, request: 5), unrescued)
    assert (verdict.winner, verdict.probs, verdict.outcome) == (None, None, "unparsed")


def test_equal_probabilities_of_a_rescue_are_a_tie(task: ListTask) -> None:
    prompt, tokens = prompt_of(4), task.verdict_tokens
    assert tokens
    first = task.read(prompt, Completion(prompt.id, "", "length"))
    values = {letter: -1.0 if at < 2 else -3.0 for at, letter in enumerate(tokens.letters[:4])}
    tie = task.read_rescue(prompt, first, Completion("r", "", "length", tokens.letters[:1], {0: values}))
    assert (tie.winner, tie.outcome, tie.rescued) == (None, "tie", True)
    assert tie.probs is not None
    assert {n for n, p in enumerate(tie.probs) if p == max(tie.probs)} == set(prompt.order[:2])
    for wrong in (math.nan, math.inf, -math.inf):
        bad = Completion("r", "", "length", tokens.letters[:1], {0: values | {tokens.letters[3]: wrong}})
        assert task.read_rescue(prompt, first, bad) == first


@pytest.mark.parametrize("response", ["[[A]], [[B]] or [[C]].", "[[D]]", "[[A]] [[C]]", "A", "", "[[I]]"])
def test_what_names_no_answer_of_the_list_is_no_verdict(response: str, task: ListTask) -> None:
    assert task.encoder
    ids = tuple(task.encoder.completion("so", response))
    verdict = task.read(prompt_of(3), Completion("x", "", "stop", ids))
    assert (verdict.winner, verdict.probs, verdict.outcome) == (None, None, "unparsed")


def test_the_prompts_own_words_are_no_verdict_by_text() -> None:
    task = ListTask(CONFIG, None, 4096, PROMPTS, seed=17)
    for count in range(2, 9):
        prompt = prompt_of(count)
        for line in (*prompt.messages[0]["content"].splitlines(), RESCUE_PROMPT):
            completion = Completion("x", f"You say: {line}", "stop")
            first = task.read(prompt, completion)
            assert (first.winner, first.outcome) == (None, "unparsed")
            assert task.read_rescue(prompt, first, completion) == first
        for at, index in enumerate(prompt.order):
            said = Completion(
                "x", f"All are weighed, [[A]] too.\n\nBest: [[{LETTERS[at]}]]", "stop", billed=7
            )
            verdict = task.read(prompt, said)
            assert (verdict.winner, verdict.outcome, verdict.tokens, verdict.probs) == (index, "ok", 7, None)
            rescued = task.read_rescue(prompt, first, Completion("r", f"[[{LETTERS[at]}]]", "stop", billed=3))
            assert (rescued.winner, rescued.rescued) == (index, True)
        [request] = task.requests([prompt])
        assert request.messages == prompt.messages
        rescue = task.rescue(prompt, Completion(prompt.id, "hm", "stop"))
        assert rescue.messages[-1]["content"] == RESCUE_PROMPT


def test_failed_requests_are_errors(task: ListTask) -> None:
    prompt = prompt_of(3)
    verdict = task.read(prompt, Completion("x", "", "error", error="refused"))
    assert (verdict.winner, verdict.outcome, verdict.error) == (None, "error", "refused")
    assert not task.needs_rescue(verdict)


def test_lists_of_all_lengths_are_one_task_and_can_be_read_again(task: ListTask, tmp_path: Any) -> None:
    prompts = [prompt_of(count, number=count) for count in range(2, 9)]
    best = {prompt.id: number % len(prompt.order) for number, prompt in enumerate(prompts)}
    engine = Scripted(task, lambda name, request: best[name])
    store = PartStore(tmp_path / "completions.jsonl")
    ask_all(prompts, engine, task, store)
    verdicts = read_all(prompts, task, store)
    assert [v.winner for v in verdicts] == [prompt.order[best[prompt.id]] for prompt in prompts]
    assert verdicts == [verdict for verdict, _ in ask_in_memory(prompts, engine, task)]


# --- votes


def vote(winner: int | None, probs: tuple[float, ...] | None = None) -> ListVerdict:
    outcome: Any = "ok" if winner is not None else "unparsed"
    return ListVerdict("x", "list", winner, probs, outcome, f"so {winner}", tokens=5)


@pytest.mark.parametrize(
    ("votes", "combine", "winner", "outcome"),
    [
        ([vote(2)], "mean", 2, "ok"),
        ([vote(0, (0.5, 0.4, 0.1)), vote(1, (0.1, 0.8, 0.1)), vote(0, (0.5, 0.3, 0.2))], "mean", 1, "ok"),
        ([vote(0, (0.5, 0.4, 0.1)), vote(1, (0.1, 0.8, 0.1)), vote(0, (0.5, 0.3, 0.2))], "majority", 0, "ok"),
        ([vote(0), vote(1)], "mean", None, "tie"),
        ([vote(0), vote(1)], "majority", None, "tie"),
        ([vote(None), vote(1), vote(None)], "mean", 1, "ok"),
        ([vote(None), vote(None)], "mean", None, "unparsed"),
    ],
)
def test_votes(votes: list[ListVerdict], combine: Any, winner: int | None, outcome: str) -> None:
    config = JudgingConfig(max_tokens=8, combine=combine)
    total = ListTask(config, None, 4096, PROMPTS, seed=17).combine(prompt_of(3), votes)
    assert (total.winner, total.outcome, total.tokens) == (winner, outcome, 5 * len(votes))
    assert total.votes == (tuple(v.winner for v in votes) if len(votes) > 1 else ())
    assert winner is None or total.reason == f"so {winner}"


@given(picks=st.lists(st.integers(0, 3), min_size=1, max_size=6), shift=st.integers(1, 3))
def test_votes_are_fair_to_all_answers(picks: list[int], shift: int) -> None:
    task, prompt = ListTask(CONFIG, None, 4096, PROMPTS, seed=17), prompt_of(4)
    here = task.combine(prompt, [vote(pick) for pick in picks])
    there = task.combine(prompt, [vote((pick + shift) % 4) for pick in picks])
    assert here.outcome == there.outcome
    assert here.winner is None or (here.winner + shift) % 4 == there.winner
