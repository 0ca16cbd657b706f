"""`distil run` with a judge of this suite on vLLM: its ratings by a rubric train a head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, rating_prompt
from reasongenrm.config.engines import ModelConfig
from reasongenrm.config.rubric import Rubric
from reasongenrm.judge.criteria import rating_text
from reasongenrm.records import Conversation, with_criteria
from support.raters import fitted_adapter
from support.scripts import ROOT, rows_of, snapshot, stage_server

pytestmark = [pytest.mark.engine, pytest.mark.slow]

RUBRIC = [{"name": "right", "weight": 2, "scale": [0, 9]}]
RATINGS = {"good": 9, "bad": 2}
"""What the judge says of a reply, from 1 to 10."""

RATING = "[Question]\n{{ conversation }}\n[Answer A]\n{{ answer }}\n[End]\n{{ criteria }}\nrate ."
MESSAGES = ("add", "say", "sort", "count", "give", "find")
NAME = "test-distil-engine"


def fit_judge(folder: Path, student: ModelConfig, encoder: ChatEncoder) -> None:
    """Write a wording for ratings, and the adapter of the judge `genrm` into the run folder of its recipe."""
    toy = yaml.safe_load((ROOT / "configs/prompts/toy.yaml").read_text(encoding="utf-8"))
    (folder / "prompts.yaml").write_text(yaml.safe_dump(toy | {"rating": RATING}), encoding="utf-8")
    wording, rows = PromptFile.load(str(folder / "prompts.yaml")).for_direct(), []
    [criterion] = Rubric.model_validate(RUBRIC).criteria
    for message in MESSAGES:
        for response, rating in RATINGS.items():
            history = with_criteria(Conversation.make("", message, response).history, rating_text(criterion))
            asked = encoder.encode(rating_prompt(history, response, wording).messages, generation=True)
            said = encoder.completion("", f"[[{rating}]]")
            rows.append((asked + said, [-100] * len(asked) + said))
    adapter = fitted_adapter(student, rows, folder / "runs" / "own" / "judges" / "genrm" / "adapter")
    (adapter / "chat_template.jinja").write_text(encoder.template, encoding="utf-8")


def run_distil() -> None:
    """Run the command in a process of its own: the tests' engine allows no second one beside it."""
    done = stage_server().run(["distil", "run", "r.yaml"], folder=Path.cwd())
    assert done.code == 0, done.stderr


def test_one_command_with_a_judge_of_our_own(
    student: ModelConfig,
    encoders: dict[str, ChatEncoder],
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    fit_judge(tmp_path, student, encoders["direct"])
    rows = [{"context": "", "message": m, "response": r} for m in MESSAGES for r in RATINGS]
    Path("rows.json").write_text(json.dumps(rows), encoding="utf-8")
    overrides = ["name=own", f"model.path={student.path}", "prompts=prompts.yaml", "engine.max_num_seqs=8"]
    own = {"recipe": "configs/demo.yaml", "name": "genrm", "overrides": overrides}
    recipe = {
        "name": NAME,
        "conversations": "rows.json",
        "judge": {"rubric": RUBRIC, "judge": own, "max_tokens": 6},
        "split": {"validation": 0, "test": 0.34},
        "head": {"model": str(base), "args": {"max_steps": 4, "save_steps": 2}},
    }
    Path("r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run_distil()

    folder = Path("runs") / NAME
    scores = [row["score"] for row in rows_of(folder / "judgments.jsonl")]
    assert scores == pytest.approx([8 / 9, 1 / 9] * len(MESSAGES)), "ratings from 1 to 10 on the scale"
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["replies"] == 4 and metrics["conversations"] == 2
    before = snapshot(folder)
    run_distil()
    assert snapshot(folder) == before
