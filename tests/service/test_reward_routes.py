"""Rewards over HTTP: the real app on a real server, and many clients that come, hang up, try again and contradict each other."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.config.rewards import RewardSettings
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.errors import ConfigError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.remote import RemoteJudge
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.rewards.client import cohort_reward
from reasongenrm.rewards.cohort_samples import CohortLimits
from reasongenrm.rewards.cohorts import Cohorts
from reasongenrm.rewards.schedule import Group, judge_groups
from reasongenrm.service.bodies import Limits
from reasongenrm.service.loading import LoadingApp
from reasongenrm.service.reward_options import RewardOptions
from reasongenrm.service.server import create_app
from reasongenrm.serving import LOOPBACK_NAMES
from support.app import running
from support.cohort_service import Standin, service
from support.scripted_judge import QualityJudge

LIMITS = Limits(text=500, answers=8, turns=4)
BY_FOUR = RewardOptions(cohort=4)


@dataclass
class Serving:
    """A server, its stand-in judge, and its cohorts."""

    url: str
    judge: Standin
    cohorts: Cohorts

    def play(self, story: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def run() -> None:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(
                base_url=self.url, trust_env=False, timeout=30, limits=limits
            ) as client:
                await story(client)

        asyncio.run(run())

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, trust_env=False, timeout=30)

    def ask(self, path: str, body: Any) -> Any:
        answer = self.post(path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def members(self, count: int) -> None:
        """Wait until so many samples wait for others."""
        for _ in range(1000):
            cohorts = [one for row in self.cohorts._cohorts.values() for one in row if one.phase == "open"]
            if sum(len(cohort.members) for cohort in cohorts) == count:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("they did not come")


@contextmanager
def serving(options: RewardOptions = BY_FOUR) -> Iterator[Serving]:
    judge = Standin()
    app = service(judge, options, limits=LIMITS)
    with running(app) as url:
        yield Serving(url, judge, app.state.cohorts)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Serving]:
    with serving() as one:
        yield one


@pytest.fixture
def server(shared_server: Serving) -> Serving:
    """The server, with all counts at 0."""
    shared_server.judge._judge.calls.clear()
    shared_server.cohorts.counts = dict.fromkeys(shared_server.cohorts.counts, 0)
    return shared_server


ASKED, SAID = {"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}
REFERRED = {"prompt": "p", "answers": ["xx", "x"], "references": ["x", "xx"]}
TOKENS = {"length": 1, "length_unit": "tokens"}


def sample(prompt: str, answer: str, **cohort: Any) -> dict[str, Any]:
    return {"prompt": prompt, "answers": [answer], "cohort": cohort}


def posted(prompt: str, answer: str, **more: Any) -> dict[str, Any]:
    """OpenRLHF's body for one sample."""
    return {"query": [f"{prompt}{answer}<|im_end|>"], "prompts": [prompt]} | more


def expected(answers: list[str], settings: RewardSettings | None = None) -> list[float | None]:
    [result] = judge_groups(QualityJudge(), [Group("p", answers)], settings or RewardSettings())
    return list(result.rewards)


@pytest.mark.unit
def test_128_callers_of_32_cohorts_get_the_rewards_of_their_groups(server: Serving) -> None:
    prompts = {f"prompt {n}": ["x" * (1 + (7 * n + 3 * i) % 11) for i in range(4)] for n in range(32)}
    posts = [(prompt, i) for prompt in prompts for i in range(4)]
    random.Random(1).shuffle(posts)

    async def story(client: httpx.AsyncClient) -> None:
        async def one(number: int, prompt: str, i: int) -> tuple[str, int, Any]:
            answer = prompts[prompt][i]
            if number % 2:  # half of the prompts by each route
                reply = (await client.post("/reward", json=sample(prompt, answer, sample=str(i)))).json()
            else:
                reply = (await client.post("/get_reward", json=posted(prompt, answer))).json()
            return prompt, i, reply["rewards"][0]

        numbers = {prompt: n for n, prompt in enumerate(prompts)}
        replies = await asyncio.gather(*(one(numbers[prompt], prompt, i) for prompt, i in posts))
        wanted = {prompt: expected(answers) for prompt, answers in prompts.items()}
        for prompt, i, reward in replies:
            assert reward == pytest.approx(wanted[prompt][i]), (prompt, i)

    server.play(story)
    assert server.cohorts.counts == dict.fromkeys(server.cohorts.counts, 0) | {"judged": 32}
    assert server.cohorts.open == 0


