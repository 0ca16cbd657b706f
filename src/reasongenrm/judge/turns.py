"""The two turns of a judge's completion: the reason, then a verdict behind its header, one token with log-probabilities.

A request for the reason alone ends with it, whatever the model would write next, and needs no log-probabilities, which
cost most of the time of a token outside the model. The request for the verdict finds prompt and reason in the prefix cache.

An untrained model writes both in one turn (`OwnTemplateEncoder`). There the second request reads the log-probabilities at the
letter that it wrote, and changes nothing in its text.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.verdict import VerdictTokens, reason_ids
from reasongenrm.engines.base import (
    Engine,
    LiveRequest,
    PartialCompletion,
    Request,
    Unanswered,
    Withdrawal,
    request_seed,
)
from reasongenrm.records import Completion

VERDICT = "#verdict"


@dataclass(frozen=True)
class Turns:
    """Requests for both turns of one judge, and both as one completion.

    Attributes:
        encoder: tokenizer and chat template of the judge.
        tokens: its verdict's.
        choice: request for a verdict, or a rating, without prompt and reason: the ids that each begins with.
        max_model_len: tokens of prompt and completion together.
        seed: of the run.
        task: name of the task, which its requests for reasons carry.
    """

    encoder: ChatEncoder
    tokens: VerdictTokens
    choice: Request
    max_model_len: int
    seed: int
    task: str

    @property
    def _between(self) -> tuple[int, ...]:
        """The ids between the end of a reason and what is sampled for the verdict."""
        header = self.tokens.header[len(self.tokens.reason_end) :] if self.encoder.reasons_first else ()
        return header + self.choice.prompt_ids

    def reason(self, prompt_id: str, prompt_ids: tuple[int, ...], limit: int, temperature: float) -> Request:
        """Return the request for a reason; a long prompt leaves less room for it, at least one token."""
        room = self.max_model_len - len(prompt_ids) - len(self._between) - self.choice.max_tokens
        stop_ids = tuple(dict.fromkeys((*self.tokens.reason_end[-1:], self.tokens.end)))
        return Request(
            prompt_id, prompt_ids, max(1, min(limit, room)), temperature, stop_ids=stop_ids, task=self.task
        )

    def verdict(self, request: Request, reason: Completion) -> Request | None:
        """Return the request for the verdict after a reason; None where the judge did not end its reason.

        Where both are one turn, the request is for the letter alone; None where no verdict closes the turn.

        Args:
            request: the reason's.
            reason: what the judge wrote; nothing if it writes no reasons.
        """
        ids, end = reason.token_ids, self.tokens.reason_end
        if self.encoder.one_turn:
            place = self._letter(reason)
            if place is None:
                return None
            before, name = (*request.prompt_ids, *ids[:place]), reason.id + VERDICT
            letters = self.choice.logprob_token_ids
            return replace(self.choice, id=name, prompt_ids=before, allowed=letters, urgent=True)
        if self.encoder.reasons_first and (reason.finish_reason != "stop" or ids[-len(end) :] != end):
            return None
        prompt_ids = (*request.prompt_ids, *ids, *self._between)
        if self.encoder.reasons_first and len(prompt_ids) + self.choice.max_tokens > self.max_model_len:
            return None
        request_id = reason.id + VERDICT
        return replace(
            self.choice,
            id=request_id,
            prompt_ids=prompt_ids,
            temperature=request.temperature,
            seed=request_seed(self.seed, request_id) if request.temperature > 0 else None,
            allowed=(),
            urgent=True,
        )

    def _letter(self, completion: Completion) -> int | None:
        """Return the index of the letter in the verdict that closes a turn; None where no single token is that letter."""
        ids, letters = reason_ids(completion, self.tokens), self.choice.logprob_token_ids
        decode = partial(self.encoder.tokenizer.decode, skip_special_tokens=True)
        if completion.finish_reason != "stop":
            return None
        for place in range(len(ids) - 1, -1, -1):
            opening = decode([*self.tokens.opening, ids[place]])
            near = ids[max(0, place - len(self.tokens.opening) - 1) : place + 1]
            if ids[place] in letters and decode(near).endswith(opening):
                return place
            if re.search(r"\w", decode([ids[place]])):
                return None  # words after any verdict
        return None

    def join(self, reason: Completion, verdict: Completion) -> Completion:
        """Return both turns as one completion, with the template's ids between and after them.

        What was sampled for the verdict may be no verdict: then nothing follows it. If that request failed, the completion
        is an error; of one turn, it has no log-probabilities, unless a server was at fault.
        """
        if isinstance(verdict, Unanswered) or (
            verdict.finish_reason == "error" and not self.encoder.one_turn
        ):
            tokens, read = reason.token_ids, reason.prompt_tokens
            return replace(verdict, id=reason.id, text=reason.text, token_ids=tokens, prompt_tokens=read)
        if self.encoder.one_turn:
            place = self._letter(reason)
            if place is None or verdict.finish_reason == "error":
                return reason
            return replace(reason, logprobs={place: verdict.logprobs.get(0, {})})
        letter = len(verdict.token_ids) == 1 and verdict.token_ids[0] in self.choice.logprob_token_ids
        after = (*self.tokens.closing, self.tokens.end) if letter else ()
        ids = (*self._between, *verdict.token_ids, *after)
        start = len(reason.token_ids) + len(self._between)
        return replace(
            reason,
            text=reason.text + self.encoder.tokenizer.decode(list(ids)),
            token_ids=reason.token_ids + ids,
            logprobs={start + place: values for place, values in verdict.logprobs.items()},
        )


class JudgingEngine(Engine):
    """Completes requests for reasons with reason and verdict; the verdict's request is the next one after its reason.

    A request without a task, or of another one, has no second turn, and is completed as it is.

    Args:
        engine: completes both requests.
        turns: of the judge, per task.
    """

    def __init__(self, engine: Engine, turns: Sequence[Turns]) -> None:
        self._engine, self._turns = engine, {one.task: one for one in turns}
        self.max_model_len, self.block = engine.max_model_len, engine.block

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield one completion per request."""
        return self._complete(requests, partial(self._engine.complete, adapter=adapter))

    def complete_live(
        self, requests: Iterable[LiveRequest], *, adapter: str | None = None
    ) -> Generator[Completion, None, None]:
        """Yield one completion per request of a live source."""
        yield from self._complete(requests, partial(self._engine.complete_live, adapter=adapter))

    def stream(
        self, requests: Iterable[Request], *, adapter: str | None = None
    ) -> Generator[Completion, None, None]:
        """Yield the same completions, and before each the partial ones of its reason."""
        yield from self._complete(requests, partial(self._engine.stream, adapter=adapter))

    def _complete(
        self, requests: Iterable[LiveRequest], send: Callable[[Iterable[Any]], Iterator[Completion]]
    ) -> Iterator[Completion]:
        flow = _Flow(self._turns, iter(requests))
        while True:
            for completion in send(flow.requests()):
                if isinstance(completion, PartialCompletion):
                    if completion.id in flow.unwritten:
                        yield completion
                elif whole := flow.read(completion):
                    yield whole
            if not flow.verdicts:  # of the last reasons
                return

    def reset_prefix_cache(self) -> None:
        """Empty the engine's prefix cache."""
        self._engine.reset_prefix_cache()


