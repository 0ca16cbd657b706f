"""What a trainer's reward file reads from the environment: the judge, its settings and the size of a cohort.

- `REASONGENRM_URL`: address of a running server (`reasongenrm serve`); `REASONGENRM_API_KEY`: its key, if it needs one.
- `REASONGENRM_RECIPE`, `REASONGENRM_JUDGE`: without an address, the recipe whose judge is loaded into the calling process.
- `REASONGENRM_REWARDS`: the keys of `RewardSettings`, as YAML: `{schedule: circular, unread: retry}`.
- `REASONGENRM_COHORT`: number of samples of a prompt, for trainers that send them one by one.
- `REASONGENRM_REFERENCE`: of the schedule `reference`: the data set's column of reference answers, for trainers that pass columns.
- `REASONGENRM_ENDS`: texts as YAML, `["<|im_end|>"]`, of which the one that ends a response is not a part of it.
"""

from __future__ import annotations

import os
from functools import cache
from threading import Lock

from reasongenrm.config.loading import parse_yaml, section
from reasongenrm.config.rewards import RewardSettings
from reasongenrm.errors import ConfigError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.remote import RemoteJudge
from reasongenrm.judge.sharing import PairwiseJudge, SharedJudge

_loading = Lock()


def environment_judge() -> PairwiseJudge:
    """Return the judge, the same one at every call; any thread may call this and use it.

    Raises:
        ConfigError: the environment names no judge.
        EngineError: the judge cannot be loaded.
    """
    with _loading:  # trainers call from several threads: load one engine
        return _judge()


@cache
def _judge() -> PairwiseJudge:
    if os.environ.get("REASONGENRM_URL"):
        return environment_server()
    if recipe := os.environ.get("REASONGENRM_RECIPE"):
        return SharedJudge(Judge.from_recipe(recipe, os.environ.get("REASONGENRM_JUDGE")))
    raise ConfigError(
        "the environment names no judge",
        location="environment",
        hint="set REASONGENRM_URL, or REASONGENRM_RECIPE (and REASONGENRM_JUDGE)",
    )


@cache
def environment_server() -> RemoteJudge:
    """Return the judge of `REASONGENRM_URL`.

    Raises:
        ConfigError: it is not set.
    """
    url = os.environ.get("REASONGENRM_URL")
    if not url:
        hint = "set REASONGENRM_URL to the address of `reasongenrm serve`"
        raise ConfigError("the environment names no server", location="environment", hint=hint)
    return RemoteJudge(
        url, api_key_env="REASONGENRM_API_KEY" if os.environ.get("REASONGENRM_API_KEY") else None
    )


def environment_settings() -> RewardSettings:
    """Return the settings of rewards; those that are not set have their defaults.

    Raises:
        ConfigError: `REASONGENRM_REWARDS` is not valid.
    """
    keys = parse_yaml(os.environ.get("REASONGENRM_REWARDS") or "{}", "REASONGENRM_REWARDS")
    return section(RewardSettings, keys, "REASONGENRM_REWARDS")


def environment_cohort() -> int:
    """Return the number of samples of a prompt.

    Raises:
        ConfigError: `REASONGENRM_COHORT` is not set, or not a number above 1.
    """
    text = os.environ.get("REASONGENRM_COHORT", "")
    if not text.isdecimal() or int(text) < 2:
        hint = "set it to the trainer's number of samples per prompt, at least 2"
        raise ConfigError(f"not a size of a cohort: {text!r}", location="REASONGENRM_COHORT", hint=hint)
    return int(text)


def environment_reference() -> str:
    """Return the name of the column of reference answers.

    Raises:
        ConfigError: `REASONGENRM_REFERENCE` is not set.
    """
    if name := os.environ.get("REASONGENRM_REFERENCE"):
        return name
    hint = "set it to the data set's column of reference answers"
    raise ConfigError("the schedule reference needs references", location="REASONGENRM_REFERENCE", hint=hint)


def environment_ends() -> tuple[str, ...]:
    """Return the texts that may end a response; see `openrlhf_responses`.

    Raises:
        ConfigError: `REASONGENRM_ENDS` is not a list of texts.
    """
    ends = parse_yaml(os.environ.get("REASONGENRM_ENDS") or "[]", "REASONGENRM_ENDS")
    if not (isinstance(ends, list) and all(isinstance(end, str) and end for end in ends)):
        raise ConfigError("not a list of texts", location="REASONGENRM_ENDS", hint='write ["<|im_end|>"]')
    return tuple(ends)