@pytest.mark.unit
def test_a_whole_group_is_judged_at_once(server: Serving) -> None:
    answers = ["x", "xx", "xxxx"]
    reply = server.ask("/reward", {"prompt": "p", "answers": answers})
    assert reply["rewards"] == pytest.approx(expected(answers))
    assert {name: reply[name] for name in reply if name not in ("rewards", "errors")} == {
        "comparisons": 3, "unread": 0, "problems": [], "samples": 3, "terms": [], "flags": [],
    }  # fmt: skip
    turns = [{"role": "user", "content": "p"}]
    circular = {
        "messages": turns,
        "answers": ["x" * n for n in range(1, 9)],
        "settings": {"schedule": "circular"},
    }
    assert server.ask("/reward", circular)["comparisons"] == 8
    referred = server.ask("/reward", {"prompt": "p", "answers": ["xx", "xx"], "references": ["x", "xxx"]})
    assert referred["rewards"] == pytest.approx([0.731, 0.269], abs=1e-3)
    shaping = {"flags": ["verdict", "marker"], "flag_value": 0}
    settings = {"shaping": shaping}
    flagged = server.ask("/reward", {"prompt": "p", "answers": ["x", "[[A]]"], "settings": settings})
    assert flagged["rewards"][1] == 0 and flagged["flags"] == [[], ["verdict"]]
    assert flagged["terms"][0] == {"judge": flagged["rewards"][0]}


@pytest.mark.unit
def test_an_unread_sample_gets_null_and_a_problem_or_the_stated_number(server: Serving) -> None:
    body = {"prompt": "p", "answers": ["?", "x", "xx"]}
    reply = server.ask("/reward", body)
    assert reply["rewards"][0] is None and reply["rewards"][1] == pytest.approx(0.269, abs=1e-3)
    assert reply["unread"] == 1 and len(reply["problems"]) == 2 and "unparsed" in reply["problems"][0]
    stated = server.ask("/reward", body | {"settings": {"unread": 0.125}})
    assert stated["rewards"][0] == 0.125 and stated["unread"] == 1
    late = server.ask("/reward", sample("lonely", "x", timeout=0.05))
    assert late["rewards"] == [None] and late["problems"] == [
        "1 of 4 samples came within 0.05 s", "no other sample to compare it with",
    ]  # fmt: skip
    openrlhf = server.ask("/get_reward?timeout=0.05", posted("lonely 2", "x"))
    assert openrlhf == {"rewards": [None], "scores": [None], "extra_logs": {"judge_unread": 1}}


@pytest.mark.unit
def test_a_key_of_a_request_replaces_that_key_of_the_server_alone() -> None:
    shaping = {"flags": ["verdict"], "flag_value": 0}
    settings = RewardSettings.model_validate({"schedule": "regular", "degree": 6, "shaping": shaping})
    options = RewardOptions(settings, cohort=2)
    eight = {"prompt": "p", "answers": ["x" * n for n in range(1, 8)] + ["[[A]]"]}
    with serving(options) as server:

        def ask(**settings: Any) -> Any:
            return server.ask("/reward", eight | {"settings": settings})

        for reply in (ask(), ask(unread=0.25), ask(unread=None)):
            assert reply["rewards"][-1] == 0 and reply["flags"][-1] == ["verdict"]
            assert reply["comparisons"] == 8 * 6 / 2
        assert ask(schedule="circular")["comparisons"] == 8, "the server's degree is not that of circular"
        assert ask(degree=2)["comparisons"] == 8 and ask(degree=2)["rewards"][-1] == 0
        assert ask(shaping={"length": 1})["rewards"][-1] != 0, "shaping is one key"
        assert ask(shaping=None)["flags"] == []
        referred = REFERRED | {"answers": ["xx", "[[A]]"], "settings": {"unread": 0.5}}
        reply = server.ask("/reward", referred)
        assert reply["comparisons"] == 2 and reply["rewards"] == [pytest.approx(0.731, abs=1e-3), 0]

        async def story(client: httpx.AsyncClient) -> None:
            bodies = [sample("q", text) | {"settings": {"unread": 0.5}} for text in ("x", "[[A]]")]
            replies = await asyncio.gather(*(client.post("/reward", json=body) for body in bodies))
            assert [one.json()["flags"] for one in replies] == [[[]], [["verdict"]]]
            judge = RemoteJudge(server.url)
            own = RewardSettings(unread=0.5)
            adapter = [cohort_reward(judge, "r", text, size=2, settings=own) for text in ("x", "[[A]]")]
            assert [reward for reward, _ in await asyncio.gather(*adapter)][1] == 0

        server.play(story)


