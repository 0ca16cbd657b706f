"""`GET /metrics`: what a judge's server has done, in Prometheus' text format."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reasongenrm.judge.sharing import QueuedJudge

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 150, 600)
"""Upper bounds of the latency histogram, in seconds: of a toy judge to one that thinks for minutes."""

OTHER = "other"
"""Label of requests that reached no route: refused before, or to an unknown path."""


class Metrics:
    """Metrics of one app.

    Args:
        judge: whose counts and load are read whenever somebody looks.

    Attributes:
        registry: prometheus_client's; other parts of the app register their own metrics here.
        rewards_unread: counter of rewards without a value.
    """

    def __init__(self, judge: QueuedJudge) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "reasongenrm_requests", "HTTP requests.", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "reasongenrm_request_seconds",
            "From the header of an HTTP request to the end of its answer.",
            ["route"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.rewards_unread = Counter(
            "reasongenrm_rewards_unread", "Rewards without a value.", registry=registry
        )
        waiting = "Requests to the judge that have not begun."
        self.watch_load("reasongenrm_waiting", waiting, lambda: judge.waiting)
        self.watch_load("reasongenrm_running", "Requests that the judge works on.", lambda: judge.running)
        for name, text in _JUDGE_COUNTS.items():
            self.watch(
                f"reasongenrm_{name}",
                text,
                lambda name=name: {"": judge.counts[name]},  # type: ignore[misc]
            )

    def watch(self, name: str, text: str, values: Callable[[], Mapping[str, float]], label: str = "") -> None:
        """Add a counter whose values are read whenever somebody looks.

        Args:
            name: of the metric.
            text: its help.
            values: returns them, by the value of the label; without a label, under an empty key.
            label: its name.
        """
        self.registry.register(_Watched(name, text, values, label))

    def watch_load(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is read whenever somebody looks."""
        from prometheus_client import Gauge

        Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Return all metrics."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    def note(self, route: str, status: int, seconds: float) -> None:
        """Count an HTTP request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


_JUDGE_COUNTS = {
    "comparisons": "Comparisons with a result.",
    "ratings": "Ratings with a result.",
    "choices": "Choices among several answers with a result.",
    "unread": "Comparisons, ratings and choices without a readable verdict.",
}


@dataclass(frozen=True)
class _Watched:
    """A collector of prometheus_client; see `Metrics.watch`."""

    name: str
    text: str
    values: Callable[[], Mapping[str, float]]
    label: str

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily

        family = CounterMetricFamily(self.name, self.text, labels=[self.label] if self.label else [])
        for key, value in self.values().items():
            family.add_metric([key] if self.label else [], value)
        yield family


class Measured:
    """ASGI middleware that counts requests and their time, per route.

    Args:
        app: the ASGI app.
        metrics: where they are counted.
    """

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_noting(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_noting)
        finally:
            route = getattr(scope.get("route"), "path", OTHER)
            self.metrics.note(route, status, time.perf_counter() - began)
