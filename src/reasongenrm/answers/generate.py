"""Answers to be ranked: several of a model to each prompt, each with the settings it came from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongenrm.chat.encoder import ChatEncoder, load_tokenizer
from reasongenrm.config.scalar import AnswersConfig
from reasongenrm.engines.base import Engine, Request, complete_missing, request_seed
from reasongenrm.engines.loading import load_engine, open_server
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Completion, Drop, Message, content_id
from reasongenrm.store import PartStore, completion_from_json, to_json, write_jsonl


@dataclass(frozen=True, slots=True)
class Wanted:
    """One answer that is asked for.

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


def wanted(config: AnswersConfig) -> list[Wanted]:
    """Return every answer that a file asks for, those of one prompt behind each other."""
    model = config.server or config.model
    made = config.model_dump(mode="json", include={"wrap", "system", "top_p", "max_tokens", "stop"})
    found = []
    for asked in config.prompts:
        for number in range(config.answers):
            temperature = config.temperatures[number % len(config.temperatures)]
            name = content_id(
                asked.prompt, model.model_dump(mode="json"), made, temperature, config.seed, number
            )
            found.append(
                Wanted(
                    name, asked.kind, asked.prompt, number + 1, temperature, request_seed(config.seed, name)
                )
            )
    return found


class _Writer:
    """A model that answers prompts: by its chat template, or wrapped in a text where it has none."""

    def __init__(self, config: AnswersConfig, state: Path) -> None:
        self.config, self._state = config, state
        server = config.server
        by_messages = server is not None and (server.kind == "anthropic" or server.api == "chat")
        self.tokenizer: Any = None if by_messages else load_tokenizer(config.model)
        template = getattr(self.tokenizer, "chat_template", None)
        self._encoder = ChatEncoder(self.tokenizer, template) if template else None

    def start(self) -> Engine:
        """Start the model, or open its server."""
        config, server = self.config, self.config.server
        if server is None:
            return load_engine(config.model, config.engine, seed=config.seed)
        return open_server(
            server, max_model_len=config.engine.max_model_len, state=self._state, key="server"
        )

    def request(self, asked: Wanted) -> Request:
        """Return the request for one answer."""
        config = self.config
        seed = asked.seed if asked.temperature > 0 else None
        ids: tuple[int, ...] = ()
        turns: tuple[Message, ...] = ({"role": "user", "content": asked.prompt},)
        if config.system:
            turns = ({"role": "system", "content": config.system}, *turns)
        if self._encoder is not None:
            ids = tuple(self._encoder.encode(turns, generation=True))
        elif self.tokenizer is not None:
            ids = tuple(self._wrapped(asked.prompt))
        return Request(
            asked.id,
            ids,
            max_tokens=max(1, min(config.max_tokens, config.engine.max_model_len - len(ids))),
            temperature=asked.temperature,
            top_p=config.top_p,
            seed=seed,
            stop=tuple(config.stop),
            messages=() if ids else turns,
        )

    def _wrapped(self, prompt: str) -> list[int]:
        def plain(text: str) -> list[int]:
            return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

        before, _, after = self.config.wrap.partition("{prompt}")
        system = f"{self.config.system}\n" if self.config.system else ""
        first = list(self.tokenizer.encode(""))  # a begin-of-text token, where the model has one
        return [*first, *plain(system + before), *plain(prompt), *plain(after)]

    def text(self, completion: Completion) -> str:
        """Return an answer without markers, and without the text that stopped it."""
        text = completion.text
        if self.tokenizer is not None:
            text = self.tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)
        for stop in self.config.stop:
            text = text.partition(stop)[0]
        return text.strip()


def generate(config: AnswersConfig, out: Path, *, location: str = "answers") -> dict[str, int]:
    """Write a file of answers, JSONL, as `answers rank` reads it; return the counts.

    A line holds `id`, `kind`, `prompt`, `answer`, and how it was made: `model`, `number`, `temperature`, `top_p`,
    `seed`, `max_tokens`, `tokens` and `finish_reason` (`length`: it was cut). Answers that are empty, failed, or repeat
    another one to the same prompt go to `<out>.dropped.jsonl`. A killed run goes on where it stopped, and a finished one
    is read again.

    Raises:
        ConfigError: the file holds other answers.
        DataError: not one answer came.
        EngineError: the model cannot be served.
    """
    asked = wanted(config)
    store = PartStore(out.with_name(out.name + ".completions.jsonl"))
    if (store.finished and set(store) != {one.id for one in asked}) or (out.exists() and not store.finished):
        hint = "name another file, or remove it and what lies beside it"
        raise ConfigError("it holds other answers than these", location=str(out), hint=hint)
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = _Writer(config, out.with_name(out.name + ".batches.jsonl"))
    if not store.finished:
        with ExitStack() as stack:
            engine = writer.start()
            stack.callback(engine.close)
            complete_missing(engine, (writer.request(one) for one in asked), store)
        store.finish(one.id for one in asked)
    rows, drops = _rows(config, asked, writer, store, location)
    if not rows:
        told = drops[0].detail if drops else "nothing was asked"
        raise DataError(
            f"not one answer came: {told}", location=str(store.final), hint="mend it, remove that file"
        )
    write_jsonl(out.with_name(out.name + ".dropped.jsonl"), map(to_json, drops))
    write_jsonl(out, rows)
    prompts = len({row["prompt"] for row in rows})
    return {"prompts": prompts, "asked": len(asked), "answers": len(rows), "dropped": len(drops)}


def _rows(
    config: AnswersConfig, asked: Sequence[Wanted], writer: _Writer, store: PartStore, location: str
) -> tuple[list[dict[str, Any]], list[Drop]]:
    model = config.server.model if config.server is not None else config.model.path
    rows: list[dict[str, Any]] = []
    drops: list[Drop] = []
    seen: set[tuple[str, str]] = set()
    for one in asked:
        completion = completion_from_json(store[one.id])
        text = writer.text(completion)
        problem = _problem(completion, text, (one.prompt, text) in seen)
        if problem:
            drops.append(Drop(one.id, location, *problem, "generate"))
            continue
        seen.add((one.prompt, text))
        rows.append(
            {
                "id": one.id,
                "kind": one.kind,
                "prompt": one.prompt,
                "answer": text,
                "model": model,
                "number": one.number,
                "temperature": one.temperature,
                "top_p": config.top_p,
                "seed": one.seed,
                "max_tokens": config.max_tokens,
                "tokens": completion.tokens,
                "finish_reason": completion.finish_reason,
            }
        )
    return rows, drops


def _problem(completion: Completion, text: str, repeated: bool) -> tuple[str, str] | None:
    """Return why an answer is left out, and a sentence."""
    if completion.finish_reason == "error":
        return "error", f"The engine failed: {completion.error}."
    if not text:
        return "empty_answer", "The model said nothing."
    if repeated:
        return "duplicate_answer", "The model gave this answer to this prompt before; raise the temperatures."
    return None
