"""The trained scalar head: one number per (context, response), equal to that of plain transformers.

Training (`train/scalar.py`) and serving both follow this contract:

    tokens = tokenizer(prompt_text(context), response, return_tensors="pt", truncation=True)
    logits = AutoModelForSequenceClassification.from_pretrained(folder)(**tokens).logits

The score of a head that learned from pairs is its one logit; `scalar/scale.py` has the formulas of those that learned a judge's scores.

The limit in tokens is the tokenizer's `model_max_length`, saved with the head. A head of another suite whose tokenizer has a
chat template, such as Skywork-Reward, reads the conversation with the response as its last turn under that template.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongenrm.chat.content import read_as_text
from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.checkpoints import load_checkpoint
from reasongenrm.config.engines import check_model
from reasongenrm.errors import ConfigError, DataError, EngineError, first_line
from reasongenrm.records import Message
from reasongenrm.scalar.best import BestOfN, CandidateSource
from reasongenrm.scalar.inputs import encode, encode_batch
from reasongenrm.scalar.scale import CONFIG_KEY, ScoreScale
from reasongenrm.store import read_json

HEAD_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
"""Files of a head on the hub: weights as safetensors, configuration, tokenizer; no code."""

UNLIMITED = 10**9
"""A tokenizer without a limit has a `model_max_length` above this."""

WINDOW = 4096
"""Pairs that are tokenized and sorted together."""


def local_head(path: str) -> Path:
    """Return the folder of a head: `path` itself, or the copy of a hub id in the hub's cache, which is loaded if necessary.

    Raises:
        EngineError: the folder is missing, or the model cannot be loaded.
    """
    if Path(path).exists():
        return Path(path)
    check_model(path, key="scalar")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, allow_patterns=HEAD_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        problem = f"cannot load {path} from the hub: {first_line(error)}"
        raise EngineError(
            problem, location="scalar", hint="check the id and the network, or give a folder"
        ) from None


@dataclass(frozen=True, slots=True)
class ScoreRanking:
    """Several responses to one context in order.

    Attributes:
        order: indices of the responses, the best first.
        scores: one per response, in the order of the input.
    """

    order: tuple[int, ...]
    scores: tuple[float, ...]


PAIRS = ScoreScale(objective="pairs")
"""The scale of a head that records none."""


def head_scale(folder: str | Path) -> ScoreScale:
    """Return the scale of the head in a folder, without loading its weights.

    Raises:
        DataError: config.json is missing or broken.
        EngineError: it records a scale that cannot be read.
    """
    return _saved_scale(read_json(Path(folder) / "config.json").get(CONFIG_KEY), str(folder))


def _saved_scale(record: Any, location: str) -> ScoreScale:
    """Return the scale of a head.

    Raises:
        EngineError: it cannot be read.
    """
    try:
        return PAIRS if record is None else ScoreScale.model_validate(record)
    except ValueError as error:
        problem = f"config.json: {CONFIG_KEY} cannot be read: {first_line(error)}"
        raise EngineError(problem, location=location, hint="train the head again") from None


class ScalarRewardModel:
    """A trained head. Of two responses to one context, the better has the higher score.

    In float32 on one machine a score is deterministic. Padding causes rounding differences: `score_batch` and `score`
    agree to about 1e-5.
    """

    def __init__(self, model: Any, tokenizer: Any, device: str, scale: ScoreScale = PAIRS) -> None:
        self.model, self.tokenizer, self.device, self.scale = model, tokenizer, device, scale
        self._chat = (
            ChatEncoder(tokenizer, tokenizer.get_chat_template()) if tokenizer.chat_template else None
        )

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str | None = None) -> ScalarRewardModel:
        """Load a head from a folder: safetensors only, without code from the checkpoint and without network.

        Args:
            path: a local folder with config.json, tokenizer files and safetensors weights.
            device: a torch device; by default CUDA if available, else the CPU.

        Raises:
            EngineError: the folder is missing, is not a model, has no trained head, or has more than one logit.
        """
        location = str(path)
        if not Path(path, "config.json").is_file():
            problem = "not a model: no config.json" if Path(path).is_dir() else "directory not found"
            raise EngineError(problem, location=location, hint="give the folder of a trained head")
        import torch

        try:
            model, loading = load_checkpoint(
                "AutoModelForSequenceClassification",
                location,
                local_files_only=True,
                output_loading_info=True,
            )
            tokenizer = load_checkpoint("AutoTokenizer", location, local_files_only=True)
            if not tokenizer.chat_template:
                read_as_text(tokenizer)
        except EngineError:
            raise
        # transformers, safetensors and json raise their own kinds for a broken folder
        except Exception as error:
            raise EngineError(
                f"cannot load the model: {first_line(error)}", location=location, hint="train it again"
            ) from error
        scale = _saved_scale(getattr(model.config, CONFIG_KEY, None), location)
        if model.config.num_labels != scale.logits:
            problem = (
                f"the model has {model.config.num_labels} logits, a {scale.objective} head has {scale.logits}"
            )
            hint = "train it with num_labels=1"
        elif loading["missing_keys"]:
            problem = f"the weights lack {', '.join(sorted(loading['missing_keys']))}"
            hint = "give a trained head, not its base"
        elif tokenizer.pad_token_id is None:
            problem, hint = "the tokenizer has no padding token", "set pad_token and save it"
        else:
            positions = getattr(model.config, "max_position_embeddings", None)
            if positions and tokenizer.model_max_length > UNLIMITED:  # another suite's head
                tokenizer.model_max_length = positions
            if model.config.pad_token_id is None:
                model.config.pad_token_id = tokenizer.pad_token_id
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
            return cls(model.to(device).eval(), tokenizer, device, scale)
        raise EngineError(problem, location=location, hint=hint)

    def score(self, context: str | Sequence[Message], response: str) -> float:
        """Return the score of one response.

        Args:
            context: what is answered: a string, which is one user turn, or the turns up to the last user turn.
            response: the answer.

        Raises:
            EngineError: the score is not finite.
        """
        return self.score_batch([context], [response])[0]

    def score_batch(
        self, contexts: Sequence[str | Sequence[Message]], responses: Sequence[str], batch_size: int = 32
    ) -> list[float]:
        """Return one score per (context, response), in the order of the input.

        4,096 pairs are tokenized at a time, so memory does not grow with their number except for the scores; a batch
        holds pairs of similar length, padded to the longest.

        Args:
            contexts, responses: of one length; see `score`.
            batch_size: pairs per forward pass.

        Raises:
            DataError: a context and its response have no token.
            EngineError: a score is not finite.
        """
        return self.scale.scores(self._logits(contexts, responses, batch_size))

    def criterion_scores(
        self, contexts: Sequence[str | Sequence[Message]], responses: Sequence[str], batch_size: int = 32
    ) -> list[dict[str, float]]:
        """Return criterion -> score on the criterion's scale, per response; see `score_batch`.

        The mappings are empty if the head has no logit per criterion.
        """
        return self.scale.criterion_scores(self._logits(contexts, responses, batch_size))

    def _logits(
        self, contexts: Sequence[str | Sequence[Message]], responses: Sequence[str], batch_size: int
    ) -> list[list[float]]:
        pairs = list(zip(contexts, responses, strict=True))
        logits: list[list[float]] = []
        for start in range(0, len(pairs), WINDOW):
            logits += self._window_logits(pairs[start : start + WINDOW], batch_size)
        return logits

    def _window_logits(
        self, pairs: Sequence[tuple[str | Sequence[Message], str]], batch_size: int
    ) -> list[list[float]]:
        import torch

        encoded = (
            [self._chat_row(*pair) for pair in pairs] if self._chat else encode_batch(self.tokenizer, pairs)
        )
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]["input_ids"]))
        if order and not encoded[order[0]]["input_ids"]:
            hint = "give a context or a response with a character"
            raise DataError("there is nothing to score: no token", location="context", hint=hint)
        rows: list[list[float]] = [[]] * len(encoded)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            padded = self.tokenizer.pad([encoded[i] for i in batch], return_tensors="pt").to(self.device)
            with torch.inference_mode():
                logits = self.model(**padded).logits
            for i, row in zip(batch, logits.float().tolist(), strict=True):
                rows[i] = row
        if not all(math.isfinite(value) for row in rows for value in row):
            hint = "train the head again with a lower learning rate"
            raise EngineError("the scores are not finite", location=self.model.name_or_path, hint=hint)
        return rows

    def _chat_row(self, context: str | Sequence[Message], response: str) -> dict[str, Any]:
        ids = self._chat_ids(context, response)[: self.tokenizer.model_max_length]
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}

    def _chat_ids(self, context: str | Sequence[Message], response: str) -> list[int]:
        assert self._chat is not None
        turns: list[Message] = (
            [{"role": "user", "content": context}] if isinstance(context, str) else [*context]
        )
        return self._chat.encode([*turns, {"role": "assistant", "content": response}], generation=False)

    def rank(self, context: str | Sequence[Message], responses: Sequence[str]) -> ScoreRanking:
        """Return several responses to one context, the best first; equal scores in the order of the input.

        Raises:
            ConfigError: no responses.
            EngineError: a score is not finite.
        """
        if not responses:
            hint = "give at least one response"
            raise ConfigError("there is nothing to rank", location="responses", hint=hint)
        texts = list(dict.fromkeys(responses))  # equal texts get equal scores: each is scored once
        score_by_text = dict(zip(texts, self.score_batch([context] * len(texts), texts), strict=True))
        scores = [score_by_text[text] for text in responses]
        order = sorted(range(len(responses)), key=lambda i: -scores[i])
        return ScoreRanking(tuple(order), tuple(scores))

    def best_of_n(
        self,
        context: str | Sequence[Message],
        responses: Sequence[str] | None = None,
        *,
        n: int | None = None,
        engine: CandidateSource | None = None,
    ) -> BestOfN:
        """Return the best of several responses, which are given, or sampled from a model.

        Args:
            context: what is answered; see `score`.
            responses: the candidates.
            n: number of candidates to sample from `engine`, instead of `responses`.
            engine: the model, such as `AnswerEngine` (`answers/model.py`).

        Raises:
            ConfigError: no candidates, or not exactly one of `responses` and `engine` with `n`.
            EngineError: a score is not finite, or the engine fails.
        """
        if (responses is None) == (engine is None) or (n is None) != (engine is None):
            hint = "give responses, or n and engine"
            raise ConfigError("the candidates are not clear", location="best_of_n", hint=hint)
        texts = engine.candidates(context, n) if engine is not None and n is not None else responses or ()
        ranking = self.rank(context, texts)
        return BestOfN(tuple(texts), ranking.scores, ranking.order)

    def lengths(self, context: str | Sequence[Message], response: str) -> tuple[int, bool]:
        """Return how many tokens a response has, and whether it and its context are cut to fit."""
        chat = self._chat_ids(context, response) if self._chat else None
        pair = chat or encode(self.tokenizer, context, response, None)["input_ids"]
        response_only = self.tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"]
        return len(response_only), len(pair) > self.tokenizer.model_max_length

    def tokens(self, context: str | Sequence[Message], response: str) -> int:
        """Return how many tokens the model reads of a response and its context, special tokens included."""
        limit = self.tokenizer.model_max_length
        if self._chat:
            return min(len(self._chat_ids(context, response)), limit)
        return len(encode(self.tokenizer, context, response, limit)["input_ids"])
