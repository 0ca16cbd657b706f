"""The judge over HTTP: a real uvicorn server on a real engine, with valid and invalid clients."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.errors import ConfigError, DataError, EngineError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.ask import preference
from reasongenrm.judge.inputs import ComparisonInput
from reasongenrm.judge.remote import RemoteJudge
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.records import Comparison
from reasongenrm.rewards.group import GroupReward
from reasongenrm.rewards.verl import compute_score_sync
from reasongenrm.service.bodies import Limits
from reasongenrm.service.serve import serve
from reasongenrm.service.server import create_app
from support.app import running, wait_until

pytestmark = pytest.mark.engine

SMALL = Limits(body=20_000, text=2000, turns=3, answers=4, queries=6)
CLOSE = 1e-3
"""What the composition of a batch does to a probability of the tiny model, and more."""


class Watched(Judge):
    """A judge that notes the rows of each request, can be held at one, and fails on demand."""

    calls: list[list[ComparisonInput]]
    inside: threading.Event
    go_on: threading.Event

    def comparisons(self, rows: Iterable[tuple[int, ComparisonInput]]) -> Any:
        batch = list(rows)
        self.calls.append([row for _, row in batch])
        self.inside.set()
        assert self.go_on.wait(60)
        if any(row[1] == "die" for _, row in batch):
            raise RuntimeError("/secret/path")
        return super().comparisons(batch)


@dataclass
class Serving:
    """A server and its judge."""

    url: str
    judge: Watched
    shared: SharedJudge

    def client(self, **options: Any) -> Any:
        import httpx

        return httpx.Client(base_url=self.url, trust_env=False, timeout=120, **options)

    def post(self, path: str, body: Any, **options: Any) -> Any:
        with self.client() as client:
            return client.post(path, json=body, **options)

    def ask(self, path: str, body: Any) -> Any:
        answer = self.post(path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @contextmanager
    def held(self) -> Iterator[None]:
        """The engine's thread stays at its first request until the end."""
        self.judge.calls.clear()
        self.judge.inside.clear()
        self.judge.go_on.clear()
        try:
            yield
        finally:
            self.judge.go_on.set()

    def wait_for(self, waiting: int) -> None:
        assert self.judge.inside.wait(60)
        wait_until(lambda: self.ask_health()["waiting"] == waiting)

    def ask_health(self) -> Any:
        with self.client() as client:
            return client.get("/health").json()["counts"]


@pytest.fixture(scope="module")
def judge(engine: VLLMEngine, encoders: dict[str, ChatEncoder], toy_prompts: PromptFile) -> Watched:
    watched = Watched(engine, encoders["reason"], toy_prompts, JudgingConfig(max_tokens=12))
    watched.calls, watched.inside, watched.go_on = [], threading.Event(), threading.Event()
    watched.go_on.set()
    return watched


@pytest.fixture(scope="module")
def server(judge: Watched) -> Iterator[Serving]:
    with SharedJudge(judge) as shared:
        app = create_app(shared, model="tiny", limits=SMALL, ends=("<|im_end|>",))
        with running(app) as url:
            yield Serving(url, judge, shared)


ROWS: list[ComparisonInput] = [
    (f"count to {n}", " ".join(map(str, range(n))), "no" * n) for n in range(1, 13)
]


def body(row: ComparisonInput) -> dict[str, Any]:
    return {"prompt": row[0], "a": row[1], "b": row[2]}


def same(reply: dict[str, Any], comparison: Comparison) -> bool:
    assert reply["prob_a"] == pytest.approx(comparison.prob_a, abs=CLOSE)
    return bool(
        reply["outcome"] == comparison.outcome
        and reply["prompt_tokens"] == comparison.prompt_tokens
        and reply["tokens"] == comparison.tokens
        and reply["problem"] is None
    )


