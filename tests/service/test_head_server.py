"""A scalar head over HTTP: a real uvicorn server, with valid and invalid clients."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from reasongenrm.config.rubric import Criterion, Rubric
from reasongenrm.errors import ConfigError, EngineError
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.scalar.scale import ScoreScale
from reasongenrm.service.bodies import Limits
from reasongenrm.service.head_server import SharedHead, create_head_app, serve_head
from support.app import running, wait_until_loaded
from support.heads import ENVIRONMENT, WORDS, save_random_head

pytestmark = pytest.mark.engine

SMALL = Limits(body=20_000, text=2000, turns=3, queries=6)
USER = {"role": "user", "content": "what is he"}
TURNS = [{"role": "system", "content": "a lesson"}, USER]
SAID = {"role": "assistant", "content": "you that"}


@pytest.fixture(scope="module")
def folder(_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [" ".join(WORDS), "what a lesson system user"]
    return save_random_head(tmp_path_factory.mktemp("head"), texts)


@pytest.fixture(scope="module")
def head(folder: Path) -> ScalarRewardModel:
    return ScalarRewardModel.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def url(head: ScalarRewardModel) -> Iterator[str]:
    with running(create_head_app(SharedHead(head), model="tutor", limits=SMALL)) as address:
        yield address


def post(url: str, path: str, body: Any, **options: Any) -> httpx.Response:
    with httpx.Client(base_url=url, trust_env=False, timeout=120) as client:
        return client.post(path, json=body, **options)


def ask(url: str, path: str, body: Any) -> Any:
    reply = post(url, path, body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def scores(reply: dict[str, Any]) -> list[float]:
    assert [row["index"] for row in reply["data"]] == list(range(len(reply["data"])))
    return [row["score"] for row in reply["data"]]


@pytest.mark.parametrize(
    ("first", "second"), [("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2")]
)
def test_scores_are_those_of_the_head(url: str, head: ScalarRewardModel, first: str, second: str) -> None:
    texts = ["the", "of and to", "you that he"]
    one = head.score_batch(contexts=["what is he"] * 3, responses=texts)
    assert scores(ask(url, "/score", {first: "what is he", second: texts})) == pytest.approx(one, abs=1e-5)
    contexts = ["what is he", "what is the", "what"]
    own = head.score_batch(contexts=contexts, responses=texts)
    reply = ask(url, "/v1/score", {"model": "tutor", first: contexts, second: texts, "use_activation": False})
    assert scores(reply) == pytest.approx(own, abs=1e-5)
    assert scores(ask(url, "/score", {first: contexts[0], second: texts[0]})) == pytest.approx(
        own[:1], abs=1e-5
    )


def test_a_context_may_be_a_conversation(url: str, head: ScalarRewardModel) -> None:
    own = [head.score(TURNS, "the"), head.score("what is he", "of")]  # type: ignore[arg-type]
    assert abs(own[0] - head.score("what is he", "the")) > 1e-3, "the lesson matters"
    mixed = ask(url, "/score", {"text_1": [TURNS, "what is he"], "text_2": ["the", "of"]})
    assert scores(mixed) == pytest.approx(own, abs=1e-5)
    assert scores(ask(url, "/score", {"text_1": TURNS, "text_2": "the"})) == pytest.approx(own[:1], abs=1e-5)
    [row] = ask(url, "/classify", {"messages": [*TURNS, {"role": "assistant", "content": "the"}]})["data"]
    assert row["probs"] == pytest.approx(own[:1], abs=1e-5)
    assert (row["label"], row["num_classes"], row["scores"]) == ("score", 1, {"score": row["probs"][0]})


def test_replies_are_read_by_vllms_own_types(url: str, head: ScalarRewardModel) -> None:
    from vllm.entrypoints.pooling.classify.protocol import ClassificationResponse
    from vllm.entrypoints.pooling.scoring.protocol import ScoreResponse, ScoreTextRequest

    request = ScoreTextRequest(text_1="what is he", text_2=["the", "of"], use_activation=False)
    sent = request.model_dump(include={"text_1", "text_2", "use_activation"})
    reply = ask(url, "/score", sent)
    read = ScoreResponse.model_validate(reply)
    assert not read.model_extra and not read.data[0].model_extra, "no key that vLLM does not have"
    assert read.object == "list" and read.data[1].object == "score" and read.model == "tutor"
    assert (
        read.usage.prompt_tokens
        == read.usage.total_tokens
        == sum(len(head.tokenizer("what is he", text)["input_ids"]) for text in ("the", "of"))
    )
    answer = ask(url, "/classify", {"messages": [*TURNS, SAID]})
    classified = ClassificationResponse.model_validate(answer)
    assert classified.data[0].model_extra == {"scores": answer["data"][0]["scores"]}


def test_a_head_with_a_logit_per_criterion_returns_them(tmp_path: Path) -> None:
    from transformers import AutoConfig, DistilBertForSequenceClassification

    folder = save_random_head(tmp_path, [" ".join(WORDS)])
    config = AutoConfig.from_pretrained(folder, num_labels=2)
    rubric = Rubric(criteria=(Criterion(name="clarity", weight=3), Criterion(name="tone", scale=(0, 10))))
    scale = ScoreScale(objective="dimensions", mean=(3.0, 5.0), sd=(1.0, 2.0), rubric=rubric)
    config.reasongenrm = scale.model_dump(mode="json")
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    head = ScalarRewardModel.from_pretrained(folder, device="cpu")
    [own] = head.criterion_scores(["what is he"], ["the"])
    with running(create_head_app(SharedHead(head), model="m")) as url:
        reply = ask(url, "/classify", {"messages": [USER, {"role": "assistant", "content": "the"}]})
        [row] = reply["data"]
        assert row["probs"] == pytest.approx([own["clarity"], own["tone"]], abs=1e-5)
        assert row["scores"]["score"] == pytest.approx(head.score("what is he", "the"), abs=1e-5)
        assert row["label"] == max(own, key=own.__getitem__) and row["num_classes"] == 2
        assert scores(ask(url, "/score", {"text_1": "what is he", "text_2": "the"})) == pytest.approx(
            [row["scores"]["score"]], abs=1e-5
        )


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("/score", {"text_1": "q"}, 422),
        ("/score", {}, 422),
        ("/score", {"text_1": "q", "documents": "a"}, 422),
        ("/score", {"text_1": "q", "text_2": "a", "queries": "q", "documents": "a"}, 422),
        ("/score", {"text_1": "q", "text_2": 7}, 422),
        ("/score", {"text_1": "q", "text_2": "a", "use_activation": True}, 422),
        ("/score", {"text_1": "q", "text_2": "a", "truncate_prompt_tokens": 5}, 422),
        ("/score", {"text_1": "q", "text_2": "a", "extra": 1}, 422),
        ("/score", {"text_1": "q", "text_2": None}, 400),
        ("/score", {"text_1": "q", "text_2": []}, 400),
        ("/score", {"text_1": [], "text_2": "a"}, 400),
        ("/score", {"text_1": ["q", "r"], "text_2": ["a", "b", "c"]}, 400),
        ("/score", {"text_1": "q", "text_2": "a", "model": "other"}, 404),
        ("/score/", {"text_1": "q", "text_2": "a"}, 404),  # not a redirect to the Host that a client names
        ("/score", {"text_1": [SAID], "text_2": "a"}, 400),
        ("/score", {"text_1": [USER, SAID], "text_2": "a"}, 400),
        ("/score", {"text_1": [{"role": "tool", "content": "x"}], "text_2": "a"}, 422),
        ("/score", {"text_1": "q", "text_2": ["a"] * 7}, 413),
        ("/score", {"text_1": "q", "text_2": "x" * 2001}, 413),
        ("/score", {"text_1": "x" * 2001, "text_2": "a"}, 413),
        ("/score", {"text_1": [TURNS[0], USER, SAID, USER], "text_2": "a"}, 413),
        ("/score", {"text_1": "q", "text_2": "x" * 30_000}, 413),
        ("/classify", {"messages": [USER]}, 400),
        ("/classify", {"messages": []}, 400),
        ("/classify", {"messages": [SAID]}, 400),
        ("/classify", {"messages": [USER, {"role": "assistant", "content": "x" * 2001}]}, 413),
        ("/classify", {"input": "a text"}, 422),
    ],
)
def test_invalid_requests_are_refused(url: str, path: str, sent: Any, status: int) -> None:
    reply = post(url, path, sent)
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error", "hint"} and reply.json()["error"]


def test_one_long_context_for_very_many_responses_is_refused(head: ScalarRewardModel) -> None:
    with running(create_head_app(SharedHead(head), model="m")) as url:
        reply = post(url, "/score", {"text_1": "a " * 10_000, "text_2": ["b"] * 2000})
    assert reply.status_code == 413 and "all pairs" in reply.json()["error"]


def test_other_sites_and_clients_without_the_key_are_refused(head: ScalarRewardModel) -> None:
    body = {"text_1": "q", "text_2": "a"}
    with running(create_head_app(SharedHead(head), model="m", api_key="sesame")) as url:
        assert post(url, "/score", body).status_code == 401
        right = {"Authorization": "Bearer sesame"}
        assert post(url, "/score", body, headers=right).status_code == 200
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            assert post(url, "/score", body, headers=right | headers).status_code == 403


def test_concurrent_clients_get_their_own_scores(url: str, head: ScalarRewardModel) -> None:
    texts = [" ".join(WORDS[:n]) for n in range(1, 13)]
    own = head.score_batch(contexts=["what is he"] * 12, responses=texts)
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda t: ask(url, "/score", {"text_1": "what is he", "text_2": t}), texts))
    assert [scores(reply)[0] for reply in replies] == pytest.approx(own, abs=1e-5)
    counts = httpx.get(f"{url}/health", trust_env=False).json()["counts"]
    assert counts["scores"] >= counts["requests"] >= 12


def test_a_request_that_waits_too_long_is_told_to_come_again(head: ScalarRewardModel) -> None:
    class SlowHead:
        """A head whose first score waits for an event."""

        scale = head.scale

        def tokens(self, context: Any, response: str) -> int:
            begun.set()
            go_on.wait(60)
            return head.tokens(context, response)

        def score_batch(self, *arguments: Any) -> list[float]:
            return head.score_batch(*arguments)

    begun, go_on = threading.Event(), threading.Event()
    shared, body = SharedHead(SlowHead(), seconds=0.2), {"text_1": "q", "text_2": "a"}  # type: ignore[arg-type]
    with running(create_head_app(shared, model="m")) as url, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, url, "/score", body)
        assert begun.wait(60)
        reply = post(url, "/score", body)
        go_on.set()
        assert first.result().status_code == 200, "what has begun is not given up"
    assert reply.status_code == 503 and "again" in reply.json()["hint"]
    assert shared.counts == {"requests": 1, "scores": 1}


def test_one_thread_computes_for_all_requests(head: ScalarRewardModel) -> None:
    threads = set()

    class NotingHead:
        """A head that notes which threads compute."""

        scale, tokens = head.scale, head.tokens

        def score_batch(self, *arguments: Any) -> list[float]:
            threads.add(threading.get_ident())
            return head.score_batch(*arguments)

    shared = SharedHead(NotingHead())  # type: ignore[arg-type]
    with running(create_head_app(shared, model="m")) as url, ThreadPoolExecutor(8) as pool:
        replies = pool.map(lambda _: ask(url, "/score", {"text_1": "q", "text_2": "a"}), range(16))
        assert len({scores(reply)[0] for reply in replies}) == 1
    assert len(threads) == 1
    shared.close()


def test_the_command_serves_until_a_signal(folder: Path, head: ScalarRewardModel) -> None:
    command = [sys.executable, "-m", "reasongenrm.cli", "serve", "--scalar", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as server:
        assert server.stdout is not None
        timer = threading.Timer(240, server.kill)
        timer.start()
        line = server.stdout.readline()
        assert "the head is served at http://127.0.0.1:" in line
        wait_until_loaded(line.split()[-1])
        reply = ask(line.split()[-1], "/score", {"text_1": "what is he", "text_2": "the"})
        assert scores(reply) == pytest.approx([head.score("what is he", "the")], abs=1e-5)
        assert reply["model"] == str(folder)
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait(60) == 0
        timer.cancel()


def test_settings_that_cannot_be_served(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from reasongenrm.cli import main

    with pytest.raises(ConfigError, match="could use the head without a key"):
        serve_head(str(folder), "0.0.0.0", 0)
    with pytest.raises(EngineError, match="directory not found"):
        serve_head(str(tmp_path / "none"), port=0)
    assert main(["serve", "configs/demo.yaml", "--scalar", str(folder)]) == 2
    assert "a head needs no recipe" in capsys.readouterr().err