@pytest.mark.unit
def test_a_single_answer_joins_a_cohort_by_default_where_the_server_has_a_size(server: Serving) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        answers = ["x", "xx", "xxx", "xxxx"]
        bodies = [{"prompt": "default", "answers": [answer]} for answer in answers]
        replies = await asyncio.gather(*(client.post("/reward", json=body) for body in bodies))
        rewards = [one.json()["rewards"][0] for one in replies]
        assert rewards == pytest.approx(expected(answers))

    server.play(story)
    assert server.cohorts.counts["judged"] == 1
    lone: list[dict[str, Any]] = [{"references": ["xx"]}, {"settings": {"schedule": "pointwise"}}]
    for more in lone:  # those need no others
        assert server.ask("/reward", {"prompt": "lone", "answers": ["x"]} | more)["rewards"] != [None]
    with serving(RewardOptions()) as other:
        alone = other.ask("/reward", {"prompt": "p", "answers": ["x"]})
    assert alone["rewards"] == [None] and alone["problems"] == ["no other sample to compare it with"]


@pytest.mark.unit
def test_a_sample_that_was_alone_and_is_sent_again_is_not_compared_with_its_copy(server: Serving) -> None:
    body = sample("again", "x", size=2, id="r1", timeout=0.05)
    assert [server.ask("/reward", body)["rewards"] for _ in range(3)] == [[None]] * 3
    for _ in range(2):
        reply = server.ask("/get_reward?cohort=2&timeout=0.05", posted("again", "x"))
        assert reply["rewards"] == [None]


@pytest.mark.unit
def test_a_body_of_openrlhf_may_hold_labels_groups_and_members(server: Serving) -> None:
    answers = {"g": ["x", "xx", "xxx", "xxxx"], "m": ["x", "xx"], "l": ["xx"]}
    prompts = [prompt for prompt, texts in answers.items() for _ in texts]
    query = [prompt + text for prompt, texts in answers.items() for text in texts]
    labels = [None, "", "", None, None, None, "x"]

    async def story(client: httpx.AsyncClient) -> None:
        body = {"query": query, "prompts": prompts, "labels": labels}
        first = asyncio.create_task(client.post("/get_reward", json=body))
        await server.members(2)
        assert not first.done()
        rest = {"query": ["mxxxx", "mxxx"], "prompts": ["m", "m"]}
        others = (await client.post("/get_reward", json=rest)).json()["rewards"]
        rewards = (await first).json()["rewards"]
        assert rewards[:4] == pytest.approx(expected(answers["g"]))
        assert rewards[6] == pytest.approx(0.731, abs=1e-3)
        assert [*rewards[4:6], *others] == pytest.approx(expected(["x", "xx", "xxxx", "xxx"]))

    server.cohorts.counts["judged"] = 0
    server.play(story)
    assert server.cohorts.counts["judged"] == 1, "the whole group and the label needed no cohort"


@pytest.mark.unit
def test_a_client_that_gives_up_and_tries_again_is_one_sample(server: Serving) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        async def stubborn(answer: str) -> Any:
            for _ in range(100):  # OpenRLHF, on a timeout
                try:
                    answered = await client.post("/get_reward", json=posted("retry", answer), timeout=0.2)
                    return answered.json()["rewards"][0]
                except httpx.TimeoutException:
                    continue
            raise AssertionError("never answered")

        tries = [asyncio.create_task(stubborn(answer)) for answer in ("x", "xx", "xx")]
        while server.cohorts.counts["duplicates"] < 3:
            await asyncio.sleep(0.01)
        assert not server.judge.calls, "many posts, three samples"
        last = (await client.post("/get_reward", json=posted("retry", "xxx"))).json()["rewards"][0]
        rewards = [*await asyncio.gather(*tries), last]
        assert rewards == pytest.approx(expected(["x", "xx", "xx", "xxx"]))

    server.play(story)
    counts = server.cohorts.counts
    assert counts["judged"] == 1 and counts["duplicates"] >= 3 and counts["incomplete"] == 0