def test_a_comparison_equals_that_of_the_judge(server: Serving) -> None:
    own = server.judge.compare(*ROWS[3])
    reply = server.ask("/compare", body(ROWS[3]))
    assert set(reply) == {
        "winner",
        "prob_a",
        "reason",
        "reasons",
        "outcome",
        "prompt_tokens",
        "tokens",
        "problem",
    }
    assert reply["winner"] == own.winner and reply["winner"] in ("A", "B", "tie") and same(reply, own)
    assert set(reply["reasons"]) == {"AB", "BA"} and reply["reason"] == reply["reasons"]["AB"]
    turns = [{"role": "user", "content": ROWS[3][0]}]
    again = server.ask("/compare", {"messages": turns, "a": ROWS[3][1], "b": ROWS[3][2]})
    assert again == reply
    scored = server.ask("/score", {"prompt": ROWS[3][0], "answer": ROWS[3][1], "reference": ROWS[3][2]})
    assert scored.pop("score") == reply["prob_a"] == preference(own) and scored == reply


def test_concurrent_clients_get_the_results_of_sequential_ones(server: Serving) -> None:
    one_by_one = [server.ask("/compare", body(row)) for row in ROWS]
    with ThreadPoolExecutor(len(ROWS)) as pool:
        together = list(pool.map(lambda row: server.ask("/compare", body(row)), ROWS))
    for sequential, concurrent in zip(one_by_one, together, strict=True):
        assert concurrent["prob_a"] == pytest.approx(sequential["prob_a"], abs=CLOSE)
        assert [concurrent[name] for name in ("outcome", "tokens", "prompt_tokens")] == [
            sequential[name] for name in ("outcome", "tokens", "prompt_tokens")
        ]
    assert len({reply["prob_a"] for reply in one_by_one}) > 6, "they are not all the same"


def test_waiting_clients_are_judged_together(server: Serving) -> None:
    with ThreadPoolExecutor(len(ROWS)) as pool:
        with server.held():
            first = pool.submit(server.ask, "/compare", body(ROWS[0]))
            server.wait_for(0)
            later = [pool.submit(server.ask, "/compare", body(row)) for row in ROWS[1:8]]
            ranked = pool.submit(server.ask, "/rank", {"prompt": "rank", "answers": ["x", "yy", "zzz"]})
            server.wait_for(8)
        assert [future.result(60)["outcome"] for future in (first, *later)]
        assert len(ranked.result(60)["games"]) == 3
    assert sorted(len(call) for call in server.judge.calls) == [1] * 8 + [3]


def test_a_ranking_equals_that_of_the_judge(server: Serving) -> None:
    answers = ["one", "two two", "three three three", "four"]
    for method in ("round_robin", "knockout"):
        own = server.judge.rank("which", answers, method=method)  # type: ignore[arg-type]
        reply = server.ask("/rank", {"prompt": "which", "answers": answers, "method": method})
        assert reply["order"] == list(own.order) and reply["unread"] == 0
        assert reply["ratings"] == pytest.approx(own.ratings, abs=0.01)
        assert [(g["first"], g["second"]) for g in reply["games"]] == [(g.first, g.second) for g in own.games]
        assert reply["prompt_tokens"] > 0 < reply["tokens"]
    best = server.ask("/best_of_n", {"prompt": "which", "answers": answers})
    assert best["answer"] == answers[best["index"]] and best["index"] == best["order"][0]


