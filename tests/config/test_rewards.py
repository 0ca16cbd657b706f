"""Settings of rewards: nothing is read as something that nobody wrote."""

from __future__ import annotations

from typing import Any

import pytest

from reasongenrm.config.loading import parse_yaml, section
from reasongenrm.config.rewards import RewardSettings
from reasongenrm.errors import ConfigError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("value", ["true", "false", '"0.5"', "2", "-0.1", "again", "[0.5]"])
def test_unread_is_null_retry_or_a_number(value: str) -> None:
    keys = parse_yaml(f"unread: {value}", "rewards.yaml")
    with pytest.raises(ConfigError, match=r"settings\.unread: .*null, retry or a number in \[0, 1\]"):
        section(RewardSettings, keys, "settings")


@pytest.mark.parametrize(
    ("value", "read"), [(None, None), ("retry", "retry"), (0, 0.0), (1, 1.0), (0.5, 0.5)]
)
def test_a_stated_number_is_a_float(value: Any, read: Any) -> None:
    settings = RewardSettings(unread=value)
    assert settings.unread == read and type(settings.unread) is type(read)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"schedule": "regular", "degree": "4"}, "valid integer"),
        ({"schedule": "regular", "degree": True}, "valid integer"),
        ({"schedule": "regular", "degree": 1}, "greater than or equal to 2"),
        ({"schedule": "circular", "degree": 6}, "degree belongs to the schedule regular"),
        ({"degree": 8}, "degree belongs to the schedule regular"),
    ],
)
def test_a_degree_is_a_whole_number_of_the_schedule_regular(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        section(RewardSettings, keys, "settings")


def test_settings_that_were_sent_are_read_again() -> None:
    for settings in (RewardSettings(), RewardSettings(schedule="regular", degree=6)):
        for sent in (settings, settings.against_references()):
            assert RewardSettings.model_validate(sent.model_dump(mode="json")) == sent
