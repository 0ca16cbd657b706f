"""A fleet of OpenAI-compatible servers of one model: vLLM and its kin by token ids, any other by messages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from reasongenrm.config.engines import OpenAIConfig
from reasongenrm.engines.base import Request
from reasongenrm.engines.fleet import Failed, Fleet, Refused, Server
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import EngineError
from reasongenrm.records import Completion, Message

if TYPE_CHECKING:
    import httpx

HELD = 32
"""Until one request has been answered, this many failed ones are kept back: where all of them fail, the recipe or the
server is wrong, and none of them may be recorded as done."""

_NAMES = (
    "s|bos|eos|pad|unk|sep|mask|cls|sop|eop|think|tool_call|tool_response|tools|arg_key|arg_value"
    "|start_of_turn|end_of_turn|start_of_image|end_of_image"
)
_BRACKETED = (
    "INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK|ARGS|CALL_ID"
    "|BOS|CLS|SEP|MASK|gMASK|sMASK"
)
_MARKER_START = re.compile(
    rf"""<(?=/?[|｜][^\s<>|｜]{{1,64}}[|｜])   # <|im_start|>, <|eot_id|>, <｜User｜>, </｜DSML｜…>
    |<(?=[|｜][^\s<>|｜]{{1,64}}>)             # <|turn>
    |<(?=[^\s<>|｜]{{1,64}}[|｜]>)             # <turn|>
    |<(?=/?(?:{_NAMES})>)                       # <s>, </s>, <start_of_turn>, <think>
    |<(?=</?SYS>>)                              # <<SYS>>
    |\[(?=/?(?:{_BRACKETED})\])
    |\[(?=\|(?:system|user|assistant|endofturn|tool)\|\])  # EXAONE; other [|…|] are arrays in F# and OCaml""",
    re.VERBOSE | re.IGNORECASE,
)


def break_markers(text: str) -> str:
    """Return a text in which no chat marker is left: a space stands behind the bracket that opened each.

    A server of the chat API renders contents and structure into one string before it tokenises them, so that a
    `<|im_end|>` inside a judged answer would end the turn. Covered are the markers of the usual families: ChatML, Llama
    2 to 4, Mistral, Gemma, DeepSeek, GLM, EXAONE, and tags of reasoning and tools. A template that marks turns by plain
    words (`### Instruction:`) cannot be told from text; serve such a model with `api: completions`.
    """
    return _MARKER_START.sub(lambda found: found[0] + " ", text)


