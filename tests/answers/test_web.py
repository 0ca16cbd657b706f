"""The ranking page's server: the session over JSON, wrong input, and who may ask at all."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import reasongenrm
from reasongenrm.answers.session import RankingSession
from reasongenrm.answers.table import PromptAnswers, read_answers
from reasongenrm.answers.web import create_app, serve
from reasongenrm.errors import ConfigError, DataError, EngineError
from reasongenrm.report.pages import csp_hash

pytestmark = pytest.mark.unit

SOURCE = Path(reasongenrm.__file__).parents[1]
BASE = "http://127.0.0.1:8123"


def write_answers(folder: Path, prompts: int = 3) -> tuple[PromptAnswers, ...]:
    file = folder / "in.jsonl"
    rows = [
        {"prompt": f"prompt {n}\x1b\u202e", "answer": f"answer {a} \x9b<img>", "model": "secret-model"}
        for n in range(prompts)
        for a in range(3)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_answers(str(file)).prompts


class Served:
    """An app over a folder, and a client of it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.prompts = write_answers(folder)
        self.journal = folder / "j"
        self.opened: list[str] = []
        self.changes = 0
        self.app = create_app(self.open, changed=self.changed, **options)
        self.client = TestClient(self.app, base_url=BASE, raise_server_exceptions=False)

    def open(self, name: str) -> RankingSession:
        self.opened.append(name)
        return RankingSession(self.prompts, self.journal, name)

    def changed(self) -> None:
        self.changes += 1

    def state(self, name: str = "ann") -> Any:
        answer = self.client.get("/state", params={"annotator": name})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any, **options: Any) -> tuple[int, Any]:
        answer = self.client.post(path, json=body, **options)
        return answer.status_code, answer.json()


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


def test_rank_skip_and_undo_over_http(served: Served) -> None:
    state = served.state()
    assert set(state) == {"annotator", "progress", "can_undo", "prompt"} and not state["can_undo"]
    assert state["progress"] == {"ranked": 0, "skipped": 0, "total": 3}
    assert set(state["prompt"]) == {"id", "turns", "answers"} and len(state["prompt"]["answers"]) == 3
    [turn] = state["prompt"]["turns"]
    assert turn["role"] == "user" and turn["content"].endswith("␛‹U+202E›")
    assert all(answer.endswith("‹U+009B›<img>") for answer in state["prompt"]["answers"])
    first = state["prompt"]["id"]
    code, state = served.post("/skip", {"annotator": "ann", "prompt": first})
    assert code == 200 and state["progress"]["skipped"] == 1 and state["prompt"]["id"] != first
    for _ in range(3):
        ranking = {"annotator": " ann ", "prompt": state["prompt"]["id"], "groups": [[3], [1, 2]]}
        code, state = served.post("/rank", ranking)
        assert code == 200
    assert state == {"annotator": "ann", "can_undo": True, "prompt": None, "progress": {"ranked": 3, "skipped": 0, "total": 3}}  # fmt: skip
    code, state = served.post("/undo", {"annotator": "ann"})
    assert state["prompt"]["id"] == first and served.changes == 5 and served.opened == ["ann"]
    assert served.state("bob")["progress"]["ranked"] == 0
    assert RankingSession(served.prompts, served.journal, "ann").progress.ranked == 2
    assert "secret-model" not in json.dumps(state)


def test_another_session_of_the_annotator_is_seen(served: Served) -> None:
    before = served.state()
    RankingSession(served.prompts, served.journal, "ann").skip()
    code, output = served.post("/skip", {"annotator": "ann", "prompt": before["prompt"]["id"]})
    assert code == 409 and output["hint"]
    assert served.state()["progress"]["skipped"] == 1 and served.changes == 0


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"groups": [[1], [2]]}, 400, "not ranked: answer 3"),
        ({"groups": [[1], [2], [3], [4]]}, 400, "no answer 4"),
        ({"groups": [[1, 2, 3, 1]]}, 400, "is repeated"),
        ({"groups": [[1], [2], ["3"]]}, 422, "groups.2.0"),
        ({"groups": [[1], [2], [True]]}, 422, "groups.2.0"),
        ({"groups": "1 2 3"}, 422, "groups"),
        ({}, 422, "groups"),
        ({"groups": [[1, 2, 3]], "prompt": "other"}, 409, "another prompt"),
        ({"groups": [[1, 2, 3]], "more": 1}, 422, "more"),
        ({"groups": [[1, 2, 3]], "annotator": " "}, 400, "name is empty"),
        ({"groups": [[1, 2, 3]], "annotator": "a\u202eb"}, 400, "cannot be printed"),
        ({"groups": [[1, 2, 3]], "annotator": 3}, 422, "annotator"),
        ({"groups": [[10**30, 2, 3]]}, 400, "no answer 1000"),
    ],
)
def test_wrong_input(served: Served, body: dict[str, Any], code: int, message: str) -> None:
    right = {"annotator": "ann", "prompt": served.state()["prompt"]["id"]}
    answer, output = served.post("/rank", right | body)
    assert answer == code and message in output["error"] and set(output) == {"error", "hint"}
    assert served.changes == 0 and served.state()["progress"]["ranked"] == 0


