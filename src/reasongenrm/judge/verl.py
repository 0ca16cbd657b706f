"""File for verl's `custom_reward_function.path`: a judge from the environment, loaded at the first call.

REASONGENRM_URL is the URL of a running server (`judge.server`), and REASONGENRM_API_KEY its key, if it needs one.
Without a URL, the judge REASONGENRM_JUDGE of the recipe REASONGENRM_RECIPE is loaded into the calling process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any

from reasongenrm.errors import ConfigError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.remote import RemoteJudge
from reasongenrm.judge.rewards import verl_score
from reasongenrm.judge.sharing import SharedJudge

_loading = Lock()


@cache
def _score() -> Callable[..., Any]:
    url, recipe = os.environ.get("REASONGENRM_URL"), os.environ.get("REASONGENRM_RECIPE")
    if url:
        key = "REASONGENRM_API_KEY" if os.environ.get("REASONGENRM_API_KEY") else None
        return verl_score(RemoteJudge(url, api_key_env=key))
    if recipe:
        return verl_score(SharedJudge(Judge.from_recipe(recipe, os.environ.get("REASONGENRM_JUDGE"))))
    raise ConfigError(
        "the environment names no judge",
        location="environment",
        hint="set REASONGENRM_URL, or REASONGENRM_RECIPE (and REASONGENRM_JUDGE)",
    )


def compute_score(*args: Any, **kwargs: Any) -> Any:
    """Score one solution, or a batch of them; see `rewards.verl_score`.

    Raises:
        ConfigError: the environment names no judge.
        DataError: a row has no question, or no ground truth.
        EngineError: the judge cannot be loaded or reached.
    """
    with _loading:  # verl calls from several threads: load one engine
        score = _score()
    return score(*args, **kwargs)
