"""Heads that learn a judge's scores: labels, losses, what they learn, and that a killed training ends with the same weights."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reasongenrm.data.split import split_conversations
from reasongenrm.errors import ConfigError, DataError, EngineError
from reasongenrm.records import Conversation
from reasongenrm.run import Run
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.scalar.scale import ScoreScale
from reasongenrm.train.distilled import check_distilled, score_pairs, train_distilled
from reasongenrm.train.scores import (
    MISSING,
    JudgedReply,
    fit_scale,
    loss_function,
    ordinal_loss,
    score_labels,
    train_scores,
)
from support.distilled import distil_recipe, judged_conversations, rule_judgment, unreadable
from support.heads import ARGS
from support.scripts import Done, stage_server

TOY_BASE = Path(__file__).parents[2] / "data" / "toy-base"
OBJECTIVES = ("regression", "dimensions", "ordinal", "pairs")


def replies(count: int = 20) -> list[JudgedReply]:
    rows, judgments = judged_conversations(count)
    return [JudgedReply(row, judgment) for row, judgment in zip(rows, judgments, strict=True)]


@pytest.mark.unit
def test_labels_have_mean_zero_and_deviation_one() -> None:
    rows = replies()
    for objective in ("regression", "dimensions"):
        scale = fit_scale(rows, distil_recipe("none", objective=objective))
        table = [score_labels(row.judgment, scale) for row in rows]
        for column in zip(*table, strict=True):
            assert sum(column) / len(column) == pytest.approx(0, abs=1e-9)
            assert sum(value**2 for value in column) / len(column) == pytest.approx(1)
        assert scale.scores(table) == pytest.approx([row.score for row in rows]), "a head without errors"


@pytest.mark.unit
def test_a_missing_criterion_has_no_label() -> None:
    rows = replies()
    row = rows[0].judgment
    scale = fit_scale(rows, distil_recipe("none", objective="dimensions"))
    labels = score_labels(replace(row, scores={"accuracy": row.scores["accuracy"]}), scale)
    assert labels[1] == MISSING and labels[0] == score_labels(row, scale)[0]


@pytest.mark.unit
def test_a_score_between_two_levels_is_both() -> None:
    scale = ScoreScale(objective="ordinal", levels=5)
    row = replies()[0].judgment
    for score, labels in {
        0.0: [0, 0, 0, 0],
        0.6: [1, 1, 0.4, 0],
        0.75: [1, 1, 1, 0],
        1.0: [1, 1, 1, 1],
    }.items():
        assert score_labels(replace(row, score=score), scale) == pytest.approx(labels)


@pytest.mark.unit
def test_scores_that_teach_nothing_are_refused() -> None:
    rows = [replace(row, judgment=replace(row.judgment, score=0.5)) for row in replies()]
    with pytest.raises(DataError, match="all training scores are equal"):
        fit_scale(rows, distil_recipe("none"))
    with pytest.raises(DataError, match="no training row has a score"):
        fit_scale([], distil_recipe("none"))
    rows = [replace(row, judgment=replace(row.judgment, scores={"accuracy": 1.0})) for row in replies()]
    with pytest.raises(DataError, match="no training row has a score for tone"):
        fit_scale(rows, distil_recipe("none", objective="dimensions"))


@pytest.mark.unit
def test_the_least_ordinal_loss_is_at_the_score() -> None:
    import torch

    scale = ScoreScale(objective="ordinal", levels=4)
    row = replies()[0].judgment
    scores = [0.1, 0.5, 0.84]
    labels = torch.tensor([score_labels(replace(row, score=score), scale) for score in scores])
    logits = torch.zeros(3, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = ordinal_loss(logits, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert scale.scores(logits.tolist()) == pytest.approx(scores, abs=0.01)


@pytest.mark.unit
def test_the_ordinal_loss_of_whole_levels_is_that_of_the_paper() -> None:
    import torch

    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    levels = [0, 1, 2, 3, 1, 3]
    labels = torch.tensor([[float(level > k) for k in range(3)] for level in levels])
    expected = 0.0
    for k in range(3):  # task k: rows with level >= k; is the level above k?
        for row, level in enumerate(levels):
            if level >= k:
                p = torch.sigmoid(logits[row, k]).item()
                expected -= torch.tensor(p if level > k else 1 - p).log().item()
    assert ordinal_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.unit
@pytest.mark.parametrize("objective", ["dimensions", "ordinal"])
def test_the_loss_does_not_depend_on_the_batches_and_skips_missing_labels(objective: str) -> None:
    import torch

    loss = loss_function(distil_recipe("none", objective=objective))
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    labels = torch.rand(8, 4, generator=torch.Generator().manual_seed(2)).sort(descending=True).values
    if objective == "dimensions":
        labels[2, 1] = labels[5] = MISSING
    count = (labels != MISSING).sum()
    whole = loss(SimpleNamespace(logits=logits), labels, num_items_in_batch=count)
    parts = [
        loss(SimpleNamespace(logits=logits[rows]), labels[rows], num_items_in_batch=count)
        for rows in (slice(0, 3), slice(3, 8))
    ]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-5)
    assert whole.item() == pytest.approx(loss(SimpleNamespace(logits=logits), labels).item(), rel=1e-5)
    whole.backward()
    assert logits.grad is not None
    assert ((logits.grad == 0) == (labels == MISSING)).all() or objective == "ordinal"


@pytest.mark.unit
def test_huber_is_the_squared_error_of_small_errors_and_less_of_large_ones() -> None:
    import torch

    outputs = SimpleNamespace(logits=torch.tensor([[0.5], [3.0]]))
    labels = torch.zeros(2, 1)
    squared = loss_function(distil_recipe("none"))
    huber = loss_function(distil_recipe("none", huber=1.0))
    assert squared(outputs, labels).item() == pytest.approx((0.25 + 9) / 2)
    assert huber(outputs, labels).item() == pytest.approx((0.25 + 2 * (3 - 0.5)) / 2)


@pytest.mark.unit
def test_pairs_are_of_one_message_with_the_gap() -> None:
    rows = [
        Conversation.make(context, message, f"{context}{message}{n}")
        for context in "ab"
        for message in "cd"
        for n in range(3)
    ]
    some = [
        JudgedReply(
            row, replace(rule_judgment(Conversation.make("", "", "good you")), id=row.id, score=score)
        )
        for row, score in zip(rows, [0.2, 0.3, 0.9] + [0.5] * 9, strict=True)
    ]
    pairs = score_pairs(some, 0.1)
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [
        ("ac1", "ac0"),
        ("ac2", "ac0"),
        ("ac2", "ac1"),
    ]
    assert len(score_pairs(some, 0.65)) == 1
    assert pairs[0].history == rows[0].history


@pytest.mark.unit
@pytest.mark.parametrize("objective", ["regression", "pairs"])
def test_unknown_keys_of_the_trainer_are_named(objective: str) -> None:
    with pytest.raises(ConfigError, match=r"head\.args\.learning_rat: .*did you mean 'learning_rate'"):
        check_distilled(distil_recipe("none", objective=objective, head={"args": {"learning_rat": 1e-3}}))
    with pytest.raises(ConfigError, match=r"head\.args\.eval_steps: .*set by the suite"):
        check_distilled(distil_recipe("none", objective=objective, head={"args": {"eval_steps": 3}}))
    with pytest.raises(ConfigError, match=r"head\.lora\.rank"):
        check_distilled(distil_recipe("none", objective=objective, head={"lora": {"rank": 3}}))
    with pytest.raises(ValueError, match=r"set split\.validation"):
        distil_recipe("none", head={"patience": 2}, split={"validation": 0})


LEARNING = ARGS | {
    "max_steps": 160,
    "per_device_train_batch_size": 16,
    "learning_rate": 2e-3,
    "save_steps": 80,
    "warmup_steps": 16,
}


def plain_logits(folder: Path, context: str, response: str) -> list[float]:
    """The contract, with nothing of this suite."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(context, response, return_tensors="pt", truncation=True)
    with torch.no_grad():
        logits = AutoModelForSequenceClassification.from_pretrained(folder)(**tokens).logits[0].tolist()
    return [float(value) for value in logits]