@pytest.mark.unit
def test_a_client_that_hangs_up_for_good_leaves_its_sample(server: Serving) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        gone = asyncio.create_task(client.post("/reward", json=sample("hang up", "x", size=2)))
        await server.members(1)
        gone.cancel()
        await asyncio.wait([gone])
        other = await client.post("/reward", json=sample("hang up", "xxx", size=2))
        assert other.json()["rewards"] == pytest.approx([expected(["x", "xxx"])[1]])

    server.play(story)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("path", "body", "status", "problem"),
    [
        ("/reward", {"prompt": "p", "answers": []}, 422, "answers"),
        ("/reward", {"prompt": "p", "answers": ["x"] * 9}, 413, "answers"),
        ("/reward", {"prompt": "p", "answers": ["x" * 501, "y"]}, 413, "an answer"),
        ("/reward", {"prompt": "p", "answers": ["x"], "references": ["y" * 501]}, 413, "references"),
        ("/reward", {"prompt": "", "answers": ["x", "y"]}, 400, "prompt"),
        ("/reward", {"messages": [ASKED, SAID], "answers": ["x", "y"]}, 400, "`messages` ends in an assistant turn"),
        ("/reward", {"prompt": "p", "answers": ["x", "y"], "references": ["z"]}, 422, "as many references"),
        ("/reward", {"prompt": "p", "answers": ["x", "y"], "settings": {"schedule": "all"}}, 422, "schedule"),
        ("/reward", {"prompt": "p", "answers": ["x", "y"], "settings": {"schedul": "all"}}, 422, "unknown key"),
        ("/reward", {"prompt": "p", "answers": ["x", "y"], "settings": {"schedule": "reference"}}, 400, "reference"),
        ("/reward", {"prompt": "p", "answers": ["x", "y"], "cohort": {}}, 422, "one by one"),
        ("/reward", REFERRED | {"settings": {"schedule": "circular"}}, 400, "settings.schedule"),
        ("/reward", {"prompt": "p", "answers": ["x", "y"], "settings": {"degree": 8}}, 400, "settings: degree"),
        ("/reward", {"prompt": "p", "answers": ["x", "y"], "settings": {"degree": 1}}, 422, "degree"),
        ("/reward", {"prompt": "p", "answers": ["x", "y"], "settings": {"shaping": TOKENS}}, 400, "shaping.length_unit"),
        ("/reward", sample("p", "x") | {"settings": {"shaping": TOKENS}}, 400, "shaping.length_unit"),
        ("/reward?cohort=4", {"prompt": "p", "answers": ["x", "y"]}, 422, "cohort: unknown key"),
        ("/get_reward?cohrt=2", posted("p", "x"), 422, "cohrt: unknown key of the query; known: cohort, timeout"),
        ("/reward/", {"prompt": "p", "answers": ["x", "y"]}, 404, "Not Found"),
        ("/reward", sample("p", "x", size=1), 422, "size"),
        ("/reward", sample("p", "x", size=9), 413, "cohort.size"),
        ("/reward", sample("p", "x", timeout=0), 422, "timeout"),
        ("/reward", sample("p", "x", id=""), 422, "id"),
        ("/reward", sample("p", "x", group="g"), 422, "group"),
        ("/get_reward?cohort=1", posted("p", "x"), 422, "cohort"),
        ("/get_reward?cohort=9", posted("p", "x"), 413, "cohort.size"),
        ("/get_reward", {"query": ["px"], "prompts": ["q"]}, 400, "begin"),
        ("/verify", {"response": {"output": []}}, 400, "responses_create_params"),
        ("/verify", [], 422, "dictionary"),
    ],
)  # fmt: skip
def test_an_invalid_body_is_refused(server: Serving, path: str, body: Any, status: int, problem: str) -> None:
    answer = server.post(path, body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "hint"} and problem in " ".join(answer.json().values())
    assert not server.judge.calls and server.cohorts.open == 0


