"""The judge inside evaluation tools: the real packages, in an environment of their own, against a real server of the judge.

`make integrations` makes the environment and runs this; elsewhere the tools' tests are skipped. The judge behind the server is an
OpenAI-compatible one that prefers, and rates by, the word `good`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reasongenrm.judge.api import Judge
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.service.server import create_app
from reasongenrm.store import write_jsonl
from support.app import running
from support.servers import ReceivedRequest, Reply, chat_reply, serving

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "integrations"
PYTHON = Path(os.environ.get("INTEGRATIONS", ROOT / ".venv-integrations")) / "bin" / "python"
needs_tools = pytest.mark.skipif(
    not PYTHON.exists(), reason="make integrations installs inspect_ai, lm_eval and lighteval"
)

KEY = "a-secret-key"


def reply(received: ReceivedRequest) -> Reply:
    text = received.body["messages"][-1]["content"]
    answers = re.split(r"\[Answer(?: [AB])?\]\n", text.rpartition("\n[End]")[0])[1:]
    if "unreadable" in text:
        content = "I cannot say."
    elif len(answers) == 2:
        content = "It is better.\n[[A]]" if "good" in answers[0] else "It is better.\n[[B]]"
    else:
        content = "It is good.\n[[10]]" if "good" in answers[0] else "It is bad.\n[[1]]"
    return chat_reply(content)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a judge's server."""
    with serving(reply) as server:
        served = {"kind": "openai", "urls": [f"{server.url}/v1"], "model": "j", "api": "chat"}
        prompts = ROOT / "configs" / "prompts" / "judge.yaml"
        with (
            Judge.from_server(served, prompts=prompts, judging={"rescue": False}) as judge,
            SharedJudge(judge, seconds=60) as shared,
            running(create_app(shared, api_key=KEY)) as address,
        ):
            yield address


@pytest.fixture
def client(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("REASONGENRM_URL", url)
    monkeypatch.setenv("REASONGENRM_KEY", KEY)
    monkeypatch.delitem(sys.modules, "judge_client", raising=False)
    import judge_client

    return judge_client


def test_an_answer_is_compared_or_rated(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.judge("Q?", "good", "bad") == (1.0, "It is better.")
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Q?"}]
    assert client.judge(turns, "bad", "good")[0] == 0.0
    assert client.judge("Q?", "good")[0] == 1.0 and client.judge("Q?", "bad", "")[0] == 0.0
    with pytest.raises(client.NoVerdict, match="unparsed"):
        client.judge("Q?", "unreadable", "bad")
    monkeypatch.setenv("REASONGENRM_KEY", "wrong")
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        client.judge("Q?", "good", "bad")


INSPECT = """
import json, sys
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput, get_model
from inspect_ai_judge import reasongenrm_judge
samples = [Sample(input="Q1?", target="bad"), Sample(input="Q2?", target="good"), Sample(input="Q3?", target="")]
outputs = [ModelOutput.from_content("mockllm", text) for text in ("good", "bad", "good")]
task = Task(dataset=MemoryDataset(samples), scorer=reasongenrm_judge())
[log] = eval(task, model=get_model("mockllm/model", custom_outputs=outputs), display="none", log_dir=sys.argv[1], max_samples=1)
assert log.status == "success", log.error
print(json.dumps([log.results.scores[0].metrics["mean"].value, log.samples[0].scores["reasongenrm_judge"].explanation]))
"""

LM_EVAL = """
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager
found = lm_eval.simple_evaluate(model="dummy", tasks=["judged"], task_manager=TaskManager(include_path=sys.argv[2]))
print(json.dumps(found["results"]["judged"]["judge,none"]))
"""

LIGHTEVAL = """
import json
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.lighteval_task import LightevalTask
from lighteval_judge import METRIC, TASKS_TABLE
[config] = TASKS_TABLE
task = LightevalTask(config)
docs = task.eval_docs()
scores = [METRIC.compute_sample(model_response=ModelResponse(text=[text]), doc=doc)["judge"] for doc, text in zip(docs, ["good", "bad"])]
print(json.dumps([scores, METRIC.get_corpus_aggregations()["judge"](scores)]))
"""


def run(script: str, url: str, folder: Path, *words: str) -> Any:
    """Run a script in the tools' environment, in a folder with prompts, and return its last line as JSON."""
    rows = [{"prompt": "Q1?", "reference": "bad"}, {"prompt": "Q2?", "reference": "good"}]
    write_jsonl(folder / "prompts.jsonl", rows)
    environment = {
        **os.environ, "PYTHONPATH": str(EXAMPLES), "REASONGENRM_URL": url, "REASONGENRM_KEY": KEY, "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"), "JUDGED_PROMPTS": str(folder),
    }  # fmt: skip
    done = subprocess.run(
        [str(PYTHON), "-c", script, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@needs_tools
def test_inspect_ai(url: str, tmp_path: Path) -> None:
    mean, explanation = run(INSPECT, url, tmp_path, str(tmp_path / "logs"))
    assert mean == pytest.approx((1 + 0 + 1) / 3) and explanation == "It is better."


@needs_tools
def test_lm_eval(url: str, tmp_path: Path) -> None:
    # Its model `dummy` answers "lol". This judge names B where A is not good: against "bad" that is each answer once, so 0.5;
    # against "good" it is never "lol".
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name in ("judged.yaml", "lm_eval_judge.py", "judge_client.py"):
        (tasks / name).write_text((EXAMPLES / name).read_text())
    assert run(LM_EVAL, url, tmp_path, "-", str(tasks)) == pytest.approx(0.25)


@needs_tools
def test_lighteval(url: str, tmp_path: Path) -> None:
    scores, mean = run(LIGHTEVAL, url, tmp_path)
    assert scores == [1.0, 0.0] and mean == 0.5
