"""Ask a judge as the stages do."""

from __future__ import annotations

from collections.abc import Sequence

from reasongenrm.engines.base import Engine
from reasongenrm.judge.ask import VerdictTask, ask_all, read_all
from reasongenrm.records import JudgePrompt, Verdict
from reasongenrm.store import PartStore


def judge(
    prompts: Sequence[JudgePrompt],
    engine: Engine,
    task: VerdictTask,
    store: PartStore,
    *,
    adapter: str | None = None,
) -> list[Verdict]:
    ask_all(prompts, engine, task, store, adapter=adapter)
    return read_all(prompts, task, store)