@pytest.mark.unit
def test_without_a_size_a_sample_alone_is_refused() -> None:
    with serving(RewardOptions()) as server:
        for path, body in (
            ("/get_reward", posted("p", "x")),
            ("/reward", sample("p", "x")),
            ("/verify", gym("p", "x")),
        ):
            answer = server.post(path, body)
            assert answer.status_code == 400 and "--cohort" in answer.json()["hint"], path
        mixed = {"query": ["px", "pxx", "qx"], "prompts": ["p", "p", "q"]}
        rewards = server.ask("/get_reward", mixed)["rewards"]
        assert rewards == [*expected(["x", "xx"]), None]


@pytest.mark.unit
def test_contradictions_and_full_houses_have_their_own_statuses(server: Serving) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        waiting = [
            asyncio.create_task(client.post("/reward", json=sample(prompt, "x", size=2, sample="0")))
            for prompt in ("one", "two")
        ]
        await server.members(2)
        for body in (sample("one", "y", size=3), sample("one", "other", size=2, sample="0")):
            answer = await client.post("/reward", json=body)
            assert answer.status_code == 409 and answer.json()["hint"], answer.text
        before, server.cohorts.limits = server.cohorts.limits, CohortLimits(cohorts=2)
        full = await client.post("/reward", json=sample("three", "x", size=2))
        server.cohorts.limits = before
        assert full.status_code == 429 and int(full.headers["Retry-After"]) > 0, full.text
        for prompt in ("one", "two"):
            await client.post("/reward", json=sample(prompt, "xx", size=2, sample="1"))
        assert [(await one).status_code for one in waiting] == [200, 200]

    server.play(story)


@pytest.mark.unit
def test_an_error_of_the_engine_reaches_all_members_and_they_may_try_again(server: Serving) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        async def post(answer: str, prompt: str) -> int:
            closing = {"Connection": "close"}  # uvicorn closes it after an internal error
            body = sample(prompt, answer, size=2)
            return (await client.post("/reward", json=body, headers=closing)).status_code

        assert await asyncio.gather(post("x", "fails"), post("dead", "fails")) == [500, 500]
        assert await asyncio.gather(post("x", "fails"), post("alive", "fails")) == [200, 200]

    server.play(story)
    assert server.cohorts.counts["failed"] == 1


@pytest.mark.unit
def test_a_server_that_stops_sends_the_members_of_open_cohorts_away() -> None:
    app = LoadingApp("judge", None, None, LOOPBACK_NAMES)
    inner = service(Standin(), BY_FOUR, limits=LIMITS)
    app.replace(inner)
    with running(app) as url, ThreadPoolExecutor(1) as pool:
        server = Serving(url, Standin(), inner.state.cohorts)

        async def story(client: httpx.AsyncClient) -> None:
            waiting = asyncio.create_task(client.post("/reward", json=sample("p", "x")))
            await server.members(1)
            drained = pool.submit(app.drain)
            answer = await waiting
            assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
            assert "stops" in answer.json()["error"]
            drained.result(30)  # it does not wait for the cohort's timeout

        server.play(story)


@pytest.mark.unit
def test_metrics_count_cohorts_and_unread_rewards(server: Serving) -> None:
    def metrics() -> dict[str, float]:
        lines = httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines()
        rows = [line.rsplit(" ", 1) for line in lines if line.startswith("reasongenrm_")]
        return {name: float(value) for name, value in rows}

    unread = metrics()["reasongenrm_rewards_unread_total"]
    server.ask("/reward", sample("metrics", "x", timeout=0.05))
    server.ask("/reward", {"prompt": "p", "answers": ["?", "x", "xx"]})
    seen = metrics()
    assert seen["reasongenrm_rewards_unread_total"] == unread + 2
    assert seen["reasongenrm_cohorts_open"] == 0
    for event in ("judged", "incomplete", "alone"):
        assert seen[f'reasongenrm_cohorts_total{{event="{event}"}}'] == 1
    assert seen['reasongenrm_cohorts_total{event="late"}'] == 0