@pytest.mark.engine
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_the_judges_rule(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    from scipy.stats import spearmanr

    monkeypatch.chdir(tmp_path)
    rows, judgments = judged_conversations()
    judgments[3] = unreadable(rows[3])
    recipe = distil_recipe(base, objective=objective, head={"args": LEARNING})
    split = split_conversations(rows, recipe.split.validation, recipe.split.test, recipe.seed)
    report = train_distilled(recipe, Run(recipe, "distil-train"), rows, judgments)
    assert report["unscored"] == (rows[3] not in split.test)
    learned = len(split.train) - (rows[3] in split.train)
    assert report.get("rows", learned) == learned == 117 - (rows[3] in split.train)
    assert report["validation"]["loss"] > 0

    folder = tmp_path / "runs" / "distilled" / "scalar"
    head = ScalarRewardModel.from_pretrained(folder)
    by_id = {judgment.id: judgment for judgment in judgments}
    test = [row for row in split.test if by_id[row.id].score is not None]
    scores = head.score_batch([row.history for row in test], [row.response for row in test])
    judge = [by_id[row.id].score for row in test]
    assert spearmanr(scores, judge).statistic > 0.75
    if objective != "pairs":
        mean = sum(judge) / len(judge)  # type: ignore[arg-type]
        error = sum(abs(a - b) for a, b in zip(scores, judge, strict=True))  # type: ignore[operator]
        assert error < 0.8 * sum(abs(mean - b) for b in judge)  # type: ignore[operator]
    plain = next(row for row in test if not row.context)
    logits = plain_logits(folder, plain.message, plain.response)
    assert len(logits) == head.scale.logits == {"dimensions": 2, "ordinal": 4}.get(objective, 1)
    assert head.score(plain.message, plain.response) == pytest.approx(
        head.scale.scores([logits])[0], abs=1e-5
    )
    [criteria] = head.criterion_scores([plain.message], [plain.response])
    assert list(criteria) == (["accuracy", "tone"] if objective == "dimensions" else [])


@pytest.mark.engine
def test_a_causal_base_with_lora_and_a_broken_record(tmp_path: Path) -> None:
    rows = replies(8)
    lora = {"r": 4, "target_modules": "all-linear"}
    recipe = distil_recipe(
        TOY_BASE, objective="dimensions", head={"lora": lora, "args": ARGS | {"max_steps": 4}}
    )
    report = train_scores(rows[:18], rows[18:], recipe, output_dir=tmp_path / "s")
    assert (report["rows"], report["validation"]["rows"], report["steps"]) == (18, 6, 4)
    folder = tmp_path / "s"
    assert not any("adapter" in file.name for file in folder.iterdir()), "the adapter is merged in"
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "accuracy", "1": "tone"} and config["problem_type"] == "regression"
    assert config["reasongenrm"]["rubric"]["criteria"][0]["weight"] == 3
    head = ScalarRewardModel.from_pretrained(folder)
    plain = rows[0].conversation
    assert not plain.context
    logits = plain_logits(folder, plain.message, plain.response)
    assert head.score(plain.message, plain.response) == pytest.approx(
        head.scale.scores([logits])[0], abs=1e-5
    )
    assert "| accuracy | 1 to 5 | 3 |" in (folder / "README.md").read_text()

    # the same again is done; another objective is not this training
    assert train_scores(rows[:18], rows[18:], recipe, output_dir=folder) == report
    with pytest.raises(ConfigError, match="does not hold this training"):
        train_scores(rows[:18], rows[18:], recipe.model_copy(update={"huber": 1.0}), output_dir=folder)

    config["reasongenrm"]["objective"] = "ordinal"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match=r"reasongenrm cannot be read"):
        ScalarRewardModel.from_pretrained(folder)
    del config["reasongenrm"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match="2 logits"):
        ScalarRewardModel.from_pretrained(folder)


