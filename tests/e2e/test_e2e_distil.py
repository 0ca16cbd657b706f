"""One command distils a judge into a head: the shipped conversations, a judge by rules behind Anthropic's protocol, a tiny base."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from reasongenrm.rows.conversations import read_conversations
from reasongenrm.scalar.tiny import build_tiny_distilbert
from support.rubric_server import KEY, RubricServer, Texts
from support.scripts import ENVIRONMENT, ROOT, stage_server

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAME = f"test-{os.getpid()}-distil"
SCRIPT, RECIPE = "examples/tutor/run.sh", "configs/distil/reward_model.yaml"
SHIPPED = ROOT / "data" / "conversations.json"

PRAISE = (
    *("good", "great", "well done", "excellent", "lovely", "nice", "perfect", "wonderful", "brav", "clear"),
    *("strong", "delicious", "delighted", "proud", "faultless", "best", "warm", "happy", "sharp", "hero"),
)
SCORN = ("embarrass", "shame", "stupid", "bad", "never", "laugh at", "mistakes", "lose", "losing", "cannot")


def rules(texts: Texts) -> dict[str, int]:
    """The judge of this test. It reads the reply alone, and its rules are about the surface:

    - accuracy is 5 for a reply that quotes a form in quotation marks, 2 for others;
    - personalisation is 1, 3 or 5 for a reply with none, one or more of "you" and "your";
    - engagement starts at 1; a question mark at the end adds 2, a word of praise 2; a word of scorn takes 2;
    - clarity is 5 for 12 to 60 words, 3 for fewer or up to 90, 1 for more.
    """
    reply = texts.response.lower()
    words = re.findall(r"\w+", reply)
    you = min(2, sum(word in ("you", "your") for word in words))
    praise, scorn = (any(word in reply for word in listed) for listed in (PRAISE, SCORN))
    engagement = 1 + 2 * reply.rstrip().endswith("?") + 2 * praise - 2 * scorn
    return {
        "accuracy": 5 if '"' in reply else 2,
        "personalisation": 1 + 2 * you,
        "engagement": max(1, engagement),
        "clarity": 5 if 12 <= len(words) <= 60 else 3 if len(words) <= 90 else 1,
    }


class Ended(NamedTuple):
    """The script after its end."""

    code: int
    text: str
    seconds: float


class World(NamedTuple):
    """The judge's server, and the words of the command."""

    server: RubricServer
    words: list[str]
    environment: dict[str, str]

    def run_script(self) -> Ended:
        """Run the script to its end."""
        begin = time.monotonic()
        command = [SCRIPT, *self.words, f"name={NAME}"]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | ENVIRONMENT | self.environment, capture_output=True, text=True,
            timeout=400, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr[-3000:]
        return Ended(done.returncode, done.stdout + done.stderr, time.monotonic() - begin)

    def command(self, *words: str, name: str = NAME) -> list[str]:
        """The command that the script becomes."""
        return ["distil", "run", RECIPE, *self.words, f"name={name}", *words]

    def run(self, *words: str, name: str = NAME) -> Ended:
        """Run the command to its end."""
        done = stage_server().run(self.command(*words, name=name), environment=self.environment)
        assert "Traceback" not in done.stderr, done.stderr[-3000:]
        return Ended(done.code, done.stdout + done.stderr, done.seconds)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    base = tmp_path_factory.mktemp("base")
    rows = read_conversations(str(SHIPPED)).conversations
    build_tiny_distilbert(
        base, [t for row in rows for t in (row.context, row.message, row.response)], seed=17
    )
    environment = {"ANTHROPIC_API_KEY": KEY}
    with RubricServer(rules) as server:
        words = [
            *("judge.server.mode=direct", f"judge.server.url={server.url}", f"head.model={base}"),
            "head.args={learning_rate: 1.0e-3, per_device_train_batch_size: 16, max_steps: 150, save_steps: 50, warmup_steps: 15}",
            *("head.max_length=256", "head.patience=null"),
        ]
        yield World(server, words, environment)
    for folder in (ROOT / "runs").glob(NAME + "*"):
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def done(world: World) -> Ended:
    ended = world.run_script()
    assert ended.code == 0, ended.text[-3000:]
    return ended


def run_folder(name: str = NAME) -> Path:
    return ROOT / "runs" / name


def read(*parts: str) -> Any:
    return json.loads(run_folder().joinpath(*parts).read_text(encoding="utf-8"))