@pytest.mark.unit
def test_the_api_s_schema_names_the_bodies_of_rewards(server: Serving) -> None:
    schema = httpx.get(f"{server.url}/openapi.json", trust_env=False).json()
    models = {"/reward": "RewardsReply", "/get_reward": "OpenRLHFReply", "/verify": "VerifyReply"}
    for path, name in models.items():
        content = schema["paths"][path]["post"]["responses"]["200"]["content"]
        assert content["application/json"]["schema"]["$ref"].endswith(f"/{name}")
    assert {"size", "id", "sample", "timeout"} == set(
        schema["components"]["schemas"]["CohortPlace"]["properties"]
    )


def gym(prompt: str, answer: str, **more: Any) -> dict[str, Any]:
    """NeMo-Gym's body of /verify."""
    part = {"type": "output_text", "text": answer, "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part],
               "generation_token_ids": [1, 2, 3], "generation_log_probs": [-0.1, -0.2, -0.3]}  # fmt: skip
    response = {"id": "r", "object": "response", "output": [message], "model": "policy", "created_at": 0.0}
    return {
        "responses_create_params": {"input": [{"role": "user", "content": prompt}]},
        "response": response,
    } | more


@pytest.mark.unit
def test_nemo_gym_gets_the_rewards_of_a_cohort_and_its_bodies_back(server: Serving) -> None:
    answers = ["x", "xx", "xxx", "xxxx"]
    bodies = [
        gym("p", answer, _ng_group_id="g", _ng_rollout_index=i, extra={"of": "the row"})
        for i, answer in enumerate(answers)
    ]

    async def story(client: httpx.AsyncClient) -> None:
        for path in ("/seed_session", "/close_session"):
            assert (await client.post(path, json=bodies[0])).json() == {}
        first = asyncio.create_task(client.post("/verify", json=bodies[0]))
        again = asyncio.create_task(client.post("/verify", json=bodies[0]))  # aiohttp may send it twice
        await server.members(1)
        rest = await asyncio.gather(*(client.post("/verify", json=body) for body in bodies[1:]))
        replies = [(await one).json() for one in (first, again)] + [one.json() for one in rest]
        rewards = expected(answers)
        assert [one["reward"] for one in replies] == pytest.approx([rewards[0], *rewards])
        for reply, body in zip(replies[1:], bodies, strict=True):
            assert reply["response"] == body["response"], "with the ids of its tokens"
            assert reply["responses_create_params"] == body["responses_create_params"]
            assert reply["mask_sample"] is False and reply["comparisons"] == 6 and reply["problems"] == []
            assert reply["_ng_rollout_index"] == body["_ng_rollout_index"]
        # The next attempt of the group is a cohort of its own.
        more = [client.post("/verify", json=body | {"_ng_group_attempt": 1}) for body in bodies]
        assert [one.json()["reward"] for one in await asyncio.gather(*more)] == pytest.approx(rewards)

    server.play(story)
    assert server.cohorts.counts["duplicates"] == 1 and server.cohorts.counts["judged"] == 2


@pytest.mark.unit
def test_nemo_gym_masks_a_rollout_without_a_reward(server: Serving) -> None:
    alone = server.ask("/verify", gym("alone", "x", cohort={"size": 3, "timeout": 0.05}))
    assert alone["reward"] == 0.0 and alone["mask_sample"] is True
    assert alone["failure_kind"] == "cohort_incomplete" and "1 of 3 samples" in alone["failure_reason"]
    settings = RewardOptions(settings=RewardSettings(schedule="reference"))
    with serving(settings) as other:
        read = other.ask("/verify", gym("p", "xx", reference="x"))
        assert read["reward"] == pytest.approx(0.731, abs=1e-3) and read["mask_sample"] is False
        unread = other.ask("/verify", gym("p", "?", reference="x"))
        assert unread["mask_sample"] is True and unread["failure_kind"] == "judge_unparseable"
    with serving(RewardOptions(settings=RewardSettings(schedule="pointwise"))) as rater:
        rated = rater.ask("/verify", gym("p", "xx"))  # without a cohort: a rating needs no other rollout
        assert rated["mask_sample"] is False and rated["comparisons"] == 1
    bad = server.post("/verify", gym("p", "x", cohort={"size": "many"}))
    assert bad.status_code == 400 and "cohort" in bad.json()["error"]