@pytest.mark.engine
def test_conversations_that_give_no_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows, judgments = judged_conversations(6)
    recipe = distil_recipe("none", objective="pairs", gap=1.0)
    with pytest.raises(DataError, match=r"gap: no message has two replies whose scores differ by 1\.0"):
        train_distilled(recipe, Run(recipe, "distil-train"), rows[::3], judgments[::3])
    with pytest.raises(ConfigError, match="too few to hold out 2"):
        train_distilled(recipe, Run(recipe, "distil-train"), rows[:6], judgments)


KILLED = """
import os, signal, transformers
from pathlib import Path
from support.distilled import distil_recipe, judged_conversations
from support.heads import ARGS
from reasongenrm.train.scores import JudgedReply, train_scores
done, step = [], transformers.Trainer.training_step
def dying_step(*args, **kwargs):
    done.append(1)
    if len(done) == {lives}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*args, **kwargs)
transformers.Trainer.training_step = dying_step
rows = [JudgedReply(*both) for both in zip(*judged_conversations(20))]
lora = {lora}
args = ARGS | {{"max_steps": 12, "save_steps": 4, "gradient_accumulation_steps": 1}}
recipe = distil_recipe(Path({base!r}), objective="dimensions", huber=1.0, head={{"patience": 3, "lora": lora, "args": args}})
train_scores(rows[:45], rows[45:], recipe, output_dir=Path({output!r}))
print(len(done))
"""


@pytest.mark.engine
def test_kill_and_start_again(base: Path, tmp_path: Path) -> None:
    lora = {"r": 4, "target_modules": ["q_lin", "v_lin"]}  # without one: tests/e2e/test_e2e_scalar.py
    from safetensors.numpy import load_file

    def run(output: Path, lives: int) -> Done:
        script = KILLED.format(base=str(base), output=str(output), lives=lives, lora=lora)
        return stage_server().run([], code=script)

    killed = run(tmp_path / "killed", 10)
    assert killed.code == -signal.SIGKILL and not (tmp_path / "killed").exists(), killed.stderr[-2000:]
    again, calm = run(tmp_path / "killed", 999), run(tmp_path / "calm", 999)
    assert calm.stdout.split()[-1] == "12", calm.stderr[-2000:]
    assert again.stdout.split()[-1] == "4", "8 of 12 steps were kept"
    ours, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "calm"))
    assert ours.keys() == whole.keys()
    for name, weights in whole.items():
        assert abs(ours[name] - weights).max() <= 1e-6, name
    reports = [json.loads((tmp_path / name / "done.json").read_text()) for name in ("killed", "calm")]
    assert reports[0] == reports[1]