def test_other_wrong_requests(served: Served) -> None:
    message = {"Content-Type": "application/json"}
    assert served.client.post("/undo", content="{", headers=message).status_code == 400
    assert served.client.post("/undo", content="x" * 2**21, headers=message).status_code == 413
    assert served.post("/undo", {"annotator": "ann"})[0] == 400
    assert served.client.get("/state").status_code == 422
    for path in ("/none", "/docs", "/redoc", "/rank"):
        assert served.client.get(path).status_code in (404, 405)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9"}, 403),
        ({"Origin": "http://[", "Host": "127.0.0.1"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8123", "Origin": "http://evil.example:8123"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "127.0.0.1@evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": BASE, "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "localhost:8123", "Origin": "http://localhost:8123"}, 200),
        ({"Host": "[::1]:8123"}, 200),
        ({"Content-Type": "Application/JSON; charset=utf-8"}, 200),
    ],
)
def test_other_pages_cannot_ask(served: Served, headers: dict[str, str], code: int) -> None:
    body = json.dumps({"annotator": "ann", "prompt": served.state()["prompt"]["id"]})
    answer = served.client.post("/skip", content=body, headers={"Content-Type": "application/json"} | headers)
    assert answer.status_code == code, answer.text
    assert served.changes == (code == 200)
    if code == 403:
        assert set(answer.json()) == {"error", "hint"}
        assert served.client.get("/state?annotator=ann", headers=headers).status_code == 403


def test_the_page_needs_no_other_resources(tmp_path: Path) -> None:
    served = Served(tmp_path, annotator="\"><script>alert('x')</script>")
    answer = served.client.get("/", headers={"Sec-Fetch-Site": "cross-site"})  # a link to it is fine
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    page, policy = answer.text, answer.headers["content-security-policy"]
    [script] = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    assert "alert" not in script and "&lt;script&gt;" in page
    assert f"script-src {csp_hash(script)};" in policy and "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy and "connect-src 'self'" in policy and "unsafe" not in policy
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", page)
    assert not re.search(r"(?:src|href)=\"(?!data:)", page) and "http" not in page.replace("http-equiv", "")
    for name, value in (("cache-control", "no-store"), ("x-content-type-options", "nosniff")):
        assert answer.headers[name] == served.client.get("/state").headers[name] == value


def test_every_request_but_the_page_needs_the_key(tmp_path: Path) -> None:
    served = Served(tmp_path, api_key="opensesame", hosts=None)
    assert served.client.get("/", headers={"Host": "box.example"}).status_code == 200
    query = "/state?annotator=ann"
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "opensesame"}):
        answer = served.client.get(query, headers=headers)
        assert answer.status_code == 401 and answer.json()["error"] == "no valid key"
        assert served.post("/undo", {"annotator": "ann"}, headers=headers)[0] == 401
    key = {"Authorization": "Bearer opensesame", "Host": "box.example"}
    assert served.client.get(query, headers=key).status_code == 200
    assert served.client.get(query, headers=key | {"Origin": "http://evil.example"}).status_code == 403


def test_server_errors_have_status_500(served: Served) -> None:
    served.state()
    served.journal.write_text("{\n", encoding="utf-8")
    code, output = served.post("/undo", {"annotator": "ann"})
    assert code == 500 and "delete that line" in output["hint"]


def test_many_at_once(served: Served) -> None:
    def work(name: str) -> None:
        state = served.state(name)
        while state["prompt"] is not None:
            ranking = {"annotator": name, "prompt": state["prompt"]["id"], "groups": [[2], [3], [1]]}
            code, state = served.post("/rank", ranking)
            assert code == 200

    names = [f"annotator {n}" for n in range(6)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(work, names))
    assert served.changes == 18 and sorted(served.opened) == names


def test_serving_to_other_machines_needs_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(tmp_path)
    with pytest.raises(ConfigError, match="everyone who reaches"):
        serve(served.open, "0.0.0.0")
    with pytest.raises(EngineError, match="RANK_KEY is not set"):
        serve(served.open, "0.0.0.0", api_key_env="RANK_KEY")
    monkeypatch.setenv("RANK_KEY", "opensesame")
    with pytest.raises(ConfigError, match="cannot listen"):
        serve(served.open, "203.0.113.1", api_key_env="RANK_KEY")


def test_a_server_writes_the_file_on_every_change_and_ends_quietly(tmp_path: Path) -> None:
    import httpx

    write_answers(tmp_path)
    out = tmp_path / "out.csv"
    code = "import sys; from reasongenrm.answers.rank import rank; rank(*sys.argv[1:3], web=True)"
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "in.jsonl"), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    try:
        assert process.stdout is not None
        output = process.stdout.readline()
        [url] = re.findall(r"http://127\.0\.0\.1:\d+", output)
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            for done in range(1, 4):
                state = client.get("/state", params={"annotator": "ann"}).json()
                ranking = {"annotator": "ann", "prompt": state["prompt"]["id"], "groups": [[2], [3, 1]]}
                assert client.post("/rank", json=ranking).status_code == 200
                with out.open(encoding="utf-8", newline="") as file:
                    assert len(list(csv.reader(file, strict=True))) == 1 + 3 * done
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == 0 and rest.endswith("3 prompts; ranked by ann 3\n")
    finally:
        process.kill()


def test_a_journal_of_other_answers_is_an_error_before_serving(tmp_path: Path) -> None:
    from reasongenrm.answers.rank import rank

    write_answers(tmp_path)
    out = tmp_path / "out.csv"
    (tmp_path / "out.csv.journal.jsonl").write_text('{"annotator":"a","kind":"skip","prompt":"x"}\n')
    with pytest.raises(ConfigError, match="does not have"):
        rank(str(tmp_path / "in.jsonl"), str(out), web=True)
    with pytest.raises(DataError, match="file not found"):
        rank(str(tmp_path / "none.jsonl"), str(out), web=True)
