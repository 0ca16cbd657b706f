"""What is held out: whole prompts, as a function of their content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reasongenrm.errors import ConfigError
from reasongenrm.records import PreferencePair, content_id, unit_hash


def held_out(prompts: Iterable[str], share: float, seed: int) -> set[str]:
    """Return the ids of the prompts that are held out: those of the smallest hashes, whatever order they come in.

    Args:
        prompts: content ids; what stands there twice counts once.
        share: of the prompts, in [0, 1); of a share above 0 at least one is held out, and never all.
        seed: of the hashes.

    Raises:
        ConfigError: there is a share, and only one prompt.
    """
    distinct = sorted(set(prompts), key=lambda prompt: (unit_hash(seed, "held out", prompt), prompt))
    if not share:
        return set()
    if len(distinct) < 2:
        raise ConfigError(
            f"{len(distinct)} prompt(s): none can be held out",
            location="scalar.validation",
            hint="give answers to two prompts or more, or set 0",
        )
    return set(distinct[: min(len(distinct) - 1, max(1, round(share * len(distinct))))])


def split_pairs(
    pairs: Sequence[PreferencePair], share: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Return the pairs to train on and those held out, each in their order; all pairs of a prompt stand on one side.

    Raises:
        ConfigError: see `held_out`.
    """
    out = held_out((prompt_id(pair) for pair in pairs), share, seed)
    kept = [pair for pair in pairs if prompt_id(pair) not in out]
    return kept, [pair for pair in pairs if prompt_id(pair) in out]


def prompt_id(pair: PreferencePair) -> str:
    """Return the content hash of a pair's history."""
    return content_id(pair.history)
