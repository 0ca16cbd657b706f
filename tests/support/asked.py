"""A judge that is asked as the stages ask it."""

from __future__ import annotations

from collections.abc import Sequence

from reasongenrm.engines.base import Engine
from reasongenrm.judge.ask import ask_all, read_all
from reasongenrm.judge.verdicts import VerdictTask
from reasongenrm.records import JudgePrompt, Verdict
from reasongenrm.store import PartStore


def judge(
    prompts: Sequence[JudgePrompt],
    engine: Engine,
    asker: VerdictTask,
    store: PartStore,
    *,
    adapter: str | None = None,
) -> list[Verdict]:
    ask_all(prompts, engine, asker, store, adapter=adapter)
    return read_all(prompts, asker, store)