GOOD = body(ROWS[0])
TURN = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("/compare", {"prompt": "p", "a": "x"}, 422),
        ("/compare", GOOD | {"extra": 1}, 422),
        ("/compare", GOOD | {"a": 7}, 422),
        ("/compare", GOOD | {"messages": [TURN]}, 422),
        ("/compare", {"a": "x", "b": "y"}, 422),
        ("/compare", {"messages": [{"role": "reason", "content": "q"}], "a": "x", "b": "y"}, 422),
        ("/compare", {"messages": [TURN, TURN], "a": "x", "b": "y"}, 400),
        ("/compare", {"messages": [], "a": "x", "b": "y"}, 400),
        ("/compare", GOOD | {"prompt": "  "}, 400),
        ("/compare", GOOD | {"a": "x" * 2001}, 413),
        ("/compare", GOOD | {"prompt": "x" * 2001}, 413),
        ("/compare", {"messages": [TURN] * 4, "a": "x", "b": "y"}, 413),
        ("/compare", GOOD | {"a": "x" * 30_000}, 413),
        ("/compare", [1, 2], 422),
        ("/score", GOOD, 422),
        ("/rank", {"prompt": "p", "answers": []}, 422),
        ("/rank", {"prompt": "p", "answers": ["x"] * 5}, 413),
        ("/rank", {"prompt": "p", "answers": ["x", "y"], "method": "guess"}, 422),
        ("/best_of_n", {"prompt": "p", "answers": ["x", 1]}, 422),
        ("/get_reward", {"query": ["pa"], "prompts": ["p", "q"]}, 422),
        ("/get_reward", {"query": ["pa"], "prompts": ["p"]}, 400),
        ("/get_reward", {"query": ["pa", "qb"], "prompts": ["p", "q"], "labels": ["", None]}, 400),
        ("/get_reward", {"query": ["pa", "qb"], "prompts": ["p", "p"]}, 400),
        ("/get_reward", {"query": ["p"] * 5, "prompts": ["p"] * 5}, 413),
        ("/get_reward", {"query": ["p"] * 7, "prompts": ["p"] * 7, "labels": ["x"] * 7}, 413),
        ("/nowhere", {}, 404),
        ("/health", {}, 405),
    ],
)
def test_an_invalid_body_is_answered_with_error_and_hint(
    server: Serving, path: str, sent: Any, status: int
) -> None:
    before = server.ask_health()
    answer = server.post(path, sent)
    assert answer.status_code == status, answer.text
    reply = answer.json()
    assert set(reply) == {"error", "hint"} and reply["error"] and "Traceback" not in answer.text
    assert server.ask_health() == before, "the engine saw nothing of it"


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("/compare_many", GOOD, GOOD | {"prompt": " "}),
        ("/rate_many", {"prompt": "p", "answer": "x"}, {"messages": [TURN, TURN], "answer": "x"}),
    ],
)
def test_an_invalid_row_of_a_file_is_named(server: Serving, path: str, good: Any, bad: Any) -> None:
    answer = server.post(path, {"rows": [good, good, bad]})
    assert answer.status_code == 400, answer.text
    place = "prompt" if "prompt" in bad else "messages"
    assert answer.json()["error"].startswith(f"rows[2].{place}"), answer.text


@pytest.mark.parametrize(
    ("raw", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 422),
        (b"\xff\xfe{}", "application/json", 400),
        (json.dumps(GOOD).encode(), "text/plain", 415),
        (b"[" * 15_000, "application/json", 400),
    ],
)
def test_a_body_that_is_not_json_is_refused(server: Serving, raw: bytes, kind: str, status: int) -> None:
    with server.client() as client:
        answer = client.post("/compare", content=raw, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "hint"}


def test_half_of_a_surrogate_pair_is_a_question_mark(server: Serving) -> None:
    with server.client() as client:
        raw = json.dumps({"prompt": "p\ud800", "answers": ["\udfff", "?"]})
        reply = client.post("/best_of_n", content=raw, headers={"Content-Type": "application/json"}).json()
    assert reply["answer"] == "?" and server.judge.calls[-1] == [
        ([{"role": "user", "content": "p?"}], "?", "?")
    ]


