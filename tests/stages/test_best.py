"""`distil best` and `ScalarRewardModel.best_of_n`, with a real head and candidates of real engines."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from reasongenrm.answers.model import AnswerEngine
from reasongenrm.cli import main
from reasongenrm.config.scalar import BestOfNConfig
from reasongenrm.errors import ConfigError, DataError, EngineError
from reasongenrm.metrics.best_of_n import best_of_n_curve
from reasongenrm.records import Conversation
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.stages.best import best_of_n
from reasongenrm.store import write_json, write_jsonl
from support.engine_fixtures import LentEngine
from support.heads import WORDS, save_random_head
from support.servers import HTTPServer, ReceivedRequest, Reply, failing, serving

pytestmark = pytest.mark.engine

ROWS = [{"context": "a lesson", "message": f"what is {word}", "response": "not read"} for word in WORDS[:3]]


@pytest.fixture(scope="module")
def head(_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_head(tmp_path_factory.mktemp("head"), [" ".join(WORDS), "what a lesson system user"])


def speak(received: ReceivedRequest) -> Reply:
    """Answer with words that depend on the seed: two seeds in seven give the same text; `to` fails, and `blank` has no text."""
    body = received.body
    question = body["messages"][-1]["content"]
    if question.endswith(" to"):
        return failing(400, "no such word")
    text = " ".join(WORDS[: 1 + body["seed"] % 5]) if "blank" not in question else " \n"
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return 200, {"id": "c", "object": "x", "created": 1, "model": body["model"], "choices": [choice]}


def server_keys(server: HTTPServer) -> dict[str, Any]:
    return {"kind": "openai", "urls": [f"{server.url}/v1"], "model": "some-model", "api": "chat"}


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_best_of_given_texts(head: Path) -> None:
    model = ScalarRewardModel.from_pretrained(head, device="cpu")
    texts = ["the", "of and to", "the", "in is it you that"]
    best = model.best_of_n("what is he", texts)
    assert best.responses == tuple(texts) and best.score == max(best.scores) == best.scores[best.index]
    assert best.response == texts[best.index] and best.curve == best_of_n_curve(best.scores)
    assert best.expected([1.0, 2.0, 3.0, 4.0])[0] == 2.5
    for arguments in ({}, {"n": 4}, {"responses": texts, "n": 4}):
        with pytest.raises(ConfigError, match="give responses, or n and engine"):
            model.best_of_n("q", **arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nothing to rank"):
        model.best_of_n("q", [])


def test_candidates_of_an_openai_server(head: Path) -> None:
    model = ScalarRewardModel.from_pretrained(head, device="cpu")
    context = [{"role": "system", "content": "a lesson"}, {"role": "user", "content": "what is he"}]
    with serving(speak) as server:
        with AnswerEngine({"server": server_keys(server), "system": "unused"}) as engine:
            best = model.best_of_n(context, n=12, engine=engine)  # type: ignore[arg-type]
            assert engine.candidates(context, 12) == list(best.responses)  # type: ignore[arg-type]
            engine.candidates("what is he", 1)
            with pytest.raises(EngineError, match=r"2 of 2 answers failed: .*no such word"):
                engine.candidates("what is to", 2)
        bodies = [one.body for one in server.received]
    assert len(best.responses) == 12 and max(Counter(best.responses).values()) > 1, "equal samples stay"
    assert bodies[0]["messages"] == context and bodies[0]["temperature"] == 1.0
    assert len({body["seed"] for body in bodies[:12]}) == 12
    assert {"role": "system", "content": "unused"} in [body["messages"][0] for body in bodies]
    alone = [model.score(context, text) for text in best.responses]  # type: ignore[arg-type]
    assert best.scores == pytest.approx(alone, abs=1e-4)


def test_candidates_of_vllm_in_this_process(
    head: Path, tiny_model: Path, engine_of_answers: LentEngine
) -> None:
    model = ScalarRewardModel.from_pretrained(head, device="cpu")
    keys = {"model": {"path": str(tiny_model), "dtype": "float32"}, "max_tokens": 6}
    with AnswerEngine(keys | {"engine": {"max_model_len": 256}}) as engine:
        best = model.best_of_n("say fox 3 times", n=5, engine=engine)
    assert len(best.responses) == 5 and len(set(best.responses)) > 1
    assert best.curve[-1] == best.score


def run_best(head: Path, server: HTTPServer, folder: Path, *more: str, **keys: Any) -> int:
    write_json(folder / "rows.json", ROWS)
    config = {"conversations": str(folder / "rows.json"), "server": server_keys(server), "n": 6} | keys
    write_json(folder / "best.yaml", config)
    arguments = [str(head), str(folder / "best.yaml"), "--out", str(folder / "out"), *more]
    return main(["distil", "best", *arguments])


def test_the_command_writes_the_best_replies_and_the_curve(
    head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(speak) as server:
        assert run_best(head, server, tmp_path) == 0
        asked = len(server.received)
        assert run_best(head, server, tmp_path) == 0 and len(server.received) == asked, "nothing twice"
        capsys.readouterr()
        assert run_best(head, server, tmp_path, "seed=18") == 2
        assert "samples of other settings" in capsys.readouterr().err
    out = tmp_path / "out"
    candidates, best = rows_of(out / "candidates.jsonl"), rows_of(out / "best.jsonl")
    curve = json.loads((out / "curve.json").read_text())
    assert len(candidates) == 18 and [row["message"] for row in best] == [row["message"] for row in ROWS]
    model = ScalarRewardModel.from_pretrained(head, device="cpu")
    curves = []
    for row in best:
        own = [one for one in candidates if one["message"] == row["message"]]
        assert row["score"] == max(one["score"] for one in own) and row["of"] == 6
        assert own[row["number"] - 1]["response"] == row["response"]
        history = Conversation.make(row["context"], row["message"], row["response"]).history
        assert row["score"] == pytest.approx(model.score(history, row["response"]), abs=1e-4)
        curves.append(best_of_n_curve([one["score"] for one in own]))
    assert [point["n"] for point in curve["score"]] == [1, 2, 3, 4, 5, 6]
    for point, *values in zip(curve["score"], *curves, strict=True):
        assert (
            point["expected"] == pytest.approx(fmean(values))
            and point["low"] <= point["expected"] <= point["high"]
        )
    assert (curve["messages"], curve["messages_left_out"]) == (3, 0)
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_judges_score_of_what_the_head_chooses(head: Path, tmp_path: Path) -> None:
    with serving(speak) as server:
        assert run_best(head, server, tmp_path) == 0
        candidates = rows_of(tmp_path / "out" / "candidates.jsonl")
        names = ("context", "message", "response")
        # The judge likes short replies; it has not scored those to the last message.
        judgments = [
            {"id": Conversation.make(*(row[name] for name in names)).id, "score": 1 / len(row["response"])}
            for row in candidates
            if row["message"] != ROWS[2]["message"]
        ]
        write_jsonl(tmp_path / "judgments.jsonl", judgments)
        assert run_best(head, server, tmp_path, "--judgments", str(tmp_path / "judgments.jsonl")) == 0
        curve = json.loads((tmp_path / "out" / "curve.json").read_text())
        assert curve["judged_messages"] == 2
        mean = fmean(1 / len(row["response"]) for row in candidates if row["message"] != ROWS[2]["message"])
        assert curve["judge_score"][0]["expected"] == pytest.approx(mean)
        for bad in ([{"id": "x", "score": 1.0}], [row | {"score": "1"} for row in judgments]):
            write_jsonl(tmp_path / "judgments.jsonl", bad)
            assert run_best(head, server, tmp_path, "--judgments", str(tmp_path / "judgments.jsonl")) == 2


def test_a_sample_without_text_is_no_candidate(head: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "rows.json", [*ROWS, {"context": "", "message": "a blank one", "response": "x"}])
    with serving(speak) as server:
        keys = {"conversations": str(tmp_path / "rows.json"), "server": server_keys(server), "n": 2}
        best_of_n(str(head), BestOfNConfig.model_validate(keys), tmp_path / "out")
    reasons = Counter(row["reason"] for row in rows_of(tmp_path / "out" / "dropped.jsonl"))
    assert reasons == {"empty_response": 2, "no_reply": 1}
    assert all(row["response"].strip() for row in rows_of(tmp_path / "out" / "candidates.jsonl"))


def test_samples_that_fail_are_listed_and_their_message_is_not_in_the_curve(
    head: Path, tmp_path: Path
) -> None:
    rows = [*ROWS, {"context": "", "message": "what is to", "response": "x"}, {"context": ""}]
    write_json(tmp_path / "rows.json", rows)
    with serving(speak) as server:
        keys = {"conversations": str(tmp_path / "rows.json"), "server": server_keys(server), "n": 2}
        report = best_of_n(str(head), BestOfNConfig.model_validate(keys), tmp_path / "out")
    reasons = Counter(row["reason"] for row in rows_of(tmp_path / "out" / "dropped.jsonl"))
    assert reasons == {"error": 2, "no_reply": 1, "missing_field": 1}
    assert (report["messages"], report["messages_left_out"]) == (3, 0)
    write_json(tmp_path / "rows.json", rows[3:4])
    with serving(speak) as server:
        config = BestOfNConfig.model_validate(keys | {"server": server_keys(server)})
        with pytest.raises(DataError, match=r"every sample failed: .*no such word"):
            best_of_n(str(head), config, tmp_path / "none")
