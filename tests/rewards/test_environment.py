"""The environment variables of trainers' reward files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from reasongenrm.config.rewards import RewardSettings
from reasongenrm.errors import ConfigError
from reasongenrm.judge.remote import RemoteJudge
from reasongenrm.rewards import environment

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("URL", "API_KEY", "RECIPE", "JUDGE", "REWARDS", "COHORT", "REFERENCE", "ENDS"):
        monkeypatch.delenv(f"REASONGENRM_{name}", raising=False)
    for cached in (environment._judge, environment.environment_server):
        cached.cache_clear()
    yield
    for cached in (environment._judge, environment.environment_server):
        cached.cache_clear()


def test_a_server_is_the_same_judge_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REASONGENRM_URL", "http://127.0.0.1:1")
    judge = environment.environment_judge()
    assert isinstance(judge, RemoteJudge)
    assert environment.environment_judge() is judge is environment.environment_server()


def test_settings_are_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.environment_settings() == RewardSettings()
    monkeypatch.setenv("REASONGENRM_REWARDS", "{schedule: circular, unread: retry}")
    assert environment.environment_settings() == RewardSettings(schedule="circular", unread="retry")
    monkeypatch.setenv("REASONGENRM_REWARDS", '{"schedule": "regular", "degree": 6, "unread": null}')
    assert environment.environment_settings() == RewardSettings(schedule="regular", degree=6)


def test_sizes_names_and_ends_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REASONGENRM_COHORT", "8")
    monkeypatch.setenv("REASONGENRM_REFERENCE", "gold")
    assert (environment.environment_cohort(), environment.environment_reference()) == (8, "gold")
    assert environment.environment_ends() == ()
    monkeypatch.setenv("REASONGENRM_ENDS", '["<|im_end|>", "</s>"]')
    assert environment.environment_ends() == ("<|im_end|>", "</s>")


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("URL", None, environment.environment_judge),
        ("URL", "", environment.environment_server),
        ("REWARDS", "{schedule: triangular}", environment.environment_settings),
        ("REWARDS", "{schedul: circular}", environment.environment_settings),
        ("REWARDS", "[", environment.environment_settings),
        ("REWARDS", "circular", environment.environment_settings),
        ("COHORT", None, environment.environment_cohort),
        ("COHORT", "1", environment.environment_cohort),
        ("COHORT", "many", environment.environment_cohort),
        ("REFERENCE", None, environment.environment_reference),
        ("ENDS", "<|im_end|>", environment.environment_ends),
    ],
)
def test_what_is_missing_or_invalid_is_named(
    name: str, value: str | None, read: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv(f"REASONGENRM_{name}", value)
    with pytest.raises(ConfigError) as caught:
        read()
    assert caught.value.hint
    assert name in f"{caught.value.location} {caught.value.hint}"
