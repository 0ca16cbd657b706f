"""The two turns of a judge's completion: the reason, then a verdict behind its header, one token with log-probabilities.

A request for the reason alone ends with it, whatever the model would write next, and needs no log-probabilities, which
cost most of the time of a token outside the model. The request for the verdict finds prompt and reason in the prefix cache.

An untrained model writes both in one turn (`OwnTemplateEncoder`). There the second request reads the log-probabilities at the
letter that it wrote, and changes nothing in its text.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.verdict import VerdictTokens, reason_ids
from reasongenrm.engines.base import Engine, Request, Unanswered, request_seed
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
    """

    encoder: ChatEncoder
    tokens: VerdictTokens
    choice: Request
    max_model_len: int
    seed: int

    @property
    def _between(self) -> tuple[int, ...]:
        """The ids between the end of a reason and what is sampled for the verdict."""
        header = self.tokens.header[len(self.tokens.reason_end) :] if self.encoder.reasons_first else ()
        return header + self.choice.prompt_ids

    def reason(self, prompt_id: str, prompt_ids: tuple[int, ...], limit: int, temperature: float) -> Request:
        """Return the request for a reason; a long prompt leaves less room for it, at least one token."""
        room = self.max_model_len - len(prompt_ids) - len(self._between) - self.choice.max_tokens
        stop_ids = tuple(dict.fromkeys((*self.tokens.reason_end[-1:], self.tokens.end)))
        return Request(prompt_id, prompt_ids, max(1, min(limit, room)), temperature, stop_ids=stop_ids)

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

    Args:
        engine: completes both requests.
        turns: of the judge.
    """

    def __init__(self, engine: Engine, turns: Turns) -> None:
        self._engine, self._turns = engine, turns
        self.max_model_len, self.block = engine.max_model_len, engine.block

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield one completion per request for a reason."""
        source = iter(requests)
        unwritten: dict[str, Request] = {}  # the requests for reasons that are being written, by id
        reasons: dict[str, Completion] = {}  # the reasons whose verdict is being written, by its request's id
        verdicts: deque[Request] = deque()

        def ask_verdict(request: Request, reason: Completion) -> bool:
            verdict = self._turns.verdict(request, reason)
            if verdict:
                reasons[verdict.id] = reason
                verdicts.append(verdict)
            return verdict is not None

        def waiting() -> Iterator[Request]:
            for request in source:
                while verdicts:
                    yield verdicts.popleft()
                if self._turns.encoder.reasons_first:
                    unwritten[request.id] = request
                    yield request
                else:
                    no_reason = Completion(request.id, "", "stop", prompt_tokens=len(request.prompt_ids))
                    ask_verdict(request, no_reason)
            while verdicts:
                yield verdicts.popleft()

        while True:
            for completion in self._engine.complete(waiting(), adapter=adapter):
                if completion.id in reasons:
                    yield self._turns.join(reasons.pop(completion.id), completion)
                elif not ask_verdict(unwritten.pop(completion.id), completion):
                    yield completion
            if not verdicts:  # of the last reasons
                return

    def reset_prefix_cache(self) -> None:
        """Empty the engine's prefix cache."""
        self._engine.reset_prefix_cache()
