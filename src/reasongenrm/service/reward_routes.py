"""Routes of rewards: whole groups, and samples of cohorts, in the bodies of the trainers that ask for them."""

# No `from __future__ import annotations`: FastAPI reads the annotations of nested functions.
import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import ValidationError

from reasongenrm.config.rewards import RewardSettings
from reasongenrm.errors import DataError, ReasonGenRMError
from reasongenrm.judge.sharing import QueuedJudge
from reasongenrm.rewards.cohort_samples import (
    CohortConflict,
    CohortLimits,
    CohortsFull,
    CohortStopped,
    Place,
    Sample,
    SampleReward,
    unread_problems,
)
from reasongenrm.rewards.cohorts import Cohorts
from reasongenrm.rewards.completions import openrlhf_responses
from reasongenrm.rewards.flags import JudgeTexts
from reasongenrm.rewards.nemo_gym import VerifySample, verify_answer, verify_sample
from reasongenrm.rewards.schedule import (
    Batch,
    Group,
    GroupRewards,
    judge_groups_async,
)
from reasongenrm.service.bodies import (
    CohortPlace,
    GroupRequest,
    Limits,
    OpenRLHFReply,
    OpenRLHFRequest,
    RewardsReply,
    VerifyReply,
    check_count,
    check_lengths,
)
from reasongenrm.service.metrics import Metrics
from reasongenrm.service.replies import Problem, documented
from reasongenrm.service.results import while_connected
from reasongenrm.service.reward_options import DEFAULT_REWARDS, RewardOptions

T = TypeVar("T")

REWARD_PATHS = ("/get_reward", "/verify")
"""Paths whose bodies may be large: many samples, or a sample with the ids of its tokens."""

REWARD_STATUSES: Mapping[type[ReasonGenRMError], int] = MappingProxyType(
    {CohortConflict: 409, CohortsFull: 429, CohortStopped: 503}
)
"""HTTP statuses of the errors of cohorts."""

COHORT_PROBLEMS: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "The sample contradicts its open cohort."}
}

SUBMITS = {"compare_many": "submit", "rate_many": "submit_ratings", "choose_many": "submit_choices"}
"""Methods of a judge -> those of a shared judge that return a future."""


