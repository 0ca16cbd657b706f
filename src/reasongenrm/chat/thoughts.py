"""Thoughts of a reasoning model: the block between think tags before its answer (Qwen3, QwQ, DeepSeek-R1)."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


def with_thoughts(thoughts: str, answer: str | None) -> str:
    """Return thoughts that a server cut out and an answer as the model wrote them; no answer: the thoughts have no end."""
    opened = f"{OPEN}\n{thoughts.strip()}"
    return opened if answer is None else f"{opened}\n{CLOSE}\n\n{answer.lstrip()}"


def split_thoughts(text: str) -> tuple[str, str | None]:
    """Return the thoughts of a text, without their tags, and the answer behind them.

    The opening tag may be missing: chat templates such as QwQ's end in it. The last closing tag is the model's own,
    because thoughts may quote one from a text that they judge.

    Returns:
        `("", text)` for a text without thoughts; None in place of an answer where the thoughts have no end.
    """
    thoughts, closed, answer = text.rpartition(CLOSE)
    opened = text.lstrip().startswith(OPEN)
    if not closed:
        return (text.lstrip().removeprefix(OPEN).strip(), None) if opened else ("", text)
    return thoughts.lstrip().removeprefix(OPEN).strip(), answer.strip()
