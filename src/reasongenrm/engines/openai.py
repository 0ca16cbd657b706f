"""Client of OpenAI-compatible servers of one model: token ids for vLLM and SGLang, messages for any other server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Annotated, Any

import httpx
import msgspec
import openai

from reasongenrm.chat.markers import break_markers
from reasongenrm.chat.thoughts import with_thoughts
from reasongenrm.config.engines import OpenAIConfig
from reasongenrm.engines.base import Engine, Request
from reasongenrm.engines.fleet import AttemptFailed, Fleet, InvalidRequest, Server
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import EngineError
from reasongenrm.records import Completion

FIRST_FAILURES = 32
"""Failed requests that are held back until one succeeds: where all fail, the recipe or the server is wrong, and none of
them may be recorded as done."""

TOP_LOGPROBS = 20
"""Number of most likely tokens whose log-probabilities a server returns if it does not know `logprob_token_ids`, such as
vLLM 0.24; a letter that is not among them has no P(A)."""


class OpenAIEngine(Engine):
    """Sends each request to the live server with the fewest open requests; the others take over a dead server's work.

    `api: completions` posts token ids. A request gets the same completion as from vLLM in this process: text
    with special tokens and stop string, token ids, log-probabilities. This needs some fields of vLLM in every request;
    SGLang and llama.cpp ignore fields that they do not know.

    `api: chat` posts the messages with broken markers (`break_markers`) and the role `reason` as `assistant`. Of
    vLLM's fields it sends only `stop_token_ids`, `ignore_eos` and `allowed_token_ids`, where a request uses them. The completion has no
    token ids or log-probabilities. What a request does not set is the server's default.

    Args:
        config: servers, model, limits.
        max_model_len: tokens of prompt and completion together, of the servers.
        key: the recipe key of `config`, named in errors.
        on_event: called with one line when a server is given up.

    Raises:
        EngineError: the API key is not in the environment.
    """

    def __init__(
        self,
        config: OpenAIConfig,
        *,
        max_model_len: int,
        key: str,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.max_model_len = max_model_len
        self._config, self._key, self._on_event = config, key, on_event
        self._secret = Secret(config.api_key_env, location=f"{key}.api_key_env")
        self._servers = [Server(url) for url in dict.fromkeys(url.rstrip("/") for url in config.urls)]
        self._any_success = False
        self._limit_name = "max_tokens"  # of the chat servers

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield completions as they are done, each request's exactly once; the caller may stop at any time.

        Requests are taken from the iterable as servers become free. A request that the servers refuse, or that fails
        ten times while others succeed (`Unanswered`), comes back with `finish_reason` error.

        Raises:
            EngineError: no server is left; a key, a model or all requests are refused; `adapter` is set.
        """
        if adapter is not None:
            raise EngineError(
                "OpenAI-compatible servers have models by name, and no adapter folders",
                location=self._key,
                hint="serve the adapter under its own name (vLLM: --lora-modules) and set model to that name",
            )
        from anyio.from_thread import start_blocking_portal

        source = iter(requests)
        results: SimpleQueue[Future[Completion] | str] = SimpleQueue()  # also lines for `on_event`
        in_flight: set[Future[Completion]] = set()
        held_back: list[Completion] = []
        fleet = Fleet(self._servers, self._config, self._secret, self._send, self._key, results.put)
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(fleet):
            try:
                while True:
                    while len(in_flight) < self._max_in_flight(len(held_back)):
                        request = next(source, None)
                        if request is None:
                            break
                        future = portal.start_task_soon(fleet.answer, request)
                        in_flight.add(future)
                        future.add_done_callback(results.put)
                    if not in_flight:
                        break
                    result = results.get()
                    if isinstance(result, str):
                        self._on_event(result)
                        continue
                    in_flight.remove(result)
                    completion = result.result()
                    if completion.finish_reason == "error" and not self._any_success:
                        held_back.append(completion)
                        continue
                    self._any_success = True
                    yield from held_back
                    held_back.clear()
                    yield completion
                if next(source, None) is not None:
                    raise EngineError(
                        f"all of the first {len(held_back)} requests failed, the last one with: {held_back[-1].error}",
                        location=self._key,
                        hint="correct the recipe or the servers and run again: none of them was recorded",
                    )
                yield from held_back
            finally:
                for future in in_flight:
                    future.cancel()

    def _max_in_flight(self, held_back: int) -> int:
        live = sum(not server.dead for server in self._servers)
        # Where none is left, the next request raises the error.
        limit = self._config.max_concurrent * max(live, 1)
        return limit if self._any_success else min(limit, max(limit, FIRST_FAILURES) - held_back)

    async def _send(self, server: Server, request: Request) -> Completion:
        """Send a request to one server (the SDK retries); see `Fleet` for its exceptions."""
        if self._config.api == "chat":
            return await self._send_chat(server, request)
        room = self.max_model_len - len(request.prompt_ids)
        if room <= 0:
            raise InvalidRequest(
                f"a prompt of {len(request.prompt_ids)} tokens leaves no room in a context of {self.max_model_len}"
            )
        body = self._fields(request) | {
            "prompt": list(request.prompt_ids),
            # In process, a completion ends where the context does; a server refuses a request that could exceed it.
            "max_tokens": min(request.max_tokens, room),
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "include_stop_str_in_output": True,  # also keeps the end-of-turn token
            "return_token_ids": True,
            # Neutral values: a server's defaults come from the model's `generation_config.json`.
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }
        if ids := request.logprob_token_ids:
            body |= {
                "logprob_token_ids": list(ids),
                "logprobs": TOP_LOGPROBS,
                "return_tokens_as_token_ids": True,
            }
        return _read_completion(*await _post(server, "/completions", body), request)

    async def _send_chat(self, server: Server, request: Request) -> Completion:
        role_names = {"reason": "assistant"}
        messages = [
            {"role": role_names.get(turn["role"], turn["role"]), "content": break_markers(turn["content"])}
            for turn in request.messages
        ]
        limit = self._limit_name
        body = self._fields(request) | {"messages": messages, limit: request.max_tokens}
        try:
            choice, usage = await _post(server, "/chat/completions", body)
        except openai.BadRequestError as error:
            if limit == "max_completion_tokens" or "max_completion_tokens" not in str(error):
                raise
            self._limit_name = "max_completion_tokens"  # the only name that OpenAI's newer models accept
            return await self._send_chat(server, request)
        message = choice.message or _Message()
        text = message.content
        if request.thoughts and (thoughts := message.reasoning or message.reasoning_content):
            text = with_thoughts(thoughts, text)
        return _checked(choice, usage, request, text, billed=usage.completion_tokens)

    def _fields(self, request: Request) -> dict[str, Any]:
        """Return the fields that both APIs have, and those of vLLM that the request uses."""
        optional = {
            "seed": request.seed,
            "stop": list(request.stop) or None,
            "stop_token_ids": list(request.stop_ids) or None,
            "ignore_eos": request.ignore_eos or None,
            "allowed_token_ids": list(request.allowed) or None,
        }
        fields = {"model": self._config.model, "temperature": request.temperature, "top_p": request.top_p}
        return fields | {name: value for name, value in optional.items() if value is not None}


