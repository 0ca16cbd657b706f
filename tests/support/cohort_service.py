"""A service of rewards whose judge is a function: the real app without an engine, in this process or in one that can be killed."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from typing import Any

from reasongenrm.service.bodies import DEFAULT_LIMITS
from reasongenrm.service.reward_options import RewardOptions
from reasongenrm.service.serve import serve_app
from reasongenrm.service.server import create_app
from support.scripted_judge import QualityJudge


class Standin:
    """Has what the routes need of a `SharedJudge`: the longer answer is better, and one with a question mark cannot be read.

    While `held`, requests wait until `release`. An answer "dead" is an error of the engine.
    """

    adapter, waiting, running = None, 0, 0

    def __init__(self) -> None:
        self._judge, self._held = QualityJudge(), list[tuple[Future[Any], str, list[Any]]]()
        self.counts = dict.fromkeys(("requests", "comparisons", "ratings", "choices", "unread"), 0)
        self.held = False

    @property
    def calls(self) -> list[list[Any]]:
        return [rows for _, rows in self._judge.calls]

    def check_room(self, limit: int) -> None:
        """There is always room."""

    def submit(self, rows: Any, *, alone: bool = False) -> Future[Any]:
        return self._submit("compare_many", rows)

    def submit_ratings(self, rows: Any, *, alone: bool = False) -> Future[Any]:
        return self._submit("rate_many", rows)

    def submit_choices(self, rows: Any) -> Future[Any]:
        return self._submit("choose_many", rows)

    def release(self) -> None:
        self.held = False
        while self._held:
            self._answer(*self._held.pop(0))

    def _submit(self, method: str, rows: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._held.append((future, method, list(rows)))
        if not self.held:
            self.release()
        return future

    def _answer(self, future: Future[Any], method: str, rows: list[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        if any("dead" in row[1:] for row in rows):
            future.set_exception(RuntimeError("the engine died"))
        else:
            future.set_result(list(getattr(self._judge, method)(rows)))


def service(judge: Standin, options: RewardOptions, **settings: Any) -> Any:
    """Return the app."""
    return create_app(judge, rewards=options, ends=("<|im_end|>",), **settings)  # type: ignore[arg-type]


if __name__ == "__main__":
    port, cohort, timeout = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])

    def create(judge: Standin, key: str | None, hosts: Any) -> Any:
        return service(judge, RewardOptions(cohort=cohort, timeout=timeout), limits=DEFAULT_LIMITS)

    serve_app(lambda stack: Standin(), create, "judge", "127.0.0.1", port, api_key_env=None, allow_remote=False,
              model=None)  # fmt: skip
