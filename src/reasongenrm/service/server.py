"""The judge over HTTP: its routes."""

# No `from __future__ import annotations`: FastAPI reads the annotations of nested functions.
from typing import Any

from reasongenrm.errors import EngineError, ReasonGenRMError
from reasongenrm.judge.api import with_rubric
from reasongenrm.judge.ask import preference
from reasongenrm.judge.columns import comparison_columns, rating_columns
from reasongenrm.judge.sharing import JudgeBusy, JudgeFull, QueuedJudge
from reasongenrm.service.alarm_routes import add_alarm_route
from reasongenrm.service.bodies import (
    DEFAULT_LIMITS,
    BestRequest,
    CompareRequest,
    CompareRows,
    Limits,
    RankRequest,
    RateRequest,
    RateRows,
    ScoreRequest,
    TooLarge,
)
from reasongenrm.service.metrics import Measured, Metrics
from reasongenrm.service.replies import (
    PROBLEMS,
    BestReply,
    ComparisonReply,
    HealthReply,
    RankingReply,
    RatingReply,
    RowsReply,
    ScoreReply,
    comparison_json,
    documented,
    ranking_json,
    rating_json,
)
from reasongenrm.service.results import result
from reasongenrm.service.reward_options import DEFAULT_REWARDS, RewardOptions
from reasongenrm.service.reward_routes import (
    REWARD_PATHS,
    REWARD_STATUSES,
    add_reward_routes,
)
from reasongenrm.serving import LOOPBACK_NAMES, Gate, OwnSite, add_error_handlers


def create_app(
    judge: QueuedJudge,
    *,
    api_key: str | None = None,
    model: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    ends: tuple[str, ...] = (),
    hosts: frozenset[str] | None = LOOPBACK_NAMES,
    fingerprint: str | None = None,
    rewards: RewardOptions = DEFAULT_REWARDS,
) -> Any:
    """Return the FastAPI app of a judge.

    Args:
        judge: the judge; it stays open.
        api_key: bearer key that every request must send.
        model: the model's name in /health.
        limits: of one request.
        ends: see `rewards.completions.openrlhf_responses`.
        hosts: host names that requests may use; None accepts all.
        fingerprint: of the judge, in /health (see `service.warm`).
        rewards: settings of rewards and cohorts.
    """
    from fastapi import Depends, FastAPI, Request, Response

    async def check_room(request: Request) -> None:
        if request.method == "POST":
            judge.check_room(limits.waiting)

    # No documentation pages: they load scripts from other hosts.
    app = FastAPI(
        title="reasongenrm",
        summary="A judge of answers: comparisons, ratings, rankings and rewards.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would go to the Host that the client names
        dependencies=[Depends(check_room)],
        responses=PROBLEMS,
    )
    app.state.metrics = metrics = Metrics(judge)
    larger = dict.fromkeys(REWARD_PATHS, limits.rewards_body) | dict.fromkeys(ROWS_PATHS, limits.rows_body)
    app.add_middleware(Gate, key=api_key, max_bytes=limits.body, larger=larger)
    app.add_middleware(OwnSite, hosts=hosts)
    app.add_middleware(Measured, metrics=metrics)
    statuses: dict[type[ReasonGenRMError], int] = {
        JudgeBusy: 503,
        JudgeFull: 429,
        EngineError: 500,
        TooLarge: 413,
        **REWARD_STATUSES,
    }
    add_error_handlers(app, statuses)

    @app.get("/health", **documented(HealthReply, "Whether the judge is ready, and what it has done"))
    async def health() -> dict[str, Any]:
        counts = judge.counts | {"waiting": judge.waiting, "running": judge.running}
        facts = {"model": model, "adapter": judge.adapter, "fingerprint": fingerprint}
        return {"status": "ok", **facts, "counts": counts}

    @app.get("/metrics", summary="Metrics in Prometheus' text format", response_class=Response)
    async def read_metrics() -> Response:
        from prometheus_client import CONTENT_TYPE_LATEST

        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    _add_single_routes(app, judge, limits)
    cohorts = add_reward_routes(app, judge, limits, ends, rewards)
    app.state.on_stop = [cohorts.close]
    metrics.watch("reasongenrm_cohorts", "Cohorts and their samples.", lambda: cohorts.counts, "event")
    metrics.watch_load("reasongenrm_cohorts_open", "Cohorts that are not judged yet.", lambda: cohorts.open)
    add_alarm_route(app, metrics.registry)
    _add_tournaments(app, judge, limits)
    _add_row_routes(app, judge)
    return app