@pytest.mark.unit
def test_settings_that_are_no_cohorts_are_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"cohort": 1}, "--cohort"),
        ({"timeout": 0.0}, "--cohort-timeout"),
        ({"settings": RewardSettings.model_validate({"shaping": TOKENS})}, "--rewards: shaping.length_unit"),
    ]
    for options, location in cases:
        with pytest.raises(ConfigError) as caught:
            RewardOptions(**options)
        assert caught.value.location == location and caught.value.hint


@pytest.mark.unit
@pytest.mark.parametrize(
    ("more", "text", "problem"),
    [
        (["--cohort", "65"], None, "65 samples are too many"),
        (["--response-end", ""], None, "--response-end"),
        (["--rewards", "nowhere.yaml"], None, "nowhere.yaml: file of rewards not found"),
        (["--rewards", "."], None, "file of rewards not found"),
        (["--rewards", ""], None, "file of rewards not found"),
        ([], "unread: 2", "correct the file of rewards"),
        ([], "schedule: 2020-01-01", "put quotes around it"),
        ([], "shaping: {overlong: 1, overlong_limit: 9, overlong_cache: 3, length_unit: tokens}", "length_unit"),
    ],
)  # fmt: skip
def test_a_server_does_not_start_with_options_that_it_cannot_keep(
    more: list[str], text: str | None, problem: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from reasongenrm import cli
    from reasongenrm.service import serve as module

    monkeypatch.setattr(module, "listen", pytest.fail)
    if text is not None:
        path = tmp_path / "rewards.yaml"
        path.write_text(text)
        more = ["--rewards", str(path)]
    assert cli.main(["serve", "configs/demo.yaml", *more]) == 2
    error = capsys.readouterr().err
    assert problem in error and "recipe" not in error


@pytest.mark.unit
def test_the_command_line_reads_the_settings_of_rewards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from reasongenrm import cli
    from reasongenrm.service import serve as module

    seen: dict[str, Any] = {}
    monkeypatch.setattr(module, "serve", lambda judge, **keys: seen.update(keys))
    path = tmp_path / "rewards.yaml"
    path.write_text("schedule: circular\nunread: 0.25\n")
    command = ["serve", "configs/demo.yaml", "--port", "0"]
    more = ["--rewards", str(path), "--cohort", "8", "--cohort-timeout", "60", "--response-end", "<|im_end|>"]
    assert cli.main([*command, *more]) == 0
    assert seen["ends"] == ("<|im_end|>",)
    assert seen["rewards"] == RewardOptions(RewardSettings(schedule="circular", unread=0.25), 8, 60)
    path.write_text("schedul: circular\n")
    assert cli.main([*command, *more]) == 2
    assert "schedul" in capsys.readouterr().err
    assert cli.main([*command, "--cohort", "1"]) == 2
    assert cli.main(["serve", "--scalar", "nowhere", "--cohort", "8"]) == 2
    assert "compares no samples" in capsys.readouterr().err


@pytest.mark.engine
def test_cohorts_of_a_real_engine_have_the_rewards_of_their_groups(
    engine: VLLMEngine, encoders: dict[str, ChatEncoder], toy_prompts: PromptFile
) -> None:
    judge = Judge(engine, encoders["reason"], toy_prompts, JudgingConfig(max_tokens=12))
    groups = [Group(f"count to {n}", ["no", "one two", " ".join(map(str, range(n)))]) for n in (3, 5, 7)]
    own = judge_groups(judge, groups, RewardSettings())
    with SharedJudge(judge) as shared, running(create_app(shared, rewards=RewardOptions(cohort=3))) as url:

        async def run() -> list[list[float]]:
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120) as client:

                async def one(group: Group, answer: str) -> float:
                    reply = await client.post("/get_reward", json=posted(str(group.prompt), answer))
                    value: float = reply.json()["rewards"][0]
                    return value

                rows = [asyncio.gather(*(one(group, text) for text in group.answers)) for group in groups]
                return list(await asyncio.gather(*rows))

        # `ends` is not set: the marker would be a part of the answers.
        rewards = asyncio.run(run())
    for row, group in zip(rewards, own, strict=True):
        assert row == pytest.approx(group.rewards, abs=1e-3)
    assert len({value for row in rewards for value in row}) > 6, "they are not all the same"


