"""A model that answers prompts: its requests to an engine, and candidates for `ScalarRewardModel.best_of_n`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from reasongenrm.chat.content import content_tokenizer
from reasongenrm.chat.delimiters import neutralise
from reasongenrm.chat.encoder import ChatEncoder, load_tokenizer
from reasongenrm.config.loading import section
from reasongenrm.config.scalar import SamplerConfig, TransformersConfig
from reasongenrm.engines.base import Engine, Request, request_seed
from reasongenrm.engines.loading import load_engine, open_server
from reasongenrm.engines.transformers import TransformersEngine
from reasongenrm.errors import EngineError
from reasongenrm.records import Completion, Message, content_id
from reasongenrm.rows.turns import replace_surrogates
from reasongenrm.scalar.inputs import prompt_text


class AnswerModel:
    """A model that answers prompts, in its chat template, or in the text `wrap` if it has none.

    Args:
        config: model and sampling.
        state: file that records Anthropic's batches.
    """

    def __init__(self, config: SamplerConfig, state: Path) -> None:
        self.config, self._state = config, state
        server = config.server
        takes_messages = server is not None and (server.kind == "anthropic" or server.api == "chat")
        self.tokenizer: Any = None if takes_messages else load_tokenizer(config.model)
        template = getattr(self.tokenizer, "chat_template", None)
        self._encoder = ChatEncoder(self.tokenizer, template) if template else None
        self._plain: Any = content_tokenizer(self.tokenizer) if self.tokenizer and not template else None

    @property
    def name(self) -> str:
        """The model's id, folder, or name on its server."""
        return self.config.server.model if self.config.server is not None else self.config.model.path

    def start(self) -> Engine:
        """Load the model, or connect to its server."""
        config, server = self.config, self.config.server
        if server is None:
            if isinstance(config.engine, TransformersConfig):
                return TransformersEngine(config.model, config.engine)
            return load_engine(config.model, config.engine, seed=config.seed)
        return open_server(server, max_model_len=config.engine.max_model_len, state=self._state, key="server")

    def request(self, name: str, context: Sequence[Message], *, temperature: float, seed: int) -> Request:
        """Return the engine's request for one answer.

        Args:
            name: id of the request.
            context: the turns up to the last user turn; one without a system turn gets that of the settings.
            temperature, seed: of its sampling.
        """
        config = self.config
        ids: tuple[int, ...] = ()
        turns = tuple(context)
        if config.system and turns[0]["role"] != "system":
            turns = ({"role": "system", "content": config.system}, *turns)
        if self._encoder is not None:
            ids = tuple(self._encoder.encode(turns, generation=True))
        elif self.tokenizer is not None:
            ids = tuple(self._wrapped(turns))
        return Request(
            name,
            ids,
            max_tokens=max(1, min(config.max_tokens, config.engine.max_model_len - len(ids))),
            temperature=temperature,
            top_p=config.top_p,
            seed=seed if temperature > 0 else None,
            stop=tuple(config.stop),
            messages=() if ids else turns,
        )

    def _wrapped(self, turns: Sequence[Message]) -> list[int]:
        def plain(text: str) -> list[int]:
            return list(self._plain.encode(replace_surrogates(text), add_special_tokens=False).ids)

        before, _, after = self.config.wrap.partition("{prompt}")
        # A prompt with the texts around it would look like several turns.
        heads = [text for text in (before.strip(), after.strip()) if len(text) > 1]
        system = f"{turns[0]['content']}\n" if turns[0]["role"] == "system" else ""
        prompt = neutralise(prompt_text(turns[1:] if system else turns), heads)
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


class AnswerEngine:
    """Candidates of a model on any engine, for `ScalarRewardModel.best_of_n`; a context manager.

    with AnswerEngine({"model": {"path": "Qwen/Qwen2.5-0.5B-Instruct"}}) as engine: ...  # vLLM in this process
    with AnswerEngine({"engine": {"kind": "transformers"}, "model": …}) as engine: ...  # plain transformers
    with AnswerEngine({"server": {"kind": "openai", "urls": [URL], "model": NAME, "api": "chat"}}) as engine: ...

    Args:
        config: the keys of `SamplerConfig`.
        temperature: of the sampling.

    Raises:
        ConfigError: an unknown key.
        EngineError: the tokenizer cannot be loaded.
    """

    def __init__(self, config: SamplerConfig | Mapping[str, Any], *, temperature: float = 1.0) -> None:
        if not isinstance(config, SamplerConfig):
            config = section(SamplerConfig, config, "engine")
        self._folder = TemporaryDirectory()  # of Anthropic's batches
        self._model = AnswerModel(config, Path(self._folder.name) / "batches.jsonl")
        self._temperature = temperature

    @cached_property
    def _engine(self) -> Engine:
        return self._model.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model, or close the connections; later candidates start it again."""
        if engine := self.__dict__.pop("_engine", None):
            engine.close()

    def candidates(self, context: str | Sequence[Message], n: int) -> list[str]:
        """Return `n` sampled answers; equal ones occur as often as they were sampled. The same call gives the same answers.

        Raises:
            EngineError: the model cannot be served, or an answer failed.
        """
        turns = [Message(role="user", content=context)] if isinstance(context, str) else list(context)
        requests = sampling_requests(self._model, turns, n, temperature=self._temperature)
        [completions] = self._engine.complete_blocks([requests])
        if errors := [completion.error for completion in completions if completion.finish_reason == "error"]:
            problem = f"{len(errors)} of {n} answers failed: {errors[0]}"
            raise EngineError(
                problem, location=self._model.name, hint="check the server, or the model's settings"
            )
        return [self._model.text(completion) for completion in completions]


def sampling_requests(
    model: AnswerModel, context: Sequence[Message], n: int, *, temperature: float
) -> list[Request]:
    """Return the requests for `n` samples of one distribution; ids and seeds are functions of context, settings and number."""
    config = model.config
    served = (config.server or config.model).model_dump(mode="json")
    settings = config.sampling()
    requests = []
    for number in range(n):
        name = content_id(context, served, settings, temperature, config.seed, number)
        seed = request_seed(config.seed, name)
        requests.append(model.request(name, context, temperature=temperature, seed=seed))
    return requests
