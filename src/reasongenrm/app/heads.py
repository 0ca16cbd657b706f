"""`HeadCache`: the trained head whose scores the page shows beside a judge's verdict."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reasongenrm.records import Message

if TYPE_CHECKING:
    from reasongenrm.scalar.model import ScalarRewardModel


class HeadCache:
    """Keeps the head that was used last. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder = ""
        self._head: ScalarRewardModel | None = None

    def scores(self, folder: str, prompt: Sequence[Message], answers: Sequence[str]) -> list[float]:
        """Return the score of each answer to a prompt.

        Args:
            folder: of the trained head, or its hub id.
            prompt: the turns up to and including the last user turn.
            answers: the answers.

        Raises:
            DataError, EngineError: see `ScalarRewardModel`.
        """
        from reasongenrm.scalar.model import ScalarRewardModel, local_head

        with self._lock:
            if self._head is None or self._folder != folder:
                self._head = None  # free the one before
                self._head, self._folder = ScalarRewardModel.from_pretrained(local_head(folder)), folder
            return self._head.score_batch([prompt] * len(answers), answers)
