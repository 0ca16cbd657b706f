"""Generate several answers of a model to each prompt, each with its sampling settings, to be ranked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reasongenrm.answers.model import AnswerModel
from reasongenrm.config.scalar import AnswersConfig
from reasongenrm.console import bar, show
from reasongenrm.engines.base import Request, complete_missing, request_seed
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Drop, Message, content_id
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
    settings = config.sampling()
    requests = []
    for item in config.prompts:
        for number in range(config.answers):
            temperature = config.temperatures[number % len(config.temperatures)]
            key = content_id(item.prompt, model, settings, temperature, config.seed, number)
            seed = request_seed(config.seed, key)
            requests.append(AnswerRequest(key, item.kind, item.prompt, number + 1, temperature, seed))
    return requests


def _engine_request(model: AnswerModel, item: AnswerRequest) -> Request:
    turns = [Message(role="user", content=item.prompt)]
    return model.request(item.id, turns, temperature=item.temperature, seed=item.seed)


def _completions(out: Path) -> Path:
    """Return the file of an output's completions."""
    return out.with_name(out.name + ".completions.jsonl")


def preview(config: AnswersConfig, out: Path) -> None:
    """Print the settings, how many answers are requested and how many are there, and two inputs of the model; write nothing.

    Raises:
        EngineError: the tokenizer cannot be loaded.
    """
    requests = answer_requests(config)
    final = _completions(out)
    files = [final, final.with_name(final.stem + ".part" + final.suffix)]
    done = max(path.read_bytes().count(b"\n") if path.is_file() else 0 for path in files)
    show(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    show(f"prompts: {len(config.prompts)}, answers to generate: {len(requests)}, there already: {done}")
    model = AnswerModel(config, out.with_name(out.name + ".batches.jsonl"))
    for item in [next(one for one in requests if one.prompt == two.prompt) for two in config.prompts[:2]]:
        request = _engine_request(model, item)
        show(f"--- input to {model.name}, temperature {item.temperature:g}, seed {item.seed}")
        texts = [f"{turn['role']}: {turn['content']}" for turn in request.messages]
        show("\n".join(texts) if texts else model.tokenizer.decode(list(request.prompt_ids)))


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
    store = PartStore(_completions(out))
    if (store.finished and set(store) != {item.id for item in requests}) or (
        out.exists() and not store.finished
    ):
        hint = "name another file, or move this one and the files beside it away"
        raise ConfigError("the file holds other answers", location=str(out), hint=hint)
    out.parent.mkdir(parents=True, exist_ok=True)
    model = AnswerModel(config, out.with_name(out.name + ".batches.jsonl"))
    if not store.finished:
        with closing(model.start()) as engine, bar("answers", len(requests)) as progress:
            engine_requests = (_engine_request(model, item) for item in requests)
            complete_missing(engine, engine_requests, store, progress=progress)
        store.finish(item.id for item in requests)
    rows, drops = _rows(requests, model, config, store, location)
    if not rows:
        hint = "correct the settings, and name another output file"
        raise DataError(f"no answer can be used: {drops[0].detail}", location=str(store.final), hint=hint)
    write_jsonl(out.with_name(out.name + ".dropped.jsonl"), map(to_json, drops))
    write_jsonl(out, rows)
    prompts = len({row["prompt"] for row in rows})
    return {"prompts": prompts, "requested": len(requests), "answers": len(rows), "dropped": len(drops)}


def _rows(
    requests: Sequence[AnswerRequest],
    model: AnswerModel,
    config: AnswersConfig,
    store: PartStore,
    location: str,
) -> tuple[list[dict[str, Any]], list[Drop]]:
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
            "model": model.name,
            "number": item.number,
            "temperature": item.temperature,
            "top_p": config.top_p,
            "seed": item.seed,
            "max_tokens": config.max_tokens,
            "tokens": completion.tokens,
            "finish_reason": completion.finish_reason,
        }
    return list(rows.values()), drops
