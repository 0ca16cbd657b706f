"""Ask a judge as the stages do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from reasongenrm.chat.verdict import VerdictTokens, after_header
from reasongenrm.engines.base import Engine, Request
from reasongenrm.judge.ask import RESCUE, VerdictTask, ask_all, read_all
from reasongenrm.judge.turns import VERDICT
from reasongenrm.records import Completion, JudgePrompt, Verdict
from reasongenrm.store import PartStore


def judge(
    prompts: Sequence[JudgePrompt],
    engine: Engine,
    task: VerdictTask,
    store: PartStore,
    *,
    adapter: str | None = None,
) -> list[Verdict]:
    ask_all(prompts, engine, task, store, adapter=adapter)
    return read_all(prompts, task, store)


def in_turns(
    whole: Callable[[Request], Completion], tokens: VerdictTokens, opening: Sequence[int]
) -> Callable[[Request], Completion]:
    """Return an answer to each of a judge's requests that is that turn of a whole completion.

    Args:
        whole: returns reason, header and verdict as one completion, and answers a rescue.
        tokens: of the judge's verdict.
        opening: ids that every verdict, or rating, begins with.
    """

    def answer(request: Request) -> Completion:
        if request.id.endswith(RESCUE):
            return whole(request)
        first = whole(replace(request, id=request.id.removesuffix(VERDICT)))
        start = after_header(first.token_ids, tokens.header)
        if start is None:
            return first
        if not request.id.endswith(VERDICT):
            end = start - len(tokens.header) + len(tokens.reason_end)
            return replace(first, finish_reason="stop", token_ids=first.token_ids[:end], logprobs={})
        place = start + len(opening)
        sampled = first.token_ids[place : place + request.max_tokens]
        return Completion(
            request.id,
            "",
            "length",
            sampled,
            {at - place: values for at, values in first.logprobs.items() if 0 <= at - place < len(sampled)},
        )

    return answer
