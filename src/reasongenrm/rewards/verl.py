"""For verl's `reward.custom_reward_function.path=pkg://reasongenrm.rewards.verl`: the judge as the reward of its Reward Loop.

verl asks for one sample at a time, from several processes. `compute_score` is awaited, so that the samples of a prompt can wait for
each other at the judge's server (a cohort); a pool of threads would be full before a cohort is. `compute_score_sync` is for reward
managers that take no async function. What they need is in `reward.custom_reward_function.reward_kwargs`, see `VerlOptions`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any, Literal

from pydantic import Field

from reasongenrm.config.engines import Strict
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.config.loading import section
from reasongenrm.config.rewards import SINGLE, RewardSettings
from reasongenrm.console import say
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.api import DEFAULT_PROMPTS, Judge
from reasongenrm.judge.inputs import PromptInput
from reasongenrm.judge.remote import RemoteJudge
from reasongenrm.judge.sharing import PairwiseJudge, SharedJudge
from reasongenrm.rewards.client import cohort_reward
from reasongenrm.rewards.completions import completion_text, prompt_input
from reasongenrm.rewards.environment import environment_judge
from reasongenrm.rewards.schedule import judge_samples

LOCATION = "reward.custom_reward_function.reward_kwargs"


class RoutedJudge(Strict):
    """A judge whose model verl serves itself (`reward.reward_model.enable=True`), behind its reward router.

    Attributes:
        model: folder of the merged judge, as `reward.reward_model.model_path` has it.
        template: its chat template, see `OtherJudge`.
        reasons: whether it writes a reason before its verdict, see `OtherJudge`.
        prompts: prompt file.
        max_model_len: tokens of prompt and completion together.
        judging: both orders, tokens of a reason, and the rest.
    """

    model: str
    template: Literal["own", "reason", "think", "direct"] = "own"
    reasons: bool = True
    prompts: str = DEFAULT_PROMPTS
    max_model_len: int = Field(8192, ge=64)
    judging: JudgingConfig = JudgingConfig()


class VerlOptions(Strict):
    """Keys of `reward.custom_reward_function.reward_kwargs`.

    Attributes:
        url: address of `reasongenrm serve`; null: see `rewards.environment`, or `judge`.
        api_key_env: environment variable with its key.
        size: samples per prompt (`actor_rollout_ref.rollout.n`), for schedules that compare them with each other.
        timeout: seconds after which a cohort is judged without its missing samples; null: as the server says.
        settings: the schedule and the rest; `unread` must be a number, since verl takes no null.
        judge: a judge that verl serves; for the schedules `reference` and `pointwise`.
    """

    url: str | None = None
    api_key_env: str | None = None
    size: int | None = Field(None, ge=2)
    timeout: float | None = Field(None, gt=0)
    settings: RewardSettings
    judge: RoutedJudge | None = None


async def compute_score(
    data_source: Any = None,
    solution_str: Any = None,
    ground_truth: Any = None,
    extra_info: Any = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **reward_kwargs: Any,
) -> dict[str, float]:
    """Return the reward of one sample as `score`, and `judge_problem`: 1 if something about it could not be read or did not come.

    The question is `extra_info["question"]`, or `extra_info["prompt"]`. A row whose `extra_info["split"]` is not `train` (verl's
    validation, which samples once) is compared with its ground truth, whatever the schedule is.

    Args:
        data_source, reward_model_tokenizer: not used.
        solution_str: the sample.
        ground_truth: a whole answer to compare with, of the schedule `reference` and of validation.
        extra_info: of the row.
        reward_router_address: of verl's own reward model.
        reward_kwargs: see `VerlOptions`.

    Raises:
        ConfigError: a key is missing or unknown, or no judge is named.
        DataError: the row has no question, or no ground truth where one is needed.
        EngineError: the judge cannot be loaded or reached.
    """
    options = _options(reward_kwargs)
    sample = _sample(0, solution_str, ground_truth, extra_info, options.settings)
    if not sample.settings.needs_group:
        judge = _judge(options, reward_router_address)
        [score] = await asyncio.to_thread(_judged, judge, [sample])
        return _result(score, "no verdict" if score is None else "", options)
    server = _server(options)
    if options.size is None:
        hint = f"set size to actor_rollout_ref.rollout.n, or settings.schedule to one of {', '.join(SINGLE)}"
        raise ConfigError(f"{options.settings.schedule} needs a size", location=f"{LOCATION}.size", hint=hint)
    score, problem = await cohort_reward(
        server,
        sample.prompt,
        sample.answer,
        size=options.size,
        timeout=options.timeout,
        settings=sample.settings,
    )
    return _result(score, problem, options)


def compute_score_sync(
    data_source: Any = None,
    solution_str: Any = None,
    ground_truth: Any = None,
    extra_info: Any = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **arguments: Any,
) -> dict[str, float] | list[float]:
    """Return the reward of one sample, or of a batch: for the managers `remote` and `batch`, and for verl before its Reward Loop.

    With `solution_strs=` (and `ground_truths=`, `extra_infos=`) it returns the list of the rewards of a batch, which holds whole
    groups, so that no cohort is waited for. Everything else is as in `compute_score`.
    """
    solutions = arguments.pop("solution_strs", None)
    if solutions is None:
        one = compute_score(
            data_source, solution_str, ground_truth, extra_info, reward_router_address, **arguments
        )
        return asyncio.run(one)
    truths, infos = list(arguments.pop("ground_truths")), arguments.pop("extra_infos", None)
    arguments.pop("data_sources", None)
    options = _options(arguments)
    infos = [None] * len(solutions) if infos is None else list(infos)
    samples = [
        _sample(number, *row, options.settings)
        for number, row in enumerate(zip(solutions, truths, infos, strict=True))
    ]
    scores = _judged(_judge(options, reward_router_address), samples)
    return [_result(score, "", options)["score"] for score in scores]


@dataclass(frozen=True, slots=True)
class _Sample:
    prompt: PromptInput
    answer: str
    reference: str | None
    settings: RewardSettings


def _sample(number: int, solution: Any, truth: Any, info: Any, settings: RewardSettings) -> _Sample:
    """Return a row of verl, with the settings by which it is judged."""
    fields = info if isinstance(info, Mapping) else {}
    question = next((fields[name] for name in ("question", "prompt") if fields.get(name) is not None), None)
    if question is None:
        raise DataError(
            "no question",
            location=f"extra_info[{number}]",
            hint="write the prompt to extra_info.question when you build the data set",
        )
    if fields.get("split", "train") != "train":
        settings = settings.against_references()
    reference = None
    if settings.schedule == "reference":
        reference = completion_text(_listed(truth), f"ground_truth[{number}]")
    answer = completion_text(_listed(solution), f"solution_str[{number}]")
    return _Sample(prompt_input(_listed(question)), answer, reference, settings)


def _listed(value: Any) -> Any:
    """Return messages as a list: verl's rows come from Parquet, which makes numpy arrays of lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def _judged(judge: PairwiseJudge, samples: Sequence[_Sample]) -> list[float | None]:
    """Return the rewards of samples; those of a batch with the same settings are judged together."""
    rewards: list[float | None] = [None] * len(samples)
    for settings in dict.fromkeys(sample.settings for sample in samples):
        own = [number for number, sample in enumerate(samples) if sample.settings == settings]
        references = [samples[i].reference for i in own] if settings.schedule == "reference" else None
        prompts, answers = [samples[i].prompt for i in own], [samples[i].answer for i in own]
        judged = judge_samples(judge, prompts, answers, settings, references=references)
        for number, reward in zip(own, judged.rewards, strict=True):
            rewards[number] = reward
    return rewards


