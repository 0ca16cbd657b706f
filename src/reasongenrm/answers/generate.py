"""Generate several answers of a model to each prompt, each with its sampling settings, to be ranked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongenrm.chat.content import content_tokenizer
from reasongenrm.chat.encoder import ChatEncoder, load_tokenizer
from reasongenrm.chat.prompts import neutralise
from reasongenrm.config.scalar import AnswersConfig
from reasongenrm.engines.base import Engine, Request, complete_missing, request_seed
from reasongenrm.engines.loading import load_engine, open_server
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Completion, Drop, Message, content_id
from reasongenrm.rows.turns import replace_surrogates
from reasongenrm.store import PartStore, completion_from_json, to_json, write_jsonl


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """One answer to generate.

    Attributes:
        id: content hash of the prompt, the model and the settings.
        kind, prompt: as in the file.
        number: of the answer to this prompt, from 1.
        temperature, seed: of its sampling.
    """

    id: str
    kind: str
    prompt: str
    number: int
    temperature: float
    seed: int


def answer_requests(config: AnswersConfig) -> list[AnswerRequest]:
    """Return one request per answer; those of one prompt follow each other."""
    model = (config.server or config.model).model_dump(mode="json")
    settings = config.model_dump(mode="json", include={"wrap", "system", "top_p", "max_tokens", "stop"})
    requests = []
    for item in config.prompts:
        for number in range(config.answers):
            temperature = config.temperatures[number % len(config.temperatures)]
            key = content_id(item.prompt, model, settings, temperature, config.seed, number)
            seed = request_seed(config.seed, key)
            requests.append(AnswerRequest(key, item.kind, item.prompt, number + 1, temperature, seed))
    return requests


class _AnswerModel:
    """A model that answers prompts, in its chat template, or in the text `wrap` if it has none."""

    def __init__(self, config: AnswersConfig, state: Path) -> None:
        self.config, self._state = config, state
        server = config.server
        takes_messages = server is not None and (server.kind == "anthropic" or server.api == "chat")
        self.tokenizer: Any = None if takes_messages else load_tokenizer(config.model)
        template = getattr(self.tokenizer, "chat_template", None)
        self._encoder = ChatEncoder(self.tokenizer, template) if template else None
        self._plain: Any = content_tokenizer(self.tokenizer) if self.tokenizer and not template else None

    def start(self) -> Engine:
        """Load the model, or connect to its server."""
        config, server = self.config, self.config.server
        if server is None:
            return load_engine(config.model, config.engine, seed=config.seed)
        return open_server(server, max_model_len=config.engine.max_model_len, state=self._state, key="server")

    def request(self, item: AnswerRequest) -> Request:
        """Return the engine's request for one answer."""
        config = self.config
        ids: tuple[int, ...] = ()
        turns: tuple[Message, ...] = ({"role": "user", "content": item.prompt},)
        if config.system:
            turns = ({"role": "system", "content": config.system}, *turns)
        if self._encoder is not None:
            ids = tuple(self._encoder.encode(turns, generation=True))
        elif self.tokenizer is not None:
            ids = tuple(self._wrapped(item.prompt))
        return Request(
            item.id,
            ids,
            max_tokens=max(1, min(config.max_tokens, config.engine.max_model_len - len(ids))),
            temperature=item.temperature,
            top_p=config.top_p,
            seed=item.seed if item.temperature > 0 else None,
            stop=tuple(config.stop),
            messages=() if ids else turns,
        )

    def _wrapped(self, prompt: str) -> list[int]:
        def plain(text: str) -> list[int]:
            return list(self._plain.encode(replace_surrogates(text), add_special_tokens=False).ids)

        before, _, after = self.config.wrap.partition("{prompt}")
        # A prompt with the texts around it would look like several turns.
        heads = [text for text in (before.strip(), after.strip()) if len(text) > 1]
        prompt = neutralise(prompt, heads)
        system = f"{self.config.system}\n" if self.config.system else ""
        first = list(self.tokenizer.encode(""))  # the begin-of-text token, if the model has one
        return [*first, *plain(system + before), *plain(prompt), *plain(after)]

    def text(self, completion: Completion) -> str:
        """Return the answer without special tokens and without the stop text."""
        text = completion.text
        if self.tokenizer is not None:
            text = self.tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)
        for stop in self.config.stop:
            text = text.partition(stop)[0]
        return text.strip()


def generate(config: AnswersConfig, out: Path, *, location: str = "answers") -> dict[str, int]:
    """Write a file of answers, JSONL, as `answers rank` reads it; return the counts.

    A line holds `id`, `kind`, `prompt`, `answer`, and the settings: `model`, `number`, `temperature`, `top_p`, `seed`,
    `max_tokens`, `tokens` and `finish_reason` (`length`: the answer was cut). Answers that are empty, failed, or repeat
    another one to the same prompt go to `<out>.dropped.jsonl`. A killed run resumes, and a finished one is not repeated.

    Raises:
        ConfigError: the file holds other answers.
        DataError: no answer is usable.
        EngineError: the model cannot be served.
    """
    requests = answer_requests(config)
    store = PartStore(out.with_name(out.name + ".completions.jsonl"))
    if (store.finished and set(store) != {item.id for item in requests}) or (
        out.exists() and not store.finished
    ):
        hint = "name another file, or move this one and the files beside it away"
        raise ConfigError("the file holds other answers", location=str(out), hint=hint)
    out.parent.mkdir(parents=True, exist_ok=True)
    model = _AnswerModel(config, out.with_name(out.name + ".batches.jsonl"))
    if not store.finished:
        with closing(model.start()) as engine:
            complete_missing(engine, map(model.request, requests), store)
        store.finish(item.id for item in requests)
    rows, drops = _rows(requests, model, store, location)
    if not rows:
        hint = "correct the settings, and name another output file"
        raise DataError(f"no answer can be used: {drops[0].detail}", location=str(store.final), hint=hint)
    write_jsonl(out.with_name(out.name + ".dropped.jsonl"), map(to_json, drops))
    write_jsonl(out, rows)
    prompts = len({row["prompt"] for row in rows})
    return {"prompts": prompts, "requested": len(requests), "answers": len(rows), "dropped": len(drops)}


def _rows(
    requests: Sequence[AnswerRequest], model: _AnswerModel, store: PartStore, location: str
) -> tuple[list[dict[str, Any]], list[Drop]]:
    config = model.config
    model_name = config.server.model if config.server is not None else config.model.path
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    drops: list[Drop] = []
    for item in requests:
        completion = completion_from_json(store[item.id])
        text = model.text(completion)
        problem = None
        if completion.finish_reason == "error":
            problem = "error", f"The engine failed: {completion.error}."
        elif not text:
            problem = "empty_answer", "The model returned no text."
        elif (item.prompt, text) in rows:
            detail = "The model gave the same answer to this prompt before; raise the temperatures."
            problem = "duplicate_answer", detail
        if problem:
            drops.append(Drop(item.id, location, *problem, "generate"))
            continue
        rows[item.prompt, text] = {
            "id": item.id,
            "kind": item.kind,
            "prompt": item.prompt,
            "answer": text,
            "model": model_name,
            "number": item.number,
            "temperature": item.temperature,
            "top_p": config.top_p,
            "seed": item.seed,
            "max_tokens": config.max_tokens,
            "tokens": completion.tokens,
            "finish_reason": completion.finish_reason,
        }
    return list(rows.values()), drops
