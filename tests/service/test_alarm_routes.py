"""A trainer's held-out checks in the `/metrics` of the judge's server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reasongenrm.judge.remote import RemoteJudge
from reasongenrm.rewards.alarm import HackingWatch
from reasongenrm.service import alarm_routes
from reasongenrm.service.reward_options import RewardOptions
from support.app import running
from support.cohort_service import Standin, service

pytestmark = pytest.mark.unit

CHECK = {"run": "r", "step": 4, "means": {"judge": 0.75}, "alarms": 1}


@pytest.fixture
def url() -> Iterator[str]:
    with running(service(Standin(), RewardOptions())) as address:
        yield address


def gauges(url: str) -> dict[str, float]:
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    rows = [
        line.rsplit(" ", 1) for line in lines if line.startswith(("reasongenrm_held", "reasongenrm_hack"))
    ]
    return {name: float(value) for name, value in rows}


def test_a_watch_with_a_remote_judge_shows_its_checks_in_the_servers_metrics(
    url: str, tmp_path: Path, capfd: Any
) -> None:
    assert gauges(url) == {}
    judge = RemoteJudge(url)
    watch = HackingWatch(
        tmp_path, judge=judge, prompts=["p", "q"], references=["xx", "xx"], second=lambda *_: 0.5
    )
    watch.check(3, ["x", "xx"], rewards=[(1, 0.25)])
    watch.check(6, ["xx", "xx"])
    run = f'run="{tmp_path}"'
    means = {"judge": 0.5, "second": 0.5, "agreement": 1.0, "reward": 0.25}
    assert gauges(url) == {
        f"reasongenrm_held_out_step{{{run}}}": 6, f"reasongenrm_hacking_alarms{{{run}}}": 0,
    } | {f'reasongenrm_held_out{{measure="{name}",{run}}}': value for name, value in means.items()}  # fmt: skip
    assert watch.checks[0].judge[0] == pytest.approx(0.269, abs=1e-3), "the judge was asked over HTTP"


def test_a_server_without_the_route_costs_the_training_nothing(tmp_path: Path, capfd: Any) -> None:
    class Old(RemoteJudge):
        def compare_many(self, rows: Any) -> Any:
            return Standin()._judge.compare_many(rows)

    with running(_without_routes()) as address:
        watch = HackingWatch(tmp_path, judge=Old(address), prompts=["p"], references=["x"])
        watch.check(1, ["xx"])
    out = capfd.readouterr()
    assert "not in the server's /metrics" in out.out + out.err
    assert len((tmp_path / "alarm.jsonl").read_text().splitlines()) == 1


def _without_routes() -> Any:
    from fastapi import FastAPI

    return FastAPI()


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1},
        {"step": 2**53 + 1},
        {"means": {"x": 1}},
        {"means": {}},
        {"means": {"judge": 1.01}},
        {"means": {"agreement": -0.01}},
        {"alarms": None},
        {"run": ""},
        {"y": 1},
    ],
)
def test_an_invalid_check_is_refused(url: str, change: dict[str, Any]) -> None:
    answer = httpx.post(f"{url}/alarm", json=CHECK | change, trust_env=False)
    assert answer.status_code == 422 and gauges(url) == {}


def test_a_run_beyond_the_limit_replaces_the_one_that_was_updated_longest_ago(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarm_routes, "MOST_RUNS", 2)
    answers = [httpx.post(f"{url}/alarm", json=CHECK | {"run": run}, trust_env=False) for run in "abac"]
    assert [answer.json() for answer in answers] == [{"runs": n} for n in (1, 2, 2, 2)]
    shown = gauges(url)
    assert len(shown) == 6 and not any('run="b"' in name for name in shown), "a was updated after b"


def test_a_training_reward_may_have_any_unit(url: str) -> None:
    body = CHECK | {"means": {"reward": -3.5}}
    assert httpx.post(f"{url}/alarm", json=body, trust_env=False).status_code == 200
    assert gauges(url)['reasongenrm_held_out{measure="reward",run="r"}'] == -3.5