class RewardService:
    """Rewards from a shared judge, for the routes; it belongs to one event loop.

    Args:
        judge: the judge.
        limits: of one request.
        ends: see `rewards.completions.openrlhf_responses`.
        options: of the server.
        metrics: of the server.

    Attributes:
        cohorts: those of the server.
    """

    def __init__(
        self,
        judge: QueuedJudge,
        limits: Limits,
        ends: tuple[str, ...],
        options: RewardOptions,
        metrics: Metrics,
    ) -> None:
        self._judge, self._limits, self._ends, self.options = judge, limits, ends, options
        self._metrics = metrics
        self.cohorts = Cohorts(self._judge_group, CohortLimits(timeout=options.timeout))

    async def group(self, body: GroupRequest) -> RewardsReply:
        """Return the rewards of a whole group, or of one sample when its cohort has been judged."""
        prompt = body.checked_prompt(self._limits, *body.answers)
        check_lengths("references", body.references or (), self._limits)
        settings = self.options.merged(body.settings, body.references is not None)
        place = body.cohort
        if place is None and self.options.cohort and len(body.answers) == 1 and settings.needs_group:
            place = CohortPlace()
        if place is None:
            group = Group(prompt, body.answers, body.references, body.rubric)
            return _group_reply(await self._judge_group(group, settings), body.answers)
        reference = body.references[0] if body.references else None
        sample = Sample(prompt, body.answers[0], reference, body.rubric, settings)
        return _sample_reply(await self.cohorts.reward(sample, self._place(place)))

    async def openrlhf(self, body: OpenRLHFRequest, place: CohortPlace) -> OpenRLHFReply:
        """Return a reward per sample: against its label, its group in the body, or its cohort."""
        prompts, references = body.checked_prompts(self._limits), body.references()
        answers = openrlhf_responses(body.query, body.prompts, self._ends)
        whole, single = self._split(body.prompts, references, place)
        groups = [
            Group(
                prompts[own[0]],
                [answers[i] for i in own],
                None if references[own[0]] is None else [references[i] for i in own],
            )
            for own in whole
        ]
        settings = [self.options.merged(None, group.references is not None) for group in groups]
        samples = [Sample(prompts[i], answers[i], settings=self.options.merged(None, False)) for i in single]
        members = [(sample, self._place(place)) for sample in samples]
        results, *ones = await _together(
            self._judge_groups(groups, settings),
            *(self.cohorts.reward(*member) for member in members),
        )
        pairs = [
            (i, r)
            for own, one in zip(whole, results, strict=True)
            for i, r in zip(own, one.rewards, strict=True)
        ]
        rewards = dict(pairs) | {i: one.reward for i, one in zip(single, ones, strict=True)}
        values = [rewards[i] for i in range(len(answers))]
        unread = sum(one.unread for one in results) + sum(one.reward is None for one in ones)
        share = unread / len(values) if values else 0.0
        return OpenRLHFReply(rewards=values, scores=values, extra_logs={"judge_unread": share})

    def _split(
        self, prompts: Sequence[str], references: Sequence[str | None], place: CohortPlace
    ) -> tuple[list[list[int]], list[int]]:
        """Return the samples that are judged at once, as groups, and those that are members of cohorts.

        Raises:
            DataError: there is nothing to compare any sample with.
        """
        size = place.size or self.options.cohort
        least = 1 if self.options.settings.schedule == "pointwise" else size or 2
        by_key: dict[tuple[str, bool], list[int]] = {}
        for i, (prompt, reference) in enumerate(zip(prompts, references, strict=True)):
            by_key.setdefault((prompt, reference is not None), []).append(i)
        whole = [own for (_, labelled), own in by_key.items() if labelled or len(own) >= least]
        single = [i for own in by_key.values() if own not in whole for i in own]
        if size is not None:
            return whole, single
        if single and not whole:
            hint = (
                "start the server with --cohort N, the samples of a prompt; or send references by label_key"
            )
            raise DataError("no answer to compare a sample with", location="query", hint=hint)
        return [*whole, *([i] for i in single)], []

    async def verify(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return NeMo-Gym's answer to a rollout."""
        sample = verify_sample(body)
        check_lengths("responses_create_params", [turn["content"] for turn in sample.prompt], self._limits)
        check_lengths("response", [sample.answer, sample.reference or ""], self._limits)
        check_count("turns", len(sample.prompt), self._limits.turns)
        place = _verify_place(body, sample)
        settings = self.options.merged(None, sample.reference is not None)
        if place.size is None and not settings.needs_group:
            references = None if sample.reference is None else [sample.reference]
            group = Group(sample.prompt, [sample.answer], references)
            result = await self._judge_group(group, settings)
            problems = tuple(unread_problems(result.problems, group.answers))
            reward = SampleReward(
                result.rewards[0], result.errors[0], result.comparisons, result.unread, problems
            )
        else:
            member = Sample(sample.prompt, sample.answer, sample.reference, settings=settings)
            reward = await self.cohorts.reward(member, self._place(place))
        kind = "cohort_incomplete" if reward.samples == 1 and not reward.comparisons else "judge_unparseable"
        fields = {
            "comparisons": reward.comparisons,
            "unread": reward.unread,
            "problems": list(reward.problems),
        }
        return verify_answer(
            body, reward.reward, problem="; ".join(reward.problems), kind=kind, error=reward.error, **fields
        )

    def _place(self, place: CohortPlace) -> Place:
        size = place.size or self.options.cohort
        if size is None:
            hint = "give the cohort's size, or start the server with --cohort N"
            raise DataError(
                "the number of samples of a prompt is not known", location="cohort.size", hint=hint
            )
        check_count("cohort.size", size, self._limits.answers)
        return Place(size, place.id, place.sample, place.timeout)

    async def _judge_group(self, group: Group, settings: RewardSettings) -> GroupRewards:
        [rewards] = await self._judge_groups([group], [settings])
        return rewards

    async def _judge_groups(
        self, groups: Sequence[Group], settings: Sequence[RewardSettings]
    ) -> list[GroupRewards]:
        own_texts = JudgeTexts.from_judge(self._judge)
        results = await judge_groups_async(self._send, groups, settings, own_texts)
        self._metrics.rewards_unread.inc(sum(result.unread for result in results))
        return results

    async def _send(self, batch: Batch) -> list[Any]:
        return await asyncio.wrap_future(getattr(self._judge, SUBMITS[batch.method])(batch.rows))


def _verify_place(body: Mapping[str, Any], sample: VerifySample) -> CohortPlace:
    """Return the cohort of a rollout: its size may be a column of the data, `cohort: {"size": 8}`."""
    own = body.get("cohort")
    try:
        place = CohortPlace.model_validate({} if own is None else own)
    except ValidationError as error:
        hint = 'leave the column out, or give it the form {"size": 8}'
        raise DataError(f"not a cohort: {error.errors()[0]['msg']}", location="cohort", hint=hint) from None
    if sample.group_id is None:
        return place
    name = f"{sample.group_id}, attempt {sample.attempt}" if sample.attempt else sample.group_id
    slot = place.sample if sample.member is None else str(sample.member)
    return place.model_copy(update={"id": name, "sample": slot})


async def _together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Return all results; if one fails, the others are left."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _group_reply(result: GroupRewards, answers: Sequence[str]) -> RewardsReply:
    return RewardsReply(
        rewards=list(result.rewards),
        errors=list(result.errors),
        comparisons=result.comparisons,
        unread=result.unread,
        problems=unread_problems(result.problems, answers),
        samples=len(result.rewards),
        terms=list(result.terms),
        flags=[list(flags) for flags in result.flags],
    )


def _sample_reply(reward: SampleReward) -> RewardsReply:
    return RewardsReply(
        rewards=[reward.reward],
        errors=[reward.error],
        comparisons=reward.comparisons,
        unread=reward.unread,
        problems=list(reward.problems),
        samples=reward.samples,
        terms=[] if reward.terms is None else [reward.terms],
        flags=[] if reward.terms is None else [list(reward.flags)],
    )


def _known_query(*names: str) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return a dependency of FastAPI that refuses all keys of a query but these."""
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError

    async def check(request: Request) -> None:
        unknown = [key for key in request.query_params if key not in names]
        if unknown:
            known = f"known: {', '.join(names)}" if names else "send all keys in the body"
            problem = f"unknown key of the query; {known}"
            raise RequestValidationError([{"type": "extra", "loc": ("query", unknown[0]), "msg": problem}])

    return check


def add_reward_routes(
    app: Any,
    judge: QueuedJudge,
    limits: Limits,
    ends: tuple[str, ...],
    options: RewardOptions = DEFAULT_REWARDS,
) -> Cohorts:
    """Add the routes of rewards to the app of a judge; returns its cohorts, which are its `state.cohorts` too.

    Args:
        app: the FastAPI app; its `state.metrics` are those of the server.
        judge: the judge.
        limits: of one request.
        ends: see `rewards.completions.openrlhf_responses`.
        options: of the server.
    """
    from fastapi import Depends, Query, Request
    from fastapi.responses import JSONResponse

    service = RewardService(judge, limits, ends, options, app.state.metrics)

    async def answer(request: Request, work: Coroutine[Any, Any, T]) -> T:
        return await while_connected(request, work, limits.seconds)

    @app.post(
        "/reward",
        summary="Rewards of a group, or of one sample of a cohort",
        responses=COHORT_PROBLEMS,
        dependencies=[Depends(_known_query())],
    )
    async def reward(body: GroupRequest, request: Request) -> RewardsReply:
        return await answer(request, service.group(body))

    @app.post(
        "/get_reward",
        summary="Rewards for OpenRLHF",
        responses=COHORT_PROBLEMS,
        dependencies=[Depends(_known_query("cohort", "timeout"))],
    )
    async def get_reward(
        body: OpenRLHFRequest,
        request: Request,
        cohort: Annotated[int | None, Query(ge=2)] = None,
        timeout: Annotated[float | None, Query(gt=0, le=3600)] = None,
    ) -> OpenRLHFReply:
        return await answer(request, service.openrlhf(body, CohortPlace(size=cohort, timeout=timeout)))

    @app.post("/verify", **documented(VerifyReply, "The reward of a rollout for NeMo-Gym"))
    async def verify(body: dict[str, Any], request: Request) -> JSONResponse:
        return JSONResponse(await answer(request, service.verify(body)))

    @app.post("/seed_session", summary="NeMo-Gym opens a session for a rollout: there is nothing to keep")
    @app.post("/close_session", summary="NeMo-Gym closes the session")
    async def session(body: dict[str, Any]) -> dict[str, Any]:
        return {}

    app.state.cohorts = service.cohorts
    return service.cohorts