def hashes(folder: Path) -> dict[str, str]:
    """Content hashes of a run's results: all files but logs and manifests, which have times."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in ("logs", "manifest")
    }


def test_one_command_gives_a_head_that_agrees_with_the_judge(done: Ended, world: World) -> None:
    metrics = read("evaluation", "metrics.json")
    assert done.seconds < 180
    assert metrics["spearman"]["value"] >= 0.7
    judgments = [json.loads(line) for line in (run_folder() / "judgments.jsonl").read_text().splitlines()]
    rows = json.loads(SHIPPED.read_text(encoding="utf-8"))
    assert len(judgments) == len(rows) and not (run_folder() / "dropped.jsonl").read_text()
    for judgment, row in zip(judgments, rows, strict=True):
        expected = rules(Texts(row["context"], row["student_message"], row["tutor_response"]))
        assert judgment["scores"] == expected and 0 <= judgment["score"] <= 1
    page = (run_folder() / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page or "data:image/" in page
    assert not re.search(r'(src|href)="https?://', page), "the report works offline"


def test_no_file_of_the_run_holds_the_key(done: Ended) -> None:
    files = [path for path in run_folder().rglob("*") if path.is_file()]
    assert len(files) > 10 and KEY not in done.text
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_the_same_command_does_nothing_twice(done: Ended, world: World) -> None:
    before, calls = hashes(run_folder()), len(world.server.calls)
    again = world.run()
    assert again.code == 0, again.text
    assert len(world.server.calls) == calls and hashes(run_folder()) == before
    assert "already evaluated" in again.text


def test_new_rows_alone_are_judged_and_bad_ones_are_listed(done: Ended, world: World, tmp_path: Path) -> None:
    name = f"{NAME}-more"
    shutil.copytree(run_folder(), run_folder(name))
    rows = json.loads(SHIPPED.read_text(encoding="utf-8"))
    new = [{"context": "", "message": f"Question {n}?", "response": f"Answer {n}."} for n in range(2)]
    more = tmp_path / "more.json"
    more.write_text(json.dumps([*rows, *new, {"context": "", "message": 4}]), encoding="utf-8")
    asked = len(world.server.asked())
    ended = world.run(f"conversations={more}", name=name)
    messages = {texts.message for texts in world.server.asked()[asked:]}
    assert messages == {"Question 0?", "Question 1?"}
    [drop] = (run_folder(name) / "dropped.jsonl").read_text().splitlines()
    assert json.loads(drop)["location"] == f"{more}[{len(rows) + 2}]" and "`response` is missing" in drop
    text = " ".join(ended.text.split())
    assert ended.code == 2 and "add --redo scalar" in text and "judgments.jsonl changed" in text, text[-2000:]


def test_scores_of_people_are_compared_without_training_again(
    done: Ended, world: World, tmp_path: Path
) -> None:
    name = f"{NAME}-people"
    shutil.copytree(run_folder(), run_folder(name))
    judgments = [json.loads(line) for line in (run_folder() / "judgments.jsonl").read_text().splitlines()]
    people = tmp_path / "people.jsonl"
    lines = [{"id": row["id"], "score": round(10 * row["score"])} for row in judgments]
    people.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    ended = world.run(f"people={people}", name=name)
    assert ended.code == 0, ended.text
    metrics = json.loads((run_folder(name) / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    assert read("evaluation", "metrics.json")["people"] is None
    assert metrics["people"]["replies"] == metrics["replies"]
    assert metrics["people"]["judge"]["spearman"]["value"] > 0.9
    assert metrics["spearman"] == read("evaluation", "metrics.json")["spearman"]


def test_killed_at_several_moments_it_ends_with_the_same_files(done: Ended, world: World) -> None:
    name, server = f"{NAME}-killed", stage_server()
    folder = run_folder(name)
    # While the judge answers, while the head is trained, and when it is there and answers are scored.
    for moment in ("**/*.part.jsonl", "scalar.partial/checkpoints/*/whole", "scalar/model.safetensors"):
        child = server.start(world.command(name=name), environment=world.environment)
        end = time.monotonic() + 200
        while not any(folder.glob(moment)) and Path(f"/proc/{child}").exists():
            assert time.monotonic() < end, moment
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        assert server.ended() == -signal.SIGKILL, moment
    assert not (folder / "evaluation" / "report.html").exists()
    ended = world.run(name=name)
    assert ended.code == 0, ended.text[-2000:]
    results = {
        "judgments.jsonl",
        "conversations.jsonl",
        "scalar/model.safetensors",
        "evaluation/scores.jsonl",
    }
    undisturbed, killed = hashes(run_folder()), hashes(run_folder(name))
    assert {file: killed[file] for file in results} == {file: undisturbed[file] for file in results}
