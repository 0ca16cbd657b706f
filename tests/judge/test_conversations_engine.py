"""Our own judge scores conversations on vLLM: one rating per criterion, and nothing twice after a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, rating_prompt
from reasongenrm.config.distil import DistilRecipe
from reasongenrm.config.engines import ModelConfig
from reasongenrm.config.rubric import Rubric
from reasongenrm.judge.conversations import judge_conversations, judging_settings, preview_judging
from reasongenrm.judge.criteria import rating_text
from reasongenrm.records import Conversation, Judgment, with_criteria
from reasongenrm.run import Run
from reasongenrm.store import read_jsonl
from support.raters import fitted_adapter
from support.scripts import Done, stage_server

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
RUBRIC = [
    {"name": "accuracy", "weight": 3, "levels": {1: "wrong", 5: "right"}},
    {"name": "tone", "scale": [0, 2]},
]
RATINGS = {("good", "accuracy"): 7, ("good", "tone"): 4, ("bad", "accuracy"): 2, ("bad", "tone"): 10}
"""What the fitted judge says of a reply by a criterion, from 1 to 10; of the reply `odd` it says no rating."""

WORDING = """[Question]
{{ conversation }}
[Answer A]
{{ answer }}
[End]
{{ criteria }}
rate ."""

CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_conversations_engine as here
from reasongenrm.judge import scoring
from reasongenrm.store import PartStore
scoring.BLOCK = 2
append = PartStore.append
def dying(store, rows):
    append(store, rows)
    if sys.argv[3] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
PartStore.append = dying
config = here.recipe(sys.argv[2])
run = here.Run(config, "judge")
with run.claim({}):
    here.judge_conversations(config, run, here.conversations())
"""


def recipe(model: str) -> DistilRecipe:
    overrides = ["name=own-judge", f"model.path={model}", "prompts=prompts.yaml", "engine.max_num_seqs=8"]
    own = {"recipe": "configs/demo.yaml", "overrides": [*overrides, "evaluate.rescue=false"], "name": "genrm"}
    judge: dict[str, Any] = {"rubric": RUBRIC, "judge": own, "max_tokens": 6}
    return DistilRecipe.model_validate({"name": "own", "conversations": "c.json", "judge": judge})


def conversations() -> list[Conversation]:
    return [
        Conversation.make("", "add", "good"),
        Conversation.make("the student is new .", "add", "bad"),
        Conversation.make("", "add", "odd"),
    ]


def fit_judge(student: ModelConfig, encoder: ChatEncoder) -> None:
    """Write the prompts, and the adapter of the judge `genrm` into its run folder."""
    toy = yaml.safe_load((ROOT / "configs/prompts/toy.yaml").read_text(encoding="utf-8"))
    Path("prompts.yaml").write_text(yaml.safe_dump(toy | {"rating": WORDING}), encoding="utf-8")
    wording, rows = PromptFile.load("prompts.yaml").for_direct(), []
    for one in conversations():
        for criterion in Rubric.model_validate(RUBRIC).criteria:
            history = with_criteria(one.history, rating_text(criterion))
            asked = encoder.encode(rating_prompt(history, one.response, wording).messages, generation=True)
            rating = RATINGS.get((one.response, criterion.name))
            said = encoder.completion("", f"[[{rating}]]" if rating else "the")
            rows.append((asked + said, [-100] * len(asked) + said))
    folder = fitted_adapter(student, rows, Path("runs/own-judge/judges/genrm/adapter"))
    (folder / "chat_template.jinja").write_text(encoder.template, encoding="utf-8")


def child(model: str, word: str) -> Done:
    words = ["", str(Path(__file__).parent), model, word]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    code = f"import sys\nsys.argv = {words}\n{CHILD}"
    return stage_server().run([], code=code, folder=Path.cwd(), environment=environment)


def test_our_own_judge_rates_each_criterion(
    student: ModelConfig,
    encoders: dict[str, ChatEncoder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    fit_judge(student, encoders["direct"])
    config, rows = recipe(student.path), conversations()
    preview_judging(config, rows)
    assert "0 of 6 answers are there" in capsys.readouterr().out
    died = child(student.path, "die")
    assert died.code == -signal.SIGKILL, died.stderr
    first_block = (config.folder / "judge" / "completions.part.jsonl").read_bytes()
    assert first_block.count(b"\n") == 4, "two conversations by two criteria"
    done = child(student.path, "live")
    assert done.code == 0, done.stderr
    assert (config.folder / "judge" / "completions.jsonl").read_bytes().startswith(first_block)

    judgments = [msgspec.convert(row, Judgment) for row in read_jsonl(config.folder / "judgments.jsonl")]
    assert [judgment.id for judgment in judgments] == [row.id for row in rows]
    good, bad, odd = judgments
    assert good.scores == pytest.approx({"accuracy": 1 + 4 * 6 / 9, "tone": 2 * 3 / 9})
    assert bad.scores == pytest.approx({"accuracy": 1 + 4 / 9, "tone": 2})
    assert good.score == pytest.approx((3 * 6 / 9 + 3 / 9) / 4)
    assert odd.score is None and odd.outcomes == {"unreadable": 1} and good.outcomes == {"ok": 1}
    assert all(judgment.usage["input"] and judgment.usage["output"] for judgment in judgments)
    [problem] = read_jsonl(config.folder / "unscored.jsonl")
    assert problem["id"] == rows[2].id and problem["problem"] == "no rating by accuracy: unparsed"
    summary = json.loads((config.folder / "judge.json").read_text())
    assert summary["conversations"] == {"all": 3, "scored": 2} and summary["cost"] is None
    # All is there, so no engine starts, although the adapter is gone.
    Path("runs/own-judge").rename("moved")
    judge_conversations(config, Run(config, "judge"), rows)


def test_what_changes_a_rating_is_in_the_fingerprint(
    student: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    settings = judging_settings(recipe(student.path))
    assert settings["judge.samples"] == 1 and settings["judge.judge"]["name"] == "genrm"
    weights = "runs/own-judge/judges/genrm/adapter"
    for file in ("configs/demo.yaml", "prompts.yaml", weights):
        assert settings[f"file {file}"] == file
    assert "weight" not in str(settings["judge.rubric"])
