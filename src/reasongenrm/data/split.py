"""Held-out prompts: a share of the prompts, selected by the hash of their content."""

from __future__ import annotations

from collections.abc import Sequence

from reasongenrm.errors import ConfigError
from reasongenrm.records import PreferencePair, content_id, unit_hash


def split_pairs(
    pairs: Sequence[PreferencePair], share: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Return the pairs to train on and the held-out ones, each in their order; a prompt's pairs stay together.

    The held-out prompts are those with the lowest hashes, in whatever order they come.

    Args:
        share: of the prompts, in [0, 1); of a share above 0 at least one is held out, and never all.
        seed: of the hashes.

    Raises:
        ConfigError: the share is above 0, and there are fewer than two prompts.
    """
    if not share:
        return list(pairs), []
    prompts = {content_id(pair.history) for pair in pairs}
    if len(prompts) < 2:
        raise ConfigError(
            f"{len(prompts)} prompt(s): too few to hold one out",
            location="scalar.validation",
            hint="give answers to two prompts or more, or set 0",
        )
    by_hash = sorted(prompts, key=lambda prompt: (unit_hash(seed, "held out", prompt), prompt))
    held_out = set(by_hash[: min(len(prompts) - 1, max(1, round(share * len(prompts))))])
    return (
        [pair for pair in pairs if content_id(pair.history) not in held_out],
        [pair for pair in pairs if content_id(pair.history) in held_out],
    )
