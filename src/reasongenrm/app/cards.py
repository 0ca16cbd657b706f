"""HTML of prompts, answers and keys in the tabs Rank and Label; judged text is shown as text."""

from __future__ import annotations

from collections.abc import Sequence

from reasongenrm.app.notices import text_html
from reasongenrm.records import Message


def turns_html(turns: Sequence[Message], criteria: str = "") -> str:
    """Return a conversation.

    Args:
        turns: of the prompt.
        criteria: by which its answers are compared; empty for none.
    """
    parts = [("criteria", criteria)] * bool(criteria) + [(turn["role"], turn["content"]) for turn in turns]
    return "".join(f'<div class="turn">{_part(text_html(role), text)}</div>' for role, text in parts)


def answers_html(answers: Sequence[tuple[str, str]]) -> str:
    """Return answers as a grid of cards.

    Args:
        answers: head of the card, as HTML, and text of the answer.
    """
    cards = "".join(f'<div class="answer">{_part(head, text)}</div>' for head, text in answers)
    return f'<div class="answers">{cards}</div>'


def _part(head: str, text: str) -> str:
    return f'<div class="head">{head}</div><div class="text" dir="auto">{text_html(text)}</div>'


def keys_html(keys: Sequence[tuple[str, str]]) -> str:
    """Return a line that says what each key does.

    Args:
        keys: key and effect.
    """
    parts = (f"<kbd>{text_html(key)}</kbd> {text_html(effect)}" for key, effect in keys)
    return f'<p class="keys">{"; ".join(parts)}</p>'


def lines_html(lines: Sequence[str]) -> str:
    """Return lines of text."""
    return f'<p class="lines" role="status">{text_html(chr(10).join(lines))}</p>'