class OpenAIEngine:
    """Sends each request to the live server with the fewest outstanding; a dead server's work goes to the others.

    `api: completions` posts token ids, and the same request gives the same completion as vLLM in this process: text
    with special tokens and stop string, token ids, log-probabilities, watched tokens. For that, some of vLLM's own
    fields are always sent: `skip_special_tokens`, `spaces_between_special_tokens`, `include_stop_str_in_output`,
    `return_token_ids`, and `top_k`, `min_p` and `repetition_penalty` at their neutral values, since a server takes
    defaults from the model's `generation_config.json`. Others (`ignore_eos`, `allowed_token_ids`, `logprob_token_ids`)
    go out where a request uses them. SGLang and llama.cpp ignore those they do not know.

    `api: chat` posts the messages with broken-up markers (`break_markers`), the role `reason` as `assistant`, and no
    field beyond OpenAI's own except `ignore_eos` and `allowed_token_ids` where a request uses them. It gives no token ids and no watched tokens, and
    log-probabilities where the server has them. The server's own defaults hold for what a request does not set.

    Args:
        config: servers, model, limits.
        max_model_len: tokens of prompt and completion together, of the servers.
        key: the recipe key of `config`, named in errors.
        on_event: told, in one line each, what a user should know while the work goes on: a server that is given up.

    Raises:
        EngineError: the SDK is missing, or the key is not in the environment.
    """

    block: int | None = None

    def __init__(
        self,
        config: OpenAIConfig,
        *,
        max_model_len: int,
        key: str,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        try:
            import openai  # noqa: F401
        except ImportError:
            raise EngineError(
                "the package openai is not installed", location=key, hint="pip install openai"
            ) from None
        self.max_model_len = max_model_len
        self._config = config
        self._key = key
        self._on_event = on_event
        self._secret = Secret(config.api_key_env, location=f"{key}.api_key_env")
        self._servers = [Server(url) for url in dict.fromkeys(url.rstrip("/") for url in config.urls)]
        self._answered = False  # whether any request has been
        self._logprobs: bool | None = None  # whether the chat servers give them; None until one has answered
        self._tell: Callable[[str], None] = on_event
        self._limit = "max_tokens"  # what the chat servers call it

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield completions as they are done, each request's exactly once; the caller may stop at any time.

        Requests are taken from the iterable as servers get free. One that the servers refuse, or that they fail at
        three times while they answer others, comes back with `finish_reason` error.

        Raises:
            EngineError: no server is left; a key, a model or all requests are refused; an adapter is asked for.
        """
        if adapter is not None:
            raise EngineError(
                "a fleet serves models by name, and no adapter folders",
                location=self._key,
                hint="serve the adapter under a name of its own (vLLM: --lora-modules) and give that as model",
            )
        return self._complete(requests)

    def _complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        from anyio.from_thread import start_blocking_portal

        waiting = iter(requests)
        arrived: SimpleQueue[Future[Completion] | str] = SimpleQueue()
        flying: set[Future[Completion]] = set()
        held: list[Completion] = []
        self._tell = arrived.put
        fleet = Fleet(self._servers, self._config, self._secret, self._send, self._key, arrived.put)
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(fleet):
            try:
                while True:
                    while (
                        len(flying) < self._room(len(held)) and (request := next(waiting, None)) is not None
                    ):
                        future = portal.start_task_soon(fleet.answer, request)
                        flying.add(future)
                        future.add_done_callback(arrived.put)
                    if not flying:
                        break
                    news = arrived.get()
                    if isinstance(news, str):
                        self._on_event(news)
                        continue
                    flying.remove(news)
                    completion = news.result()
                    if completion.finish_reason == "error" and not self._answered:
                        held.append(completion)
                        continue
                    self._answered = True
                    yield from held
                    held.clear()
                    yield completion
                if next(waiting, None) is not None:
                    raise self._all_failed(held)
                yield from held
            finally:
                for future in flying:
                    future.cancel()

    def _room(self, held: int) -> int:
        """How many requests may be in flight."""
        live = sum(not server.dead for server in self._servers)
        room = self._config.max_concurrent * max(live, 1)  # where none is left, the next request says so
        return room if self._answered else min(room, max(room, HELD) - held)

    def _all_failed(self, held: list[Completion]) -> EngineError:
        return EngineError(
            f"all of the first {len(held)} requests failed, the last one with: {held[-1].error}",
            location=self._key,
            hint="mend the recipe or the servers and run again: none of them was recorded",
        )

    def reset_prefix_cache(self) -> None:
        """Do nothing: the prefix caches are the servers'."""

    def close(self) -> None:
        """Do nothing: connections last as long as a call of `complete`."""

    async def _send(self, server: Server, request: Request) -> Completion:
        """Ask one server once (the SDK repeats); see `Fleet` for what it raises."""
        import httpx

        if self._config.api == "chat":
            return await self._chat(server, request)
        room = self.max_model_len - len(request.prompt_ids)
        if room <= 0:
            raise Refused(
                f"a prompt of {len(request.prompt_ids)} tokens leaves no room in a context of {self.max_model_len}"
            )
        # In process, a completion ends where the context does; a server refuses what could go beyond.
        body = _sampling(request) | {"max_tokens": min(request.max_tokens, room)}
        extra = _extra(request) | {
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "include_stop_str_in_output": True,  # holds for the end-of-turn token too
            "return_token_ids": True,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }
        if request.logprob_token_ids:
            extra |= {
                "logprob_token_ids": list(request.logprob_token_ids),
                "return_tokens_as_token_ids": True,
            }
        asked = {"model": self._config.model, "prompt": list(request.prompt_ids), "logprobs": 0}
        # Not `completions.create`: it looks at every token of the prompt, which takes longer than all else on this side.
        reply = await server.client.post("/completions", cast_to=httpx.Response, body=asked | body | extra)
        return _read(_choice(reply), request, chat=False)

    async def _chat(self, server: Server, request: Request) -> Completion:
        import openai

        refusals = (openai.BadRequestError, openai.UnprocessableEntityError, openai.PermissionDeniedError)
        wanted = self._logprobs is not False
        try:
            completion = await self._chat_once(server, request, logprobs=wanted)
            self._logprobs = wanted
        except refusals:
            if self._logprobs or not wanted:
                raise
            # Raises again where it is not the log-probabilities that are refused.
            completion = await self._chat_once(server, request, logprobs=False)
            if self._logprobs is None:
                self._tell(f"{self._key}: {server.url} gives no log-probabilities")
            self._logprobs = False
        return completion

    async def _chat_once(self, server: Server, request: Request, *, logprobs: bool) -> Completion:
        import openai

        body: dict[str, Any] = _sampling(request) | {
            "model": self._config.model,
            "messages": [_plain(message) for message in request.messages],
        }
        if logprobs:
            body["logprobs"] = True
        create = server.client.chat.completions.with_raw_response.create
        limit = self._limit
        try:
            reply = await create(**body, **{limit: request.max_tokens}, extra_body=_extra(request))
        except openai.BadRequestError as error:
            if limit == "max_completion_tokens" or "max_completion_tokens" not in str(error):
                raise
            self._limit = "max_completion_tokens"  # OpenAI's newer models know no other
            reply = await create(**body, max_completion_tokens=request.max_tokens, extra_body=_extra(request))
        return _read(_choice(reply.http_response), request, chat=True)


def _plain(message: Message) -> dict[str, str]:
    role = "assistant" if message["role"] == "reason" else message["role"]
    return {"role": role, "content": break_markers(message["content"])}


def _sampling(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {"temperature": request.temperature, "top_p": request.top_p}
    if request.seed is not None:
        body["seed"] = request.seed
    if request.stop:
        body["stop"] = list(request.stop)
    return body


def _extra(request: Request) -> dict[str, Any]:
    """vLLM's own fields, as far as the request uses them."""
    extra: dict[str, Any] = {}
    if request.ignore_eos:
        extra["ignore_eos"] = True
    if request.allowed:
        extra["allowed_token_ids"] = list(request.allowed)
    return extra


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _choice(reply: httpx.Response) -> dict[str, Any]:
    """The first choice of an answer.

    Raises:
        ValueError, TypeError, KeyError: the answer is no completion.
        Failed: it holds no choice.
    """
    body = json.loads(reply.content, parse_constant=_no_constant)
    if not isinstance(body, dict) or not isinstance(body["choices"], list):
        raise TypeError("it is no completion")
    if not body["choices"]:
        raise Failed("an answer without a choice", empty=True)
    choice: dict[str, Any] = body["choices"][0]
    return choice | {"usage": body.get("usage")}


def _read(choice: dict[str, Any], request: Request, *, chat: bool) -> Completion:
    """The completion in a choice; the same as vLLM's in this process where a server gives token ids."""
    finish = choice.get("finish_reason")
    text = choice["message"].get("content") if chat else choice["text"]
    if text is None and finish == "length":
        text = ""  # a reasoning model that was cut before it came to its answer
    if not isinstance(text, str):
        raise Failed("a choice without text", empty=True)
    if finish not in ("stop", "length"):
        return Completion(request.id, text, "error", logprob=None, error=f"finish_reason {finish}")
    reported = choice.get("logprobs") or {}
    usage = choice["usage"] or {}
    asked = int(usage.get("prompt_tokens") or 0)
    if chat:
        logprob = _sum([t["logprob"] for t in reported.get("content") or ()])
        billed = usage.get("completion_tokens")
        return Completion(request.id, text, finish, logprob=logprob, billed=billed, prompt_tokens=asked)
    token_ids = tuple(int(token) for token in choice.get("token_ids") or ())
    logprobs: dict[int, dict[int, float]] = {}
    if request.logprob_token_ids:
        for place, (token, entry) in enumerate(
            zip(token_ids, reported.get("top_logprobs") or (), strict=False)
        ):
            if token in request.logprob_token_ids:
                found = ((t, entry.get(f"token_id:{t}")) for t in request.logprob_token_ids)
                logprobs[place] = {t: round(value, 6) for t, value in found if value is not None}
    return Completion(
        request.id,
        text,
        finish,
        token_ids,
        _sum(reported.get("token_logprobs") or ()),
        logprobs,
        prompt_tokens=asked,
    )


def _sum(logprobs: Sequence[float | None]) -> float | None:
    known = [value for value in logprobs if value is not None]
    return round(sum(known), 6) if known and len(known) == len(logprobs) else None