def test_a_body_without_a_length_is_cut_at_the_limit(server: Serving) -> None:
    sent: list[int] = []

    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            sent.append(1)
            yield b" " * 1000

    with server.client() as client:
        answer = client.post("/compare", content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413 and "20000 bytes" in answer.json()["error"]


def test_bad_requests_do_not_affect_good_ones(server: Serving) -> None:
    bad = [GOOD | {"prompt": ""}, GOOD | {"a": None}, {"messages": [TURN, TURN], "a": "x", "b": "y"}]
    expected = [server.ask("/compare", body(row)) for row in ROWS[:4]]
    with ThreadPoolExecutor(8) as pool:
        with server.held():
            first = pool.submit(server.post, "/compare", GOOD)
            server.wait_for(0)
            good = [pool.submit(server.ask, "/compare", body(row)) for row in ROWS[:4]]
            refused = [pool.submit(server.post, "/compare", sent) for sent in bad]
            assert [future.result(60).status_code for future in refused] == [400, 422, 400]
            server.wait_for(4)
        for future, expected_reply in zip(good, expected, strict=True):
            assert future.result(60)["prob_a"] == pytest.approx(expected_reply["prob_a"], abs=CLOSE)
        assert first.result(60).status_code == 200
    assert len(server.judge.calls) == 1 + 4


def test_an_answer_too_long_for_the_context_fails_alone(server: Serving) -> None:
    with ThreadPoolExecutor(2) as pool:
        with server.held():
            pool.submit(server.post, "/compare", GOOD)
            server.wait_for(0)
            long = pool.submit(server.ask, "/compare", GOOD | {"a": "1 2 3 " * 300})
            server.wait_for(1)
            short = threading.Thread(target=server.ask, args=("/compare", body(ROWS[1])))
            short.start()
            server.wait_for(2)
        reply = long.result(60)
        short.join(60)
    assert reply["winner"] is None and reply["outcome"] == "error" and reply["problem"]


def test_an_engine_that_fails_is_a_500_and_the_next_request_is_answered(server: Serving) -> None:
    answer = server.post("/compare", GOOD | {"a": "die"})
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal server error", "hint": "see the log of the server"}
    assert server.ask("/compare", GOOD)["outcome"] == "ok"


def test_a_disconnected_client_is_not_judged(server: Serving) -> None:
    raw = json.dumps(GOOD | {"a": "nobody waits"}).encode()
    head = b"POST /compare HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    with ThreadPoolExecutor(2) as pool:
        with server.held():
            first = pool.submit(server.ask, "/compare", GOOD)
            server.wait_for(0)
            with socket.create_connection((host, int(port))) as half:  # it hangs up in the midst of its body
                half.sendall(head % len(raw) + raw[:10])
            with socket.create_connection((host, int(port))) as leaving:
                leaving.sendall(head % len(raw) + raw)
                server.wait_for(1)
            server.wait_for(0)
            last = pool.submit(server.ask, "/compare", body(ROWS[1]))
            server.wait_for(1)
        assert first.result(60)["outcome"] == last.result(60)["outcome"] == "ok"
    assert [row[1] for call in server.judge.calls for row in call] == [GOOD["a"], ROWS[1][1]]


def test_openrlhf_gets_rewards_by_reference_or_by_group(server: Serving) -> None:
    prompts = ["p: ", "p: ", "q: "]
    answers = ["one", "two two", "three"]
    sent = {
        "query": [p + a + "<|im_end|>" for p, a in zip(prompts, answers, strict=True)],
        "prompts": prompts,
    }
    reply = server.ask("/get_reward", sent | {"labels": ["", "", "gold"]})
    assert reply["scores"] == reply["rewards"] and reply["extra_logs"] == {"judge_unread": 0}
    own = [
        preference(server.judge.compare("p: ", "one", "two two")),
        preference(server.judge.compare("q: ", "three", "gold")),
    ]
    assert None not in own
    assert reply["rewards"] == pytest.approx([own[0], 1 - (own[0] or 0), own[1]], abs=CLOSE)
    single = server.ask("/get_reward", {"query": ["q: three"], "prompts": ["q: "], "labels": ["gold"]})
    assert single["rewards"] == pytest.approx([own[1]], abs=CLOSE)
    none = server.ask("/get_reward", {"query": [], "prompts": [], "labels": []})
    assert none == {"rewards": [], "scores": [], "extra_logs": {"judge_unread": 0}}, (
        "as to the second of two servers"
    )


def test_a_key_is_required_if_one_is_set(judge: Watched) -> None:
    import httpx

    with SharedJudge(judge) as shared, running(create_app(shared, api_key="sésame-1")) as url:
        right = {"Authorization": "Bearer sésame-1".encode()}
        for headers in (
            {},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer sesame-1"},
            {"Authorization": b"\xff"},
        ):
            for method, path in (("GET", "/health"), ("POST", "/compare"), ("GET", "/openapi.json")):
                sent = headers | {"Content-Type": "application/json"}
                answer = httpx.request(method, url + path, headers=sent, content=b"x" * 10, trust_env=False)
                assert answer.status_code == 401 and set(answer.json()) == {"error", "hint"}
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        health = httpx.get(url + "/health", headers=right, trust_env=False)
        assert health.status_code == 200 and health.json()["adapter"] is None
        assert (
            httpx.post(url + "/compare", headers=right, json=GOOD, trust_env=False, timeout=60).status_code
            == 200
        )


def test_health_returns_model_and_counts(server: Serving) -> None:
    before = server.ask_health()
    server.ask("/best_of_n", {"prompt": "p", "answers": ["x", "y"]})
    with server.client() as client:
        reply = client.get("/health").json()
    assert (reply["status"], reply["model"], reply["adapter"]) == ("ok", "tiny", None)
    grown = {name: reply["counts"][name] - before[name] for name in before}
    assert grown.pop("requests") == grown.pop("comparisons") == 1 and not any(grown.values())
    assert set(grown) == {"ratings", "choices", "unread", "waiting", "running"}


def test_a_remote_judge_gives_the_comparisons_of_the_judge(server: Serving) -> None:
    remote = RemoteJudge(server.url + "/")
    comparisons = list(remote.compare_many(ROWS))
    own = list(server.judge.compare_many(ROWS))
    for there, here in zip(comparisons, own, strict=True):
        assert there.prob_a == pytest.approx(here.prob_a, abs=CLOSE) and there.tokens == here.tokens
        assert there.reason == there.reasons["AB"] and there.reasons.keys() == here.reasons.keys()
    prompt = [{"role": "user", "content": "p"}]
    rewards = GroupReward(remote)([prompt] * 2, ["one", "two"])
    assert sum(filter(None, rewards)) == pytest.approx(1) and rewards[0] != 0.5
    with pytest.raises(DataError, match="empty"):
        list(remote.compare_many([("", "a", "b")]))
    with pytest.raises(EngineError, match="internal server error"):
        list(remote.compare_many([("p", "die", "b")]))
    with pytest.raises(EngineError, match="does not answer"):
        list(RemoteJudge("http://127.0.0.1:9").compare_many(ROWS[:1]))


def test_verl_gets_the_rewards_of_a_served_judge(server: Serving) -> None:
    options = {"url": server.url, "settings": {"schedule": "reference", "unread": 0.5}}
    info = {"question": ROWS[2][0]}
    one = compute_score_sync("s", ROWS[2][1], ROWS[2][2], info, **options)
    assert isinstance(one, dict) and one["judge_problem"] == 0
    assert one["score"] == pytest.approx(preference(server.judge.compare(*ROWS[2])), abs=CLOSE)
    many = compute_score_sync(
        data_sources=["s"] * 2,
        solution_strs=[ROWS[2][1], ROWS[2][2]],
        ground_truths=[ROWS[2][2]] * 2,
        extra_infos=[info] * 2,
        **options,
    )
    assert many == pytest.approx([one["score"], 0.5], abs=CLOSE)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "203.0.113.7", "example.org", ""])
def test_other_machines_are_refused_without_a_key(judge: Watched, host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        serve(judge, host)
    assert "--allow-remote" in caught.value.hint


def test_a_port_in_use_and_a_missing_key_are_errors(judge: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="cannot listen"):
        serve(judge, port=taken.getsockname()[1])
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(EngineError, match="JUDGE_KEY"):
        serve(judge, api_key_env="JUDGE_KEY")
