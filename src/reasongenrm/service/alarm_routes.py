"""`POST /alarm`: a trainer in another process shows the checks of its `HackingWatch` in the server's `/metrics`."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_RUNS = 100
"""Runs that one server shows: each is a label, which Prometheus and this process keep. One more replaces the run that was updated
longest ago.
"""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number that a gauge, which is a float, shows exactly."""

Share = Annotated[float, Field(ge=0, le=1)]


class Means(BaseModel):
    """Means over the held-out prompts; see `metrics.hacking.MEASURES`.

    Attributes:
        reward: of the training, in the trainer's own unit.
        judge, second, agreement: in [0, 1].
    """

    model_config = ConfigDict(extra="forbid")
    reward: float | None = Field(None, allow_inf_nan=False)
    judge: Share | None = None
    second: Share | None = None
    agreement: Share | None = None

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if not self.values:
            raise ValueError("give the mean of at least one measure")
        return self

    @property
    def values(self) -> dict[str, float]:
        """Measure -> its mean, of those that were measured."""
        return self.model_dump(exclude_none=True)


class AlarmRequest(BaseModel):
    """A check of a run.

    Attributes:
        run: name of the run, such as its folder.
        step: of the trainer.
        means: of the measures, at least one.
        alarms: number of measures that have fallen while the reward rose; 0: all is well.
    """

    model_config = ConfigDict(extra="forbid")
    run: str = Field(min_length=1, max_length=1000)
    step: Count
    means: Means
    alarms: Count


class AlarmReply(BaseModel):
    """The check is shown.

    Attributes:
        runs: number of runs that the server shows.
    """

    runs: int


def add_alarm_route(app: Any, registry: Any) -> None:
    """Add the route and its gauges.

    Args:
        app: the FastAPI app.
        registry: prometheus_client's.
    """
    from prometheus_client import Gauge

    mean = Gauge(
        "reasongenrm_held_out", "Mean of a measure on held-out prompts.", ["run", "measure"], registry=registry
    )  # fmt: skip
    step = Gauge("reasongenrm_held_out_step", "Step of the last check.", ["run"], registry=registry)
    alarms = Gauge(
        "reasongenrm_hacking_alarms", "Measures that have fallen while the reward rose.", ["run"], registry=registry
    )  # fmt: skip
    shown: dict[str, set[str]] = {}  # run -> its measures; the run that was updated last is the last one

    def forget(run: str) -> None:
        for measure in shown.pop(run):
            mean.remove(run, measure)
        step.remove(run)
        alarms.remove(run)

    @app.post("/alarm", summary="Show a check of a trainer's held-out prompts in /metrics")
    async def alarm(body: AlarmRequest) -> AlarmReply:
        if body.run not in shown and len(shown) >= MOST_RUNS:
            forget(next(iter(shown)))
        shown[body.run] = shown.pop(body.run, set()) | set(body.means.values)
        for measure, value in body.means.values.items():
            mean.labels(body.run, measure).set(value)
        step.labels(body.run).set(body.step)
        alarms.labels(body.run).set(body.alarms)
        return AlarmReply(runs=len(shown))
