"""What a server says of itself: metrics, schemas of its answers, and that it is full."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.judge.api import DEFAULT_PROMPTS, Judge
from reasongenrm.judge.remote import RemoteJudge
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.service import replies
from reasongenrm.service.bodies import Limits
from reasongenrm.service.server import create_app
from support.app import running, wait_until
from support.live_engine import LiveEngine

pytestmark = pytest.mark.unit

ROW = {"prompt": "p", "a": "x", "b": "y"}
RUBRIC = {"criteria": [{"name": "short", "text": "is it short ?"}, {"name": "true", "text": "is it true ?"}]}
BODIES: list[tuple[str, Any, Any]] = [
    ("/compare", ROW, replies.ComparisonReply),
    ("/compare", ROW | {"rubric": RUBRIC}, replies.ComparisonReply),
    ("/score", {"prompt": "p", "answer": "x", "reference": "y"}, replies.ScoreReply),
    ("/rate", {"prompt": "p", "answer": "x"}, replies.RatingReply),
    ("/rate", {"prompt": "p", "answer": "x", "rubric": RUBRIC}, replies.RatingReply),
    ("/rank", {"prompt": "p", "answers": ["x", "y", "z"]}, replies.RankingReply),
    ("/best_of_n", {"prompt": "p", "answers": ["x", "y", "z"]}, replies.BestReply),
    ("/compare_many", {"rows": [ROW]}, replies.RowsReply),
    ("/rate_many", {"rows": [{"prompt": "p", "answer": "x"}]}, replies.RowsReply),
]


@pytest.fixture
def engine() -> LiveEngine:
    return LiveEngine(slots=2)


@pytest.fixture
def shared(engine: LiveEngine) -> Iterator[SharedJudge]:
    judge = Judge(engine, None, PromptFile.load(DEFAULT_PROMPTS), JudgingConfig(rescue=False))
    with SharedJudge(judge, seconds=60) as one:
        yield one


def client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, trust_env=False, timeout=60)


def test_answers_and_problems_have_the_schema_that_the_server_shows(shared: SharedJudge) -> None:
    with running(create_app(shared)) as url, client(url) as http:
        schema = http.get("/openapi.json").json()
        answers = [(path, http.post(path, json=body), kind) for path, body, kind in BODIES]
        answers.append(("/health", http.get("/health"), replies.HealthReply))
        problem = http.post("/compare", json={})
    for path, answer, kind in answers:
        assert answer.status_code == 200, answer.text
        TypeAdapter(kind).validate_python(answer.json())
        [operation] = schema["paths"][path].values()
        shown = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert shown == {"$ref": f"#/components/schemas/{kind.__name__}"} and operation["summary"]
        assert {"401", "422", "429", "503"} <= set(operation["responses"])
    assert problem.status_code == 422
    replies.Problem.model_validate(problem.json())
    used = schema["components"]["schemas"]
    assert set(used["ComparisonReply"]["properties"]) == set(answers[1][1].json())
    assert set(used["RatingReply"]["properties"]) == set(answers[4][1].json())


def test_metrics_count_requests_results_and_load(shared: SharedJudge, engine: LiveEngine) -> None:
    with (
        running(create_app(shared, limits=Limits(answers=3))) as url,
        client(url) as http,
        ThreadPoolExecutor(3) as pool,
    ):
        assert http.post("/compare", json=ROW).status_code == 200
        assert http.post("/compare", json=ROW | {"a": "vague"}).json()["winner"] is None
        assert http.post("/rate", json={"prompt": "p", "answer": "x"}).status_code == 200
        assert http.post("/rank", json={"prompt": "p", "answers": ["x"] * 4}).status_code == 413
        assert http.get("/nowhere").status_code == 404
        engine.go_on.clear()
        try:
            late = [pool.submit(http.post, "/compare", json=ROW | {"a": str(n)}) for n in range(3)]
            wait_until(lambda: (shared.waiting, shared.running) == (2, 1))
            answer = http.get("/metrics")
        finally:
            engine.go_on.set()
        assert all(future.result(30).status_code == 200 for future in late)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = answer.text.splitlines()
    for line in (
        'reasongenrm_requests_total{route="/compare",status="200"} 2.0',
        'reasongenrm_requests_total{route="/rank",status="413"} 1.0',
        'reasongenrm_requests_total{route="other",status="404"} 1.0',
        'reasongenrm_request_seconds_count{route="/rate"} 1.0',
        "reasongenrm_comparisons_total 2.0",
        "reasongenrm_ratings_total 1.0",
        "reasongenrm_unread_total 1.0",
        "reasongenrm_rewards_unread_total 0.0",
        "reasongenrm_waiting 2.0",
        "reasongenrm_running 1.0",
        'reasongenrm_cohorts_total{event="judged"} 0.0',
    ):
        assert line in lines, answer.text


def test_metrics_need_the_key(shared: SharedJudge) -> None:
    with running(create_app(shared, api_key="sesame")) as url, client(url) as http:
        assert http.get("/metrics").status_code == 401
        assert http.get("/metrics", headers={"Authorization": "Bearer sesame"}).status_code == 200


def test_a_full_server_says_when_to_ask_again_and_a_python_client_does(
    shared: SharedJudge, engine: LiveEngine
) -> None:
    rows = [(f"p{n}", "a", "b") for n in range(6)]
    own = list(shared._judge.compare_many(rows))  # type: ignore[arg-type]
    with (
        running(create_app(shared, limits=Limits(waiting=2))) as url,
        client(url) as http,
        ThreadPoolExecutor(4) as pool,
    ):
        engine.go_on.clear()
        try:
            held = [pool.submit(http.post, "/compare", json=ROW | {"a": str(n)}) for n in range(3)]
            wait_until(lambda: (shared.waiting, shared.running) == (2, 1))
            refused = http.post("/compare", json=ROW)
            assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
            assert set(refused.json()) == {"error", "hint"} and "2 requests wait" in refused.json()["error"]
            assert http.get("/health").status_code == 200, "only what needs the judge is refused"
            patient = pool.submit(lambda: list(RemoteJudge(url).compare_many(rows)))  # type: ignore[arg-type]
            wait_until(lambda: len(_refusals(http)) > 0 and _refusals(http)[0] >= 4)
        finally:
            engine.go_on.set()
        assert all(future.result(30).status_code == 200 for future in held)
        assert [one.reason for one in patient.result(30)] == [one.reason for one in own]


def _refusals(http: httpx.Client) -> list[float]:
    start = 'reasongenrm_requests_total{route="/compare",status="429"} '
    return [
        float(line.removeprefix(start))
        for line in http.get("/metrics").text.splitlines()
        if line.startswith(start)
    ]