class _Flow:
    """The requests of one call of a `JudgingEngine`, with those that follow from its completions.

    Args:
        turns: by the name of their task.
        source: of requests.

    Attributes:
        unwritten: the requests for reasons that are being written, by id.
        verdicts: the requests for verdicts that wait.
    """

    def __init__(self, turns: Mapping[str, Turns], source: Iterator[LiveRequest]) -> None:
        self._turns, self._source = turns, source
        self.unwritten: dict[str, Request] = {}
        self.verdicts: deque[Request] = deque()
        # By the id of the verdict that is being written.
        self._reasons: dict[str, tuple[Turns, Completion]] = {}

    def requests(self) -> Iterator[LiveRequest]:
        """Yield those of the source, and before each the verdicts that wait."""
        for item in self._source:
            while self.verdicts:
                yield self.verdicts.popleft()
            if isinstance(item, Withdrawal):
                yield self._withdrawn(item.ids)
                continue
            turns = self._turns.get(item.task) if item else None
            if item is None or turns is None:
                yield item
            elif turns.encoder.reasons_first:
                self.unwritten[item.id] = item
                yield item
            else:
                no_reason = Completion(item.id, "", "stop", prompt_tokens=len(item.prompt_ids))
                self._ask_verdict(turns, item, no_reason)
        while self.verdicts:
            yield self.verdicts.popleft()

    def read(self, completion: Completion) -> Completion | None:
        """Return a request's whole completion; None where its verdict follows."""
        if completion.id in self._reasons:
            turns, reason = self._reasons.pop(completion.id)
            return turns.join(reason, completion)
        request = self.unwritten.pop(completion.id, None)
        if request and self._ask_verdict(self._turns[request.task], request, completion):
            return None
        return completion

    def _ask_verdict(self, turns: Turns, request: Request, reason: Completion) -> bool:
        verdict = turns.verdict(request, reason)
        if verdict:
            self._reasons[verdict.id] = turns, reason
            self.verdicts.append(verdict)
        return verdict is not None

    def _withdrawn(self, ids: frozenset[str]) -> Withdrawal:
        """Forget requests; return them, and those for their verdicts."""
        followers = {name for name, (_, reason) in self._reasons.items() if reason.id in ids}
        for name in followers:
            del self._reasons[name]
        for name in ids:
            self.unwritten.pop(name, None)
        return Withdrawal(ids | followers)
