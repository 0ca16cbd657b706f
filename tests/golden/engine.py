"""A scripted engine and a scripted scalar head: what they say is a function of the request's content alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.verdict import VerdictTokens
from reasongenrm.engines.base import Engine, Request
from reasongenrm.judge.ask import RESCUE
from reasongenrm.judge.turns import VERDICT
from reasongenrm.records import Completion

REASONS = (
    "the words are counted one by one and the counts differ so A is better",
    "the words are counted one by one and the counts differ so B is better",
    "B is better because it is right",  # the verdict comes too early
    "both answers are long and neither says more than the other one",  # no verdict
    "the second answer adds the numbers and comes to the right sum . [[B]]",
    "the first answer adds the numbers and comes to the right sum . [[A]]",
    "A is better said one and yet after all of that was read B is better",
    "",
)
ANSWERS = ("a lamp", "a lamp", " two lamps END and more", "", "<|im_end|> three lamps", "no")


def draw(*parts: Any) -> int:
    """Return a large number that depends on plain values alone."""
    return int(hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(), 16)


class ScriptedEngine(Engine):
    """An engine that answers by the hash of a request's prompt and seed; it is right, wrong, unreadable, cut or failed.

    Args:
        encoder: gives token ids; None for an engine of messages.
        writes: verdicts (or ratings, where the prompt wants them), a teacher's reasons, or answers to a prompt.
        max_model_len: a prompt that fills it is an error, as vLLM has it.
    """

    block = 4

    def __init__(
        self,
        encoder: ChatEncoder | None,
        *,
        writes: Literal["verdicts", "reasons", "answers"] = "verdicts",
        max_model_len: int = 1024,
    ) -> None:
        self.encoder, self.writes, self.max_model_len = encoder, writes, max_model_len
        self.tokens = VerdictTokens.from_encoder(encoder) if encoder and writes == "verdicts" else None

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield completions in the opposite order."""
        yield from reversed([self._completion(request, adapter) for request in requests])

    def reset_prefix_cache(self) -> None:
        """There is no cache."""

    def close(self) -> None:
        """There is nothing to free."""

    def _completion(self, request: Request, adapter: str | None) -> Completion:
        which = Path(adapter).parent.name if adapter else "base"  # judges/NAME/adapter
        number = draw(request.prompt_ids, request.messages, request.seed, which)
        length = len(request.prompt_ids) or sum(len(turn["content"].split()) for turn in request.messages)
        if length >= self.max_model_len:
            error = f"the prompt has {length} tokens"
            return Completion(request.id, "", "error", error=error, prompt_tokens=length)
        if self.encoder is None:
            return self._by_text(request, number, length)
        if request.id.endswith(RESCUE):
            return self._rescue(request, number, length)
        ids, finish = (self._verdict if request.id.endswith(VERDICT) else self._written)(request, number)
        if len(ids) > request.max_tokens:
            ids, finish = ids[: request.max_tokens], "length"
        return self._made(request, ids, finish, number, length)

    def _made(
        self, request: Request, ids: Sequence[int], finish: str, number: int, length: int
    ) -> Completion:
        assert self.encoder is not None
        logprobs = {}
        for place, token in enumerate(ids):
            if token in request.logprob_token_ids:
                low = (number + place) % 600 / 100 + 0.7
                sides = {one: -0.05 if one == token else -low for one in request.logprob_token_ids}
                if number % 23 == 0:  # the letter that was sampled is the less likely one
                    sides = {one: -0.05 if one != token else -low for one in request.logprob_token_ids}
                logprobs[place] = sides
        failed = finish == "error"
        return Completion(
            request.id,
            "" if failed else self.encoder.tokenizer.decode(list(ids)),
            finish,
            token_ids=() if failed else tuple(ids),
            logprobs={} if failed else logprobs,
            error="the server failed" if failed else None,
            prompt_tokens=length,
        )

    def _written(self, request: Request, number: int) -> tuple[list[int], str]:
        """Return the ids of a completion, and how it ended."""
        encoder = self.encoder
        assert encoder is not None
        if self.writes != "verdicts":
            text = (REASONS if self.writes == "reasons" else ANSWERS)[
                number % (8 if self.writes == "reasons" else 6)
            ]
            finish = {0: "error", 1: "length"}.get(number // 64 % 12, "stop")
            end = [encoder.tokenizer.eos_token_id] if finish == "stop" else []
            return encoder.content(text) + end, finish
        kind, reason = number % 16, f"answer {number % 97} says more than answer {number % 89}"
        if kind == 10:
            return encoder.content(reason), "stop"  # ended by another token than the template's
        if kind == 11:
            return encoder.content(reason), "length"
        if kind == 12:
            return [], "error"
        if kind == 13:
            reason = "it quotes [[A]] and [[B]]"
        assert self.tokens is not None
        return [*encoder.content(reason), *self.tokens.reason_end], "stop"

    def _verdict(self, request: Request, number: int) -> tuple[list[int], str]:
        """Return the ids behind the verdict's opening: a letter or a rating, or no verdict."""
        assert self.encoder is not None and self.tokens is not None
        kind = number % 16
        if kind == 12:
            return [], "error"
        if self._rates(request):
            spelled = self.encoder.content(f"[[{number // 16 % 10 + 1 if kind < 13 else 11}]]")
            return spelled[len(self.tokens.opening) :], "stop"
        if kind > 12:
            return self.encoder.content("neither")[:1], "length"
        return [self.tokens.letters[0] if kind < 6 else self.tokens.letters[1]], "length"

    def _rates(self, request: Request) -> bool:
        """Whether the prompt asks for a rating of 1 to 10."""
        if self.encoder is None:
            return "[[10]]" in request.messages[0]["content"]
        return "[[10]]" in self.encoder.tokenizer.decode(list(request.prompt_ids))

    def _rescue(self, request: Request, number: int, length: int) -> Completion:
        kind = number % 4
        if self._rates(request):
            assert self.encoder is not None
            spelled = self.encoder.content(f"[[{number // 4 % 10 + 1}]]")
            allowed = [token for token in spelled if token in request.allowed]
            return self._made(request, allowed if kind else [], "stop", number, length)
        assert self.tokens is not None
        a, b = self.tokens.letters[0], self.tokens.letters[1]
        sides = {0: {a: -0.2, b: -1.9}, 1: {a: -2.5, b: -0.1}, 2: {a: -0.75, b: -0.75}, 3: {a: -0.5}}[kind]
        return Completion(
            request.id,
            "B" if kind == 1 else "A",
            "length",
            token_ids=(b if kind == 1 else a,),
            logprobs={0: sides},
            prompt_tokens=length,
        )

    def _by_text(self, request: Request, number: int, length: int) -> Completion:
        """Return the completion of a server that gives the text alone."""
        kind = number % 8
        letter = f"[[{number // 8 % 10 + 1}]]" if self._rates(request) else f"[[{'AB'[number // 8 % 2]}]]"
        if request.id.endswith(RESCUE):
            text, finish = (f"{letter}." if kind < 5 else "neither"), "stop"
        else:
            text, finish = {
                5: ("it names [[A]] and [[B]] and no more", "stop"),
                6: (f"it is cut {letter}", "length"),
                7: ("", "error"),
            }.get(kind, (f"it weighs answer {number % 97}. **{letter}**", "stop"))
        failed = finish == "error"
        return Completion(
            request.id,
            text,
            finish,
            error="HTTP 500" if failed else None,
            billed=0 if failed else len(text.split()),
            prompt_tokens=length,
        )


class ScriptedHead:
    """Stands for `ScalarRewardModel`: scores and lengths are functions of the texts."""

    def score_batch(
        self, contexts: Sequence[Any], responses: Sequence[str], batch_size: int = 32
    ) -> list[float]:
        """Return one score per context and response."""
        return [draw(c, r) % 401 / 100 - 2 for c, r in zip(contexts, responses, strict=True)]

    def lengths(self, context: Any, response: str) -> tuple[int, bool]:
        """Return the words of a response, and whether it is cut."""
        return len(response.split()), len(response) > 60
