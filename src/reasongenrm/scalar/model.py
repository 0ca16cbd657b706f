"""The trained scalar head: one number per (prompt, response), the same as plain transformers gives.

The contract, kept by training (`train/scalar.py`) and serving alike:

    tokens = tokenizer(prompt_text(prompt), response, return_tensors="pt", truncation=True, max_length=512)
    score = AutoModelForSequenceClassification.from_pretrained(folder)(**tokens).logits.item()
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongenrm.errors import ConfigError, EngineError, first_line
from reasongenrm.records import Message

MAX_LENGTH = 512
"""Tokens of prompt and response together, special tokens included: what DistilBERT takes."""


WINDOW = 4096
"""Pairs that are tokenised and sorted together."""


MODEL_INPUTS = ["input_ids", "attention_mask"]
"""What the model is fed. RewardTrainer feeds no `token_type_ids`, so the saved tokenizer must not make them
either, or a BERT base would be served something other than it was trained on."""


def prompt_text(prompt: str | Sequence[Message]) -> str:
    """Return the prompt as the string that is tokenised.

    A string is itself, and a single user turn is its bare text; longer histories are their turns as
    `role: text`, an empty line between them.
    """
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def load_base_tokenizer(model: str, revision: str | None, max_length: int) -> Any:
    """Load a base model's tokenizer as the head will be served with it; training saves it with the head.

    Raises:
        ConfigError: the base takes fewer than `max_length` tokens.
        EngineError: there is no such model.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(model, revision=revision)
        # split_special_tokens: a "[SEP]" in an answer is text, in training and (as it is saved) in serving.
        tokenizer = AutoTokenizer.from_pretrained(
            model, revision=revision, model_input_names=MODEL_INPUTS, split_special_tokens=True
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
    if tokenizer.eos_token is None:  # BERT-like: RewardTrainer wants one, and falls back on it for padding
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def encode(
    tokenizer: Any, prompt: str | Sequence[Message], response: str, max_length: int | None
) -> dict[str, Any]:
    """Return one pair's tokens (lists, no padding), as training and serving both use them.

    What is too long is cut from the end of the longer of the two texts, token by token (`longest_first`), so
    a short answer to a long prompt stays whole.

    Args:
        max_length: tokens to keep, special tokens included; None keeps all (to see what would be cut).
    """
    return tokenizer(
        prompt_text(prompt),
        response,
        truncation=max_length is not None,
        max_length=max_length,
        verbose=False,  # without it, an untruncated long text warns once per process
    )


def _encode_many(
    tokenizer: Any, pairs: Sequence[tuple[str | Sequence[Message], str]]
) -> list[dict[str, Any]]:
    """Return what `encode` does of each pair; the tokenizer does most at once, on every core."""
    # Alone, an empty response is taken for none and gets no separator; among several it would get one.
    found = {at: dict(encode(tokenizer, *pair, MAX_LENGTH)) for at, pair in enumerate(pairs) if not pair[1]}
    others = [at for at in range(len(pairs)) if at not in found]
    if others:
        columns = tokenizer(
            [prompt_text(pairs[at][0]) for at in others],
            [pairs[at][1] for at in others],
            truncation=True,
            max_length=MAX_LENGTH,
            verbose=False,
        )
        for place, at in enumerate(others):
            found[at] = {name: values[place] for name, values in columns.items()}
    return [found[at] for at in range(len(pairs))]


@dataclass(frozen=True, slots=True)
class Ranked:
    """Several responses to one prompt.

    Attributes:
        order: their places, the best first.
        scores: one each, in the order given.
    """

    order: tuple[int, ...]
    scores: tuple[float, ...]


class ScalarRewardModel:
    """A trained head. Of two answers to one prompt, the better has the higher score.

    In float32 on one machine a score is deterministic. Padding changes a score by rounding only:
    `score_batch` and `score` agree to about 1e-5.
    """

    def __init__(self, model: Any, tokenizer: Any, device: str) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, device

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str | None = None) -> ScalarRewardModel:
        """Load a head from a folder: safetensors only, no code of the checkpoint's own, no network.

        Args:
            path: a local folder with config.json, tokenizer files and safetensors weights.
            device: a torch device; by default CUDA where there is one, else the CPU.

        Raises:
            EngineError: no such folder, not a model, a head that was not trained, or more than one logit.
        """
        location = str(path)
        if not Path(path).is_dir():
            raise EngineError(
                "no such folder", location=location, hint="train a scalar head, or correct the path"
            )
        if not (Path(path) / "config.json").is_file():
            raise EngineError(
                "not a model: no config.json", location=location, hint="give the folder a training left"
            )
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                location, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(location, local_files_only=True)
        except (
            Exception
        ) as error:  # transformers, safetensors and json raise their own kinds for a broken folder
            raise EngineError(
                f"cannot load the model: {first_line(error)}", location=location, hint="train it again"
            ) from error
        if model.config.num_labels != 1:
            raise EngineError(
                f"the model has {model.config.num_labels} logits, a scalar head has one",
                location=location,
                hint="train it with num_labels=1",
            )
        if loading["missing_keys"]:
            names = ", ".join(sorted(loading["missing_keys"]))
            raise EngineError(
                f"the weights lack {names}", location=location, hint="give a trained head, not its base"
            )
        if tokenizer.pad_token_id is None:
            raise EngineError(
                "the tokenizer has no padding token", location=location, hint="set pad_token and save it"
            )
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.to(device).eval(), tokenizer, device)

    def score(self, prompt: str | Sequence[Message], response: str) -> float:
        """Return the score of one response to a prompt (a string, or the turns up to the last user turn)."""
        return self.score_batch([prompt], [response])[0]

    def score_batch(
        self, prompts: Sequence[str | Sequence[Message]], responses: Sequence[str], batch_size: int = 32
    ) -> list[float]:
        """Return one score per (prompt, response), in the order given.

        Pairs are taken 4,096 at a time, so memory does not grow with their number but for the scores; batches are made
        of pairs of similar length and padded to their longest.

        Args:
            prompts, responses: of one length.
            batch_size: pairs per forward pass.

        Raises:
            EngineError: a score is not finite.
        """
        pairs = list(zip(prompts, responses, strict=True))
        scores: list[float] = []
        for start in range(0, len(pairs), WINDOW):
            scores += self._scored(pairs[start : start + WINDOW], batch_size)
        return scores

    def _scored(self, pairs: Sequence[tuple[str | Sequence[Message], str]], batch_size: int) -> list[float]:
        import torch

        encoded = _encode_many(self.tokenizer, pairs)
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
            raise EngineError(
                "the model gives scores that are not finite", hint="train it again, with a lower rate"
            )
        return scores

    def rank(self, prompt: str | Sequence[Message], responses: Sequence[str]) -> Ranked:
        """Return several responses to one prompt, the best first; equal ones in the order given.

        Raises:
            ConfigError: no responses.
            EngineError: a score is not finite.
        """
        if not responses:
            raise ConfigError("there is nothing to rank", hint="give one response or more")
        scores = self.score_batch([prompt] * len(responses), responses)
        order = sorted(range(len(responses)), key=lambda i: -scores[i])
        return Ranked(tuple(order), tuple(scores))

    def best_of_n(self, prompt: str | Sequence[Message], responses: Sequence[str]) -> tuple[int, str]:
        """Return the place of the best of several responses to one prompt, and its text; of equal ones the first.

        Raises:
            ConfigError: no responses.
            EngineError: a score is not finite.
        """
        best = self.rank(prompt, responses).order[0]
        return best, responses[best]

    def lengths(self, prompt: str | Sequence[Message], response: str) -> tuple[int, bool]:
        """Return how many tokens a response has, and whether it and its prompt are cut to fit."""
        whole = encode(self.tokenizer, prompt, response, None)["input_ids"]
        alone = self.tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"]
        return len(alone), len(whole) > MAX_LENGTH
