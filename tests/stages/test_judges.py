"""Engines of stage 3: one runs at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from reasongenrm.config.engines import ModelConfig
from reasongenrm.engines.base import Engine, Request
from reasongenrm.records import Completion
from reasongenrm.stages.judges import EngineSlot

pytestmark = pytest.mark.unit


class Counted(Engine):
    """An engine that says when it is closed."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events
        events.append(f"start {name}")

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        return iter(())

    def close(self) -> None:
        self.events.append(f"close {self.name}")


def test_an_engine_is_closed_before_the_next_one_starts() -> None:
    events: list[str] = []
    slot = EngineSlot(lambda model: Counted(model.path, events))
    base, tuned = ModelConfig(path="base"), ModelConfig(path="tuned")
    assert slot.engine(tuned) is slot.engine(tuned)
    slot.engine(base)
    slot.close()
    slot.close()
    assert events == ["start tuned", "close tuned", "start base", "close base"]
    slot.engine(base)
    assert events[-1] == "start base", "it may start again"


def test_an_engine_that_cannot_start_leaves_none() -> None:
    events: list[str] = []

    def start(model: ModelConfig) -> Engine:
        if model.path == "broken":
            raise RuntimeError("no memory")
        return Counted(model.path, events)

    slot = EngineSlot(start)
    slot.engine(ModelConfig(path="base"))
    with pytest.raises(RuntimeError, match="no memory"):
        slot.engine(ModelConfig(path="broken"))
    slot.close()
    assert events == ["start base", "close base"]