class Killed:
    """A server in a child process that is killed and started again on the same port."""

    def __init__(self, timeout: float) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.command = [sys.executable, "-m", "support.cohort_service", str(self.port), "4", str(timeout)]
        paths = os.pathsep.join(["tests", *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = os.environ | {"PYTHONPATH": paths}

    def start(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            self.command, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=self.environment
        )
        assert self.process.stdout and "served at" in self.process.stdout.readline()

    def end(self, kind: signal.Signals) -> None:
        self.process.send_signal(kind)
        self.process.wait(60)
        assert self.process.stdout
        self.process.stdout.close()


GROUPS = {f"p{n}": ["x" * (1 + (5 * n + 3 * i) % 7) for i in range(4)] for n in range(12)}


async def insist(client: httpx.AsyncClient, prompt: str, i: int) -> tuple[Any, int]:
    """Post a sample until there is an answer; returns it, and the number of times that it was lost."""
    lost = 0
    while True:
        try:
            answered = await client.post("/reward", json=sample(prompt, GROUPS[prompt][i], sample=str(i)))
            if answered.status_code == 200:
                return answered.json(), lost
            assert answered.status_code == 503, answered.text
        except httpx.TransportError:
            lost += 1
        await asyncio.sleep(0.05)


def client_of(server: Killed) -> httpx.AsyncClient:
    url, limits = f"http://127.0.0.1:{server.port}", httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=url, trust_env=False, timeout=60, limits=limits)


@pytest.mark.unit
@pytest.mark.slow
def test_cohorts_of_a_server_that_was_killed_form_anew_when_their_samples_are_sent_again() -> None:
    server = Killed(60)

    async def story() -> None:
        server.start()
        async with client_of(server) as client:
            early = {(p, i): asyncio.create_task(insist(client, p, i)) for p in GROUPS for i in range(3)}
            await asyncio.sleep(1)
            server.end(signal.SIGKILL)
            await asyncio.sleep(0.2)
            server.start()
            late = {(p, 3): asyncio.create_task(insist(client, p, 3)) for p in GROUPS}
            for (prompt, i), task in (early | late).items():
                reply, lost = await task
                assert reply["rewards"] == pytest.approx([expected(GROUPS[prompt])[i]])
                assert reply["samples"] == 4 and not reply["problems"]
                assert lost or i == 3, "it was posted to the first server"
        server.end(signal.SIGTERM)

    asyncio.run(story())


@pytest.mark.unit
@pytest.mark.slow
def test_a_server_that_is_killed_again_and_again_returns_nothing_wrong() -> None:
    """Samples trickle in, some after their cohort was answered or lost: a reward is of the samples that it names."""
    server, draw = Killed(0.5), random.Random(3)

    async def story() -> list[tuple[str, int, Any]]:
        lives = [asyncio.Event() for _ in range(4)]
        async with client_of(server) as client:

            async def one(prompt: str, i: int) -> tuple[str, int, Any]:
                await draw.choice(lives).wait()
                await asyncio.sleep(draw.uniform(0, 1.5))
                return prompt, i, (await insist(client, prompt, i))[0]

            tasks = [asyncio.create_task(one(prompt, i)) for prompt in GROUPS for i in range(4)]
            for number, life in enumerate(lives):
                server.start()
                life.set()
                if number < 3:
                    await asyncio.sleep(draw.uniform(1, 2))
                    server.end(signal.SIGKILL)
            replies = await asyncio.gather(*tasks)
        server.end(signal.SIGTERM)
        return replies

    sizes = Counter[int]()
    for prompt, i, reply in asyncio.run(story()):
        sizes[reply["samples"]] += 1
        others = combinations([j for j in range(4) if j != i], reply["samples"] - 1)
        groups = [[GROUPS[prompt][j] for j in (i, *rest)] for rest in others]
        [reward] = reply["rewards"]
        assert any(reward == pytest.approx(expected(group)[0]) for group in groups), (prompt, i, reply)
        assert reply["problems"] or reply["samples"] == 4
        assert (reward is None) == (reply["samples"] == 1)
    assert sizes.total() == 48 and len(sizes) > 1, "whole cohorts and parts of them"
