"""The input sequence of a scalar head: context and response as one string each, and their tokens, in training and in serving."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasongenrm.chat.content import read_as_text
from reasongenrm.chat.delimiters import break_matches
from reasongenrm.checkpoints import load_checkpoint
from reasongenrm.errors import ConfigError, EngineError, first_line
from reasongenrm.records import Message
from reasongenrm.store import write_json

MODEL_INPUTS = ["input_ids", "attention_mask"]
"""The model's inputs. RewardTrainer passes no `token_type_ids`, so the saved tokenizer must not make them either: a BERT
base would get other inputs in serving than in training."""


_ROLE_HEAD = re.compile(r"^(?:s(?=ystem: )|u(?=ser: )|a(?=ssistant: ))", re.MULTILINE | re.IGNORECASE)
"""First letter of `role: ` at the start of a line; in any case, since many bases are uncased."""


def prompt_text(context: str | Sequence[Message]) -> str:
    """Return the context of a response as the string that is tokenized.

    A string is a single user turn, which becomes its text; a longer history becomes its turns as `role: text`, separated
    by an empty line. A text that imitates such a turn gets a backslash behind the role's first letter.
    """
    turns = [Message(role="user", content=context)] if isinstance(context, str) else context
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


VOCABULARY_MODELS = ("WordPiece", "BPE")
"""Models of a tokenizer whose own files older tools read: `vocab.txt`, and `vocab.json` with `merges.txt`."""


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save a tokenizer with a head, also in the files that transformers before version 5 and other tools read.

    These are the vocabulary, where the tokenizer's model has a file of it, and `special_tokens_map.json`; `tokenizer.json`
    holds the same and more, and is what this suite and transformers load.

    Args:
        tokenizer: a fast tokenizer.
        folder: of the head.
    """
    tokenizer.save_pretrained(folder)
    write_json(folder / "special_tokens_map.json", tokenizer.special_tokens_map)
    model = tokenizer.backend_tokenizer.model
    if type(model).__name__ in VOCABULARY_MODELS:
        model.save(str(folder))


def encode(
    tokenizer: Any, context: str | Sequence[Message], response: str, max_length: int | None
) -> dict[str, Any]:
    """Return the tokens of one pair (lists, no padding), as training and serving use them.

    A long input is cut from the end of the longer of the two texts, token by token (`longest_first`), so a short answer
    to a long context stays complete.

    Args:
        max_length: limit in tokens, special tokens included; None: no limit (to see what would be cut).
    """
    return tokenizer(
        prompt_text(context),
        response,
        truncation=max_length is not None,
        max_length=max_length,
        verbose=False,  # otherwise a long text that is not truncated causes a warning, once per process
    )


def encode_batch(
    tokenizer: Any, pairs: Sequence[tuple[str | Sequence[Message], str]]
) -> list[dict[str, Any]]:
    """Return `encode` of each pair; most are tokenized in one call, on all cores."""
    # An empty response gets no separator when it is tokenized alone, but gets one in a batch.
    limit = tokenizer.model_max_length
    encoded = {i: dict(encode(tokenizer, *pair, limit)) for i, pair in enumerate(pairs) if not pair[1]}
    others = [i for i, pair in enumerate(pairs) if pair[1]]
    if others:
        contexts, responses = [prompt_text(pairs[i][0]) for i in others], [pairs[i][1] for i in others]
        columns = tokenizer(contexts, responses, truncation=True, max_length=limit, verbose=False)
        for row, i in enumerate(others):
            encoded[i] = {name: values[row] for name, values in columns.items()}
    return [encoded[i] for i in range(len(pairs))]