_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Usage(msgspec.Struct):
    completion_tokens: _Count | None = None
    prompt_tokens: _Count | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None  # of vLLM's reasoning parsers
    reasoning_content: str | None = None  # the same of SGLang and DeepSeek


class _Logprobs(msgspec.Struct):
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None
    text: str | None = None  # of the completions API
    message: _Message | None = None  # of the chat API
    token_ids: list[_Count] | None = None
    logprobs: _Logprobs | None = None


class _Answer(msgspec.Struct):
    """The parts of a server's answer that are read; anything of another type is an invalid answer."""

    choices: list[_Choice]
    usage: _Usage | None = None


_ANSWER = msgspec.json.Decoder(_Answer)


async def _post(server: Server, path: str, body: dict[str, Any]) -> tuple[_Choice, _Usage]:
    """Return the first choice of the answer, and the answer's usage.

    Raises:
        ValueError, RecursionError: the answer is not a completion.
        AttemptFailed: it has no choice.
    """
    # Not `create`: it checks every token of the prompt, which takes longer than the rest of the client.
    reply = await server.client.post(path, cast_to=httpx.Response, body=body)
    answer = _ANSWER.decode(reply.content)
    if not answer.choices:
        raise AttemptFailed("an answer without a choice", empty=True)
    return answer.choices[0], answer.usage or _Usage()


def _read_completion(choice: _Choice, usage: _Usage, request: Request) -> Completion:
    """Return the same completion as vLLM in this process, where the server gives token ids."""
    token_ids = tuple(choice.token_ids or ())
    logprobs: dict[int, dict[int, float]] = {}
    ids = request.logprob_token_ids
    top_logprobs = (choice.logprobs.top_logprobs or ()) if ids and choice.logprobs else ()
    for position, (token, entry) in enumerate(zip(token_ids, top_logprobs, strict=False)):
        if token in ids and entry:
            values = ((other, entry.get(f"token_id:{other}")) for other in ids)
            logprobs[position] = {other: round(value, 6) for other, value in values if value is not None}
    return _checked(choice, usage, request, choice.text, token_ids=token_ids, logprobs=logprobs)


def _checked(choice: _Choice, usage: _Usage, request: Request, text: str | None, **fields: Any) -> Completion:
    """Return the completion, or one with an error where the server reports another end than stop and length.

    Raises:
        AttemptFailed: the choice has no text.
    """
    finish = choice.finish_reason
    if text is None and finish == "length":
        text = ""  # a reasoning model that was truncated before its answer
    if text is None:
        raise AttemptFailed("a choice without text", empty=True)
    if finish not in ("stop", "length"):
        return Completion(request.id, text, "error", error=f"finish_reason {str(finish)[:40]}")
    return Completion(request.id, text, finish, prompt_tokens=usage.prompt_tokens or 0, **fields)