def _add_single_routes(app: Any, judge: QueuedJudge, limits: Limits) -> None:
    from fastapi import Request
    from fastapi.responses import JSONResponse

    # Responses, here and below: FastAPI would look at every value of a dict for one that JSON does not know.
    @app.post("/compare", **documented(ComparisonReply, "Compare two answers"))
    async def compare(body: CompareRequest, request: Request) -> JSONResponse:
        row = body.row(limits)
        [comparison] = await result(request, judge.submit([row]), limits.seconds)
        return JSONResponse(comparison_json(comparison))

    @app.post("/score", **documented(ScoreReply, "Score an answer against a reference"))
    async def score(body: ScoreRequest, request: Request) -> JSONResponse:
        prompt = body.checked_prompt(limits, body.answer, body.reference)
        row = with_rubric((prompt, body.answer, body.reference), body.rubric)
        [comparison] = await result(request, judge.submit([row]), limits.seconds)
        return JSONResponse({"score": preference(comparison), **comparison_json(comparison)})

    @app.post("/rate", **documented(RatingReply, "Rate one answer"))
    async def rate(body: RateRequest, request: Request) -> JSONResponse:
        row = body.row(limits)
        [rating] = await result(request, judge.submit_ratings([row]), limits.seconds)
        return JSONResponse(rating_json(rating))


def _add_tournaments(app: Any, judge: QueuedJudge, limits: Limits) -> None:
    from fastapi.responses import JSONResponse

    # Plain functions, which FastAPI runs in threads: they wait for each of their rounds.
    @app.post("/rank", **documented(RankingReply, "Rank several answers"))
    def rank(body: RankRequest) -> JSONResponse:
        prompt = body.checked_prompt(limits, *body.answers)
        ranking = judge.rank(prompt, body.answers, method=body.method, rubric=body.rubric)
        return JSONResponse(ranking_json(ranking))

    @app.post("/best_of_n", **documented(BestReply, "Find the best of several answers"))
    def best_of_n(body: BestRequest) -> JSONResponse:
        prompt = body.checked_prompt(limits, *body.answers)
        best = judge.best_of_n(prompt, body.answers, rubric=body.rubric)
        return JSONResponse({"index": best.index, "answer": best.answer, **ranking_json(best.ranking)})


ROWS_PATHS = ("/compare_many", "/rate_many")
"""Paths for the rows of a file: one request holds as many as the judge takes at once, and waits without a limit."""


def _add_row_routes(app: Any, judge: QueuedJudge) -> None:
    from fastapi import Request
    from fastapi.responses import JSONResponse

    @app.post(
        "/compare_many", **documented(RowsReply, "Compare the rows of a file, apart from other requests")
    )
    async def compare_many(body: CompareRows, request: Request) -> JSONResponse:
        comparisons = await result(request, judge.submit(body.judge_rows(), alone=True), None)
        return JSONResponse({"results": [comparison_columns(comparison) for comparison in comparisons]})

    @app.post("/rate_many", **documented(RowsReply, "Rate the rows of a file, apart from other requests"))
    async def rate_many(body: RateRows, request: Request) -> JSONResponse:
        ratings = await result(request, judge.submit_ratings(body.judge_rows(), alone=True), None)
        return JSONResponse({"results": [rating_columns(rating) for rating in ratings]})
