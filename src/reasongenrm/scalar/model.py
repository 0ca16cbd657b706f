"""The trained scalar head: one number per (prompt, response), equal to that of plain transformers.

Training (`train/scalar.py`) and serving both follow this contract:

    tokens = tokenizer(prompt_text(prompt), response, return_tensors="pt", truncation=True)
    score = AutoModelForSequenceClassification.from_pretrained(folder)(**tokens).logits.item()

The limit in tokens is the tokenizer's `model_max_length`, saved with the head. A head of another suite whose tokenizer has a
chat template, such as Skywork-Reward, reads the conversation with the response as its last turn under that template.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongenrm.chat.content import read_as_text
from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.folding import break_matches
from reasongenrm.checkpoints import load_checkpoint
from reasongenrm.config.engines import check_model
from reasongenrm.errors import ConfigError, EngineError, first_line
from reasongenrm.records import Message

HEAD_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
"""Files of a head on the hub: weights as safetensors, configuration, tokenizer; no code."""

UNLIMITED = 10**9
"""A tokenizer without a limit has a `model_max_length` above this."""

WINDOW = 4096
"""Pairs that are tokenized and sorted together."""

MODEL_INPUTS = ["input_ids", "attention_mask"]
"""The model's inputs. RewardTrainer passes no `token_type_ids`, so the saved tokenizer must not make them either: a BERT
base would get other inputs in serving than in training."""


_ROLE_HEAD = re.compile(r"^(?:s(?=ystem: )|u(?=ser: )|a(?=ssistant: ))", re.MULTILINE | re.IGNORECASE)
"""First letter of `role: ` at the start of a line; in any case, since many bases are uncased."""


def prompt_text(prompt: str | Sequence[Message]) -> str:
    """Return the prompt as the string that is tokenized.

    A string is a single user turn, which becomes its text; a longer history becomes its turns as `role: text`, separated
    by an empty line. A text that imitates such a turn gets a backslash behind the role's first letter.
    """
    turns = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    texts = [(turn["role"], break_matches(turn["content"], _ROLE_HEAD, "\\")) for turn in turns]
    if len(texts) == 1 and texts[0][0] == "user":
        return texts[0][1]
    return "\n\n".join(f"{role}: {text}" for role, text in texts)


def load_base_tokenizer(model: str, revision: str | None, max_length: int) -> Any:
    """Load a base model's tokenizer with the settings of serving; training saves it with the head.

    Raises:
        ConfigError: the base's limit is below `max_length` tokens.
        EngineError: the base cannot be loaded, or its tokenizer reads structure in texts (`chat/content.py`).
    """
    try:
        config = load_checkpoint("AutoConfig", model, revision=revision)
        # split_special_tokens: a "[SEP]" in an answer is text. It is saved with the tokenizer, so in serving too.
        tokenizer = load_checkpoint(
            "AutoTokenizer",
            model,
            revision=revision,
            model_input_names=MODEL_INPUTS,
            split_special_tokens=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(
            f"cannot load the base model: {first_line(error)}",
            location=model,
            hint="check the id, the revision and the network, or give a local folder",
        ) from error
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and max_length > limit:
        problem = f"{model} takes at most {limit} tokens, not {max_length}"
        raise ConfigError(problem, location="max_length", hint=f"set {limit}")
    if tokenizer.eos_token is None:  # BERT-like: RewardTrainer needs one
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_max_length = max_length
    tokenizer.chat_template = None  # the head reads two texts, not a chat
    read_as_text(tokenizer)
    return tokenizer


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


def encode(
    tokenizer: Any, prompt: str | Sequence[Message], response: str, max_length: int | None
) -> dict[str, Any]:
    """Return the tokens of one pair (lists, no padding), as training and serving use them.

    A long input is cut from the end of the longer of the two texts, token by token (`longest_first`), so a short answer
    to a long prompt stays complete.

    Args:
        max_length: limit in tokens, special tokens included; None: no limit (to see what would be cut).
    """
    return tokenizer(
        prompt_text(prompt),
        response,
        truncation=max_length is not None,
        max_length=max_length,
        verbose=False,  # otherwise a long text that is not truncated causes a warning, once per process
    )


def _encode_batch(
    tokenizer: Any, pairs: Sequence[tuple[str | Sequence[Message], str]]
) -> list[dict[str, Any]]:
    """Return `encode` of each pair; most are tokenized in one call, on all cores."""
    # An empty response gets no separator when it is tokenized alone, but gets one in a batch.
    limit = tokenizer.model_max_length
    encoded = {i: dict(encode(tokenizer, *pair, limit)) for i, pair in enumerate(pairs) if not pair[1]}
    others = [i for i, pair in enumerate(pairs) if pair[1]]
    if others:
        prompts, responses = [prompt_text(pairs[i][0]) for i in others], [pairs[i][1] for i in others]
        columns = tokenizer(prompts, responses, truncation=True, max_length=limit, verbose=False)
        for row, i in enumerate(others):
            encoded[i] = {name: values[row] for name, values in columns.items()}
    return [encoded[i] for i in range(len(pairs))]


@dataclass(frozen=True, slots=True)
class ScoreRanking:
    """Several responses to one prompt in order.

    Attributes:
        order: indices of the responses, the best first.
        scores: one per response, in the order of the input.
    """

    order: tuple[int, ...]
    scores: tuple[float, ...]


class ScalarRewardModel:
    """A trained head. Of two answers to one prompt, the better has the higher score.

    In float32 on one machine a score is deterministic. Padding causes rounding differences: `score_batch` and `score`
    agree to about 1e-5.
    """

    def __init__(self, model: Any, tokenizer: Any, device: str) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, device
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
        if model.config.num_labels != 1:
            problem = f"the model has {model.config.num_labels} logits, a scalar head has one"
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
            return cls(model.to(device).eval(), tokenizer, device)
        raise EngineError(problem, location=location, hint=hint)

    def score(self, prompt: str | Sequence[Message], response: str) -> float:
        """Return the score of one response to a prompt (a string, or the turns up to the last user turn)."""
        return self.score_batch([prompt], [response])[0]

    def score_batch(
        self, prompts: Sequence[str | Sequence[Message]], responses: Sequence[str], batch_size: int = 32
    ) -> list[float]:
        """Return one score per (prompt, response), in the order of the input.

        4,096 pairs are tokenized at a time, so memory does not grow with their number except for the scores; a batch
        holds pairs of similar length, padded to the longest.

        Args:
            prompts, responses: of one length.
            batch_size: pairs per forward pass.

        Raises:
            EngineError: a score is not finite.
        """
        pairs = list(zip(prompts, responses, strict=True))
        scores: list[float] = []
        for start in range(0, len(pairs), WINDOW):
            scores += self._score_window(pairs[start : start + WINDOW], batch_size)
        return scores

    def _score_window(
        self, pairs: Sequence[tuple[str | Sequence[Message], str]], batch_size: int
    ) -> list[float]:
        import torch

        encoded = (
            [self._chat_row(*pair) for pair in pairs] if self._chat else _encode_batch(self.tokenizer, pairs)
        )
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]["input_ids"]))
        scores = [math.nan] * len(encoded)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            padded = self.tokenizer.pad([encoded[i] for i in batch], return_tensors="pt").to(self.device)
            with torch.inference_mode():
                logits = self.model(**padded).logits
            for i, value in zip(batch, logits.float().squeeze(-1).tolist(), strict=True):
                scores[i] = value
        if not all(map(math.isfinite, scores)):
            hint = "train the head again with a lower learning rate"
            raise EngineError("the scores are not finite", location=self.model.name_or_path, hint=hint)
        return scores

    def _chat_row(self, prompt: str | Sequence[Message], response: str) -> dict[str, Any]:
        ids = self._chat_ids(prompt, response)[: self.tokenizer.model_max_length]
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}

    def _chat_ids(self, prompt: str | Sequence[Message], response: str) -> list[int]:
        assert self._chat is not None
        turns: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]
        return self._chat.encode([*turns, {"role": "assistant", "content": response}], generation=False)

    def rank(self, prompt: str | Sequence[Message], responses: Sequence[str]) -> ScoreRanking:
        """Return several responses to one prompt, the best first; equal scores in the order of the input.

        Raises:
            ConfigError: no responses.
            EngineError: a score is not finite.
        """
        if not responses:
            hint = "give at least one response"
            raise ConfigError("there is nothing to rank", location="responses", hint=hint)
        texts = list(dict.fromkeys(responses))  # equal texts get equal scores: each is scored once
        score_by_text = dict(zip(texts, self.score_batch([prompt] * len(texts), texts), strict=True))
        scores = [score_by_text[text] for text in responses]
        order = sorted(range(len(responses)), key=lambda i: -scores[i])
        return ScoreRanking(tuple(order), tuple(scores))

    def best_of_n(self, prompt: str | Sequence[Message], responses: Sequence[str]) -> tuple[int, str]:
        """Return the index and the text of the best response to a prompt; of equal scores the first.

        Raises:
            ConfigError: no responses.
            EngineError: a score is not finite.
        """
        best = self.rank(prompt, responses).order[0]
        return best, responses[best]

    def lengths(self, prompt: str | Sequence[Message], response: str) -> tuple[int, bool]:
        """Return how many tokens a response has, and whether it and its prompt are cut to fit."""
        chat = self._chat_ids(prompt, response) if self._chat else None
        pair = chat or encode(self.tokenizer, prompt, response, None)["input_ids"]
        response_only = self.tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"]
        return len(response_only), len(pair) > self.tokenizer.model_max_length
