"""The reward function for verl, called as verl's managers do; verl's own code runs in test_conformance.py."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reasongenrm.config.rewards import RewardSettings
from reasongenrm.errors import ConfigError, DataError, ReasonGenRMError
from reasongenrm.judge.api import Judge
from reasongenrm.rewards.schedule import judge_groups
from reasongenrm.rewards.verl import compute_score, compute_score_sync
from support.vllm_server import vllm_server
from trainers.adapters import ROOT, Work, in_environment, needs_environment


@pytest.fixture
def work(work: Work) -> Work:
    """Four groups."""
    return replace(work, groups=work.groups[:4])


SETTINGS = {"schedule": "reference", "unread": 0.125}
ROW = {"data_source": "s", "solution_str": "a", "ground_truth": "b", "extra_info": {"question": "q"}}


def expected(work: Work, schedule: str) -> list[float | None]:
    settings = RewardSettings(schedule=schedule, unread=0.125)  # type: ignore[arg-type]
    results = judge_groups(work.judge, work.groups, settings)
    return [reward for result in results for reward in result.rewards]


@pytest.mark.unit
def test_rows_of_validation_meet_their_ground_truth(work: Work) -> None:
    group = work.groups[0]

    async def rewards() -> list[dict[str, float]]:
        # verl calls with one sample, and never again for this prompt: a cohort would wait for the others.
        options = {"url": work.url, "size": 8, "settings": {"schedule": "circular", "unread": 0.125}}
        return await asyncio.gather(
            *(
                compute_score(
                    data_source="s",
                    solution_str=answer,
                    ground_truth=reference,
                    extra_info={"question": group.prompt, "split": "test", "index": 0},
                    reward_router_address=None,
                    **options,
                )
                for answer, reference in zip(group.answers, group.references or (), strict=True)
            )
        )

    results = asyncio.run(rewards())
    right = expected(work, "reference")[: len(group.answers)]
    assert [result["score"] for result in results] == pytest.approx(right)
    assert all(result.keys() == {"score", "judge_problem"} for result in results), "verl makes columns of it"


@pytest.mark.unit
def test_the_batch_manager_passes_whole_groups(work: Work) -> None:
    turns = [np.array([{"role": "user", "content": g.prompt}], dtype=object) for g in work.groups]  # Parquet
    infos = [{"question": turn, "index": i} for i, turn in enumerate(turns) for _ in work.groups[i].answers]
    rewards = compute_score_sync(
        data_sources=np.array(["s"] * len(infos), dtype=object),
        solution_strs=[answer for group in work.groups for answer in group.answers],
        ground_truths=["not used"] * len(infos),
        extra_infos=np.array(infos, dtype=object),
        url=work.url,
        settings={"schedule": "all_pairs", "unread": 0.125},
    )
    assert rewards == pytest.approx(expected(work, "all_pairs"))
    assert all(type(reward) is float for reward in rewards)


@pytest.mark.unit
def test_a_function_that_is_not_awaited_scores_one_sample(work: Work) -> None:
    group = work.groups[1]
    [right] = expected(work, "reference")[8:9]
    result = compute_score_sync(
        "s", group.answers[0], (group.references or ())[0], {"prompt": group.prompt}, url=work.url, settings=SETTINGS
    )  # fmt: skip
    assert isinstance(result, dict) and result["score"] == pytest.approx(right)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "location"),
    [
        ({"extra_info": None}, "extra_info[0]"),
        ({"extra_info": {"index": 1}}, "extra_info[0]"),
        ({"ground_truth": None}, "ground_truth[0]"),
        ({"ground_truth": 42}, "ground_truth[0]"),
    ],
)
def test_an_incomplete_row_is_named_in_the_error(change: dict[str, Any], location: str) -> None:
    with pytest.raises(DataError) as caught:
        asyncio.run(compute_score(**ROW | change, url="http://127.0.0.1:9", settings=SETTINGS))
    assert caught.value.location == location and caught.value.hint


@pytest.mark.unit
@pytest.mark.parametrize(
    ("options", "location", "hint"),
    [
        ({}, "settings", ""),
        ({"settings": {"schedule": "reference"}}, "settings.unread", "a number"),
        ({"settings": SETTINGS | {"unread": "retry"}}, "settings.unread", "a number"),
        ({"settings": SETTINGS, "urls": "u"}, "urls", "url"),
        ({"settings": SETTINGS | {"schedule": "circular"}, "url": "http://127.0.0.1:9"}, "size", "rollout.n"),
        ({"settings": SETTINGS}, "environment", "REASONGENRM_URL"),
    ],
)
def test_wrong_options_are_named_in_the_error(
    options: dict[str, Any], location: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REASONGENRM_URL", "REASONGENRM_RECIPE", "REASONGENRM_JUDGE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError) as caught:
        asyncio.run(compute_score(**ROW, **options))
    assert (
        location in f"{caught.value.location} {caught.value}"
        and hint in f"{caught.value.hint} {caught.value}"
    )


@pytest.mark.unit
def test_groups_need_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REASONGENRM_URL", raising=False)
    monkeypatch.setenv("REASONGENRM_RECIPE", "configs/none.yaml")
    with pytest.raises(ReasonGenRMError, match=r"none\.yaml"):  # a failure is not kept
        asyncio.run(compute_score(**ROW, settings=SETTINGS | {"schedule": "circular"}, size=8))


def hydra(value: Any) -> str:
    """Return a value in the grammar of Hydra's command line."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{hydra(one)}' for key, one in value.items())}}}"
    return f"'{value}'" if isinstance(value, str) else str(value).lower()


@pytest.mark.slow
@pytest.mark.e2e
@needs_environment("verl")
def test_a_judge_behind_the_router_of_verl(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    judge = {
        "model": str(tiny_model),
        "template": "direct",
        "prompts": str(ROOT / "configs/prompts/toy.yaml"),
        "max_model_len": 512,
        "judging": {"max_tokens": 16, "both_orders": False},  # an untrained judge is much for A
    }
    with vllm_server(tiny_model, "", tmp_path / "log", ["--max-model-len", "512"]) as url:
        server = {"kind": "openai", "urls": [url], "model": str(tiny_model)}
        direct = Judge.from_server(server, **judge)  # type: ignore[arg-type]
        groups = work.groups[:2]
        right = judge_groups(direct, groups, RewardSettings(schedule="reference", unread=0.125))
        ask = in_environment(
            "verl", "run_verl", manager="naive", function="compute_score", judge=hydra(judge),
            worker_url=url.removesuffix("/v1"),
        )  # fmt: skip
        rewards = ask(replace(work, url="", tokenizer=str(tiny_model), groups=groups, settings=SETTINGS))
    assert rewards == [pytest.approx(list(result.rewards), abs=1e-5) for result in right]
    assert len({round(one, 4) for group in rewards for one in group if one is not None}) > 4
