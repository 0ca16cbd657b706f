"""Held-out prompts: a share of the prompts of every source, selected by the hash of their content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reasongenrm.errors import ConfigError
from reasongenrm.records import Conversation, PreferencePair, content_id, unit_hash


def split_pairs(
    pairs: Sequence[PreferencePair], share: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Return the pairs to train on and the held-out ones, each in their order; a prompt's pairs stay together.

    The held-out prompts are those with the lowest hashes of each source, in whatever order they come; each source has its
    share of them, give or take one. A prompt of several sources counts as one of the first in the alphabet.

    Args:
        share: of the prompts, in [0, 1); of a share above 0 at least one is held out, and never all.
        seed: of the hashes.

    Raises:
        ConfigError: the share is above 0, and there are fewer than two prompts.
    """
    if not share:
        return list(pairs), []
    source_by_prompt: dict[str, str] = {}
    for pair in pairs:
        prompt = content_id(pair.history)
        source_by_prompt[prompt] = min(pair.source, source_by_prompt.get(prompt, pair.source))
    count = len(source_by_prompt)
    if count < 2:
        raise ConfigError(
            f"{count} prompt(s): too few to hold one out",
            location="scalar.validation",
            hint="give answers to two prompts or more, or set 0",
        )
    by_hash = sorted(source_by_prompt, key=lambda prompt: (unit_hash(seed, "held out", prompt), prompt))
    prompts_by_source: dict[str, list[str]] = {source: [] for source in sorted({*source_by_prompt.values()})}
    for prompt in by_hash:
        prompts_by_source[source_by_prompt[prompt]].append(prompt)
    total = min(count - 1, max(1, round(share * count)))
    held_out: set[str] = set()
    seen = 0
    for prompts in prompts_by_source.values():
        seen += len(
            prompts
        )  # rounded over all sources so far: many sources of one prompt have their share too
        held_out.update(prompts[: round(total * seen / count) - len(held_out)])
    return (
        [pair for pair in pairs if content_id(pair.history) not in held_out],
        [pair for pair in pairs if content_id(pair.history) in held_out],
    )


class ConversationSplit(NamedTuple):
    """Rows to train on, to stop training by, and for the final evaluation."""

    train: list[Conversation]
    validation: list[Conversation]
    test: list[Conversation]


def conversation_key(row: Conversation) -> str:
    """Return what replies to one message in one context have in common."""
    return content_id(row.context, row.message)


def _folded(row: Conversation) -> str:
    """Return what conversations have in common that differ in white space alone."""
    return content_id(" ".join(row.context.split()), " ".join(row.message.split()))


def split_conversations(
    rows: Sequence[Conversation], validation: float, test: float, seed: int
) -> ConversationSplit:
    """Return three parts of the rows, each in their order; all replies to a message in a context stay together.

    Conversations that differ in white space alone stay together, too: a head would be tested on texts that it has learned. The
    conversations with the lowest hashes are held out, in whatever order the rows come.

    Args:
        rows: all conversations, judged or not, so that a failed judgment moves no other row.
        validation, test: shares of the conversations (same context and message); of a share above 0 at least one is held out.
        seed: of the hashes.

    Raises:
        ConfigError: nothing is left to train on.
    """
    key_by_text: dict[str, str] = {}
    for row in rows:
        text, key = _folded(row), conversation_key(row)
        key_by_text[text] = min(key, key_by_text.get(text, key))
    keys = sorted(key_by_text.values(), key=lambda key: (unit_hash(seed, "held out", key), key))
    sizes = [max(1, round(share * len(keys))) if share else 0 for share in (test, validation)]
    if sum(sizes) >= len(keys):
        raise ConfigError(
            f"{len(keys)} conversation(s): too few to hold out {sum(sizes)}",
            location="split",
            hint="give more conversations with different contexts or messages",
        )
    tested, validated = set(keys[: sizes[0]]), set(keys[sizes[0] : sum(sizes)])
    parts = ConversationSplit([], [], [])
    for row in rows:
        key = key_by_text[_folded(row)]
        place = parts.test if key in tested else parts.validation if key in validated else parts.train
        place.append(row)
    return parts