def _result(score: float | None, problem: str, options: VerlOptions) -> dict[str, float]:
    if score is None:  # `unread` is a number, so this is not an unread verdict
        raise DataError(problem or "no reward", location="solution_str", hint="see the judge's log")
    if problem:
        _say_once(problem)
    return {"score": score, "judge_problem": float(bool(problem))}


@cache
def _say_once(problem: str) -> None:
    say(f"reasongenrm: {problem}")


def _options(reward_kwargs: Mapping[str, Any]) -> VerlOptions:
    options = section(VerlOptions, _plain(reward_kwargs), LOCATION)
    if not isinstance(options.settings.unread, float):
        raise ConfigError(
            "verl takes no null: say what a sample without a readable verdict gets",
            location=f"{LOCATION}.settings.unread",
            hint="set a number, such as 0.5, the mean reward of a group",
        )
    return options


def _plain(value: Any) -> Any:
    """Return OmegaConf's containers as dicts and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return value


_loading = Lock()


def _judge(options: VerlOptions, router: str | None) -> PairwiseJudge:
    if options.url:
        return _remote(options.url, options.api_key_env)
    if router and options.judge:
        with _loading:  # verl calls from several threads
            return _routed(router, options.judge)
    return environment_judge()


def _server(options: VerlOptions) -> RemoteJudge:
    judge = _judge(options, None)
    if not isinstance(judge, RemoteJudge):
        hint = f"run reasongenrm serve and set url, or settings.schedule to one of {', '.join(SINGLE)}"
        raise ConfigError(
            "samples of a prompt arrive in several processes and can only meet at a server",
            location=f"{LOCATION}.url",
            hint=hint,
        )
    return judge


@cache
def _remote(url: str, api_key_env: str | None) -> RemoteJudge:
    return RemoteJudge(url, api_key_env=api_key_env)


@cache
def _routed(router: str, judge: RoutedJudge) -> SharedJudge:
    server = {"kind": "openai", "urls": [f"http://{router}/v1"], "model": judge.model}
    return SharedJudge(
        Judge.from_server(
            server,
            model=judge.model,
            template=judge.template,
            reasons=judge.reasons,
            prompts=judge.prompts,
            judging=judge.judging,
            max_model_len=judge.max_model_len,
        )
    )
