"""Held-out prompts: a share of the prompts, selected by the hash of their content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reasongenrm.errors import ConfigError
from reasongenrm.records import PreferencePair, content_id, unit_hash


def held_out(prompts: Iterable[str], share: float, seed: int) -> set[str]:
    """Return the ids of the held-out prompts: those with the lowest hashes, in whatever order they come.

    Args:
        prompts: content ids; a repeated one counts once.
        share: of the prompts, in [0, 1); of a share above 0 at least one is held out, and never all.
        seed: of the hashes.

    Raises:
        ConfigError: the share is above 0, and there are fewer than two prompts.
    """
    distinct = sorted(set(prompts), key=lambda prompt: (unit_hash(seed, "held out", prompt), prompt))
    if not share:
        return set()
    if len(distinct) < 2:
        raise ConfigError(
            f"{len(distinct)} prompt(s): too few to hold one out",
            location="scalar.validation",
            hint="give answers to two prompts or more, or set 0",
        )
    return set(distinct[: min(len(distinct) - 1, max(1, round(share * len(distinct))))])


def split_pairs(
    pairs: Sequence[PreferencePair], share: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Return the pairs to train on and the held-out ones, each in their order; a prompt's pairs stay together.

    Raises:
        ConfigError: see `held_out`.
    """
    validation = held_out((prompt_id(pair) for pair in pairs), share, seed)
    return (
        [pair for pair in pairs if prompt_id(pair) not in validation],
        [pair for pair in pairs if prompt_id(pair) in validation],
    )


def prompt_id(pair: PreferencePair) -> str:
    """Return the content hash of a pair's history."""
    return content_id(pair.history)
