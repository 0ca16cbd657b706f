"""The training steps of a run: their order, scores and alarms, in the report and in the model cards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.benchmarks.rewardbench import TOY
from reasongenrm.errors import DataError
from reasongenrm.report.model_card import write_model_card
from reasongenrm.report.run_files import read_run
from reasongenrm.report.run_report import write_report
from reasongenrm.report.tables import score_cell
from reasongenrm.report.training_steps import (
    chain_of,
    read_steps,
    speed_table,
    step_table,
    training_alarms,
)
from reasongenrm.store import write_json, write_jsonl
from support.html_pages import Page
from support.judged_run import judged, rows_of, write_run

pytestmark = pytest.mark.unit

CHAIN = {"reasongenrm": ("sft", None), "reasongenrm@round": ("round", "reasongenrm"),
         "reasongenrm@grpo": ("grpo", "reasongenrm@round")}  # fmt: skip
SKILLS = {"reasongenrm": 0.6, "reasongenrm@round": 0.9, "reasongenrm@grpo": 0.55, "genrm": 0.7}
EVIL = "<script>1</script> | *x*"


def step_files(folder: Path, model: str, kind: str, previous: str | None, **more: Any) -> None:
    """The files that a training step leaves beside its weights; the reward of a `grpo` step rises."""
    rows = [
        {"step": 5 * n, "loss": 1 / n, "learning_rate": 1e-4, "tokens_per_second": 100.0 * n, "mfu": 0.1 * n,
         "peak_memory_gib": 10.0 + n} | ({"reward": 0.1 * n, "consistency": 0.8} if kind == "grpo" else {})
        for n in range(1, 12)
    ]  # fmt: skip
    write_jsonl(folder / "judges" / model / "metrics.jsonl", rows)
    training = {
        "model": model,
        "kind": kind,
        "previous": previous,
        "records": 1200,
        "steps": 55,
        "tokens_seen": 34567,
    }
    training |= {
        "settings": {"learning_rate": 1e-4, "loss_type": ["sigmoid"]},
        "final_loss": 0.09091,
        "alarms": [],
    }
    write_json(folder / "judges" / model / "training.json", training | more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a judge with three steps and of one with one, after stage 3; the GRPO step has lost what the round won."""
    rows = rows_of(TOY.subsets, 30)
    models = {name: judged(rows, name, skill=skill) for name, skill in SKILLS.items()}
    run = write_run(tmp_path_factory.mktemp("runs") / "chain", {"toy": (rows, models)})
    for model, (kind, previous) in CHAIN.items():
        step_files(run, model, kind, previous)
    step_files(run, "genrm", "sft", None)
    write_report(run)
    return run


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def test_steps_come_in_the_order_of_training_whatever_their_names(folder: Path, tmp_path: Path) -> None:
    steps = read_steps(folder, ["reasongenrm", "genrm"])
    assert list(steps) == [*CHAIN, "genrm"]
    assert list(read_steps(folder, ["genrm", "reasongenrm"])) == ["genrm", *CHAIN]
    assert [step.model for step in chain_of(steps, "reasongenrm@grpo")] == list(CHAIN)
    assert [step.model for step in chain_of(steps, "genrm")] == ["genrm"] and chain_of(steps, "nobody") == []
    circle = copy_of(folder, tmp_path)
    step_files(circle, "reasongenrm", "sft", "reasongenrm@grpo")
    assert len(chain_of(read_steps(circle, []), "reasongenrm@grpo")) == 3


def test_the_table_has_the_training_and_the_score_of_each_step(folder: Path) -> None:
    run, steps = read_run(folder), read_steps(folder, ["reasongenrm", "genrm"])
    [benchmark] = run.benchmarks
    table = step_table([*steps.values()], run.benchmarks)
    assert [row[:3] for row in table.rows[:3]] == [
        ("reasongenrm", "sft", "base"), ("reasongenrm@round", "round", "reasongenrm"),
        ("reasongenrm@grpo", "grpo", "reasongenrm@round"),
    ]  # fmt: skip
    for row in table.rows:
        assert row[3:8] == ("learning_rate 0.0001, loss_type sigmoid", "1,200", "55", "34,567", "0.09091")
        assert row[8] == score_cell(benchmark.models[row[0]].score) and len(row) == len(table.headings)
    assert speed_table([steps["genrm"]]).rows == (("speed of genrm", "600", "60.0", "21.0"),)


def test_a_score_that_falls_while_the_reward_rises_is_an_alarm(folder: Path, tmp_path: Path) -> None:
    run, steps = read_run(folder), read_steps(folder, ["reasongenrm"])
    [alarm] = training_alarms(run, steps)
    name = run.benchmarks[0].name
    assert alarm.startswith(f"reasongenrm@grpo: reward rises while the score on {name} falls, by -")
    assert alarm.endswith(" from reasongenrm@round")
    # A step whose reward does not rise, or one that is better than the step before it, gives none.
    calm = copy_of(folder, tmp_path)
    lines = (calm / "judges" / "reasongenrm@grpo" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) | {"reward": 0.5} for line in lines]
    write_jsonl(calm / "judges" / "reasongenrm@grpo" / "metrics.jsonl", rows)
    assert training_alarms(run, read_steps(calm, ["reasongenrm"])) == []
    step_files(calm, "reasongenrm@round", "grpo", "reasongenrm")
    assert training_alarms(run, read_steps(calm, ["reasongenrm"])) == []


def test_both_reports_show_steps_curves_and_alarms(folder: Path, tmp_path: Path) -> None:
    noted = copy_of(folder, tmp_path)
    step_files(noted, "reasongenrm@grpo", "grpo", "reasongenrm@round", alarms=["reward rises while X falls from step 20", EVIL])  # fmt: skip
    page = Page(write_report(noted).read_text(encoding="utf-8"))
    markdown = (noted / "report.md").read_text(encoding="utf-8")
    assert "Training" in page.titles and "## Training\n" in markdown
    for model in (*CHAIN, "genrm"):
        assert model in page.cells
        assert (noted / "plots" / f"training-{model}.png").read_bytes().startswith(b"\x89PNG")
        assert f"](plots/training-{model}.png)" in markdown
    html = (noted / "report.html").read_text(encoding="utf-8")
    for text in (html, markdown):
        assert "reward rises while X falls from step 20" in text and "reward rises while the score on" in text
        assert "<script>1" not in text.replace("\\<", "")
    before = (noted / "report.html").read_bytes()
    write_report(noted)
    assert (noted / "report.html").read_bytes() == before


def test_the_card_of_every_step_shows_the_chain_that_led_to_it(folder: Path) -> None:
    cards = {
        model: write_model_card(folder, model).read_text(encoding="utf-8") for model in (*CHAIN, "genrm")
    }
    grpo = cards["reasongenrm@grpo"]
    places = [grpo.index(f"| {model} | {kind} |") for model, (kind, _) in CHAIN.items()]
    assert places == sorted(places) and "**Alarm**: reasongenrm@grpo: reward rises" in grpo
    for benchmark in read_run(folder).benchmarks:
        for model in CHAIN:
            shown = score_cell(benchmark.models[model].score).replace("[", "\\[").replace("]", "\\]")
            assert shown in grpo, model
    assert (
        "@grpo" not in cards["reasongenrm@round"]
        and "| reasongenrm@round | round |" in cards["reasongenrm@round"]
    )
    assert "Alarm" not in cards["reasongenrm@round"]
    assert "last of these steps" not in cards["genrm"] + cards["reasongenrm"], (
        "a chain of one step is no chain"
    )
    assert "Final loss" in cards["genrm"] and "Final loss" not in grpo, "that of a policy says nothing"
    assert "tokens/s" not in grpo


def test_a_training_of_an_earlier_version(folder: Path, tmp_path: Path) -> None:
    old = copy_of(folder, tmp_path)
    for model in (*CHAIN, "genrm"):
        shutil.rmtree(old / "judges" / model)
    write_json(old / "judges" / "genrm" / "training.json", {"records": 10, "steps": 2, "final_loss": None})
    [step] = read_steps(old, ["genrm"]).values()
    assert (step.kind, step.records, step.tokens_seen, step.logged) == ("sft", 10, None, ())
    write_report(old)
    assert "| genrm | sft | base | – | 10 | 2 | – | – |" in (old / "report.md").read_text(encoding="utf-8")
    assert "peak memory" not in (old / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "text"),
    [("training.json", '{"records": "many"}'), ("training.json", "{"), ("metrics.jsonl", '{"step": [1]}\n')],
)
def test_broken_files_are_named(folder: Path, tmp_path: Path, file: str, text: str) -> None:
    broken = copy_of(folder, tmp_path)
    (broken / "judges" / "genrm" / file).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="broken") as caught:
        write_report(broken)
    assert f"judges/genrm/{file}" in caught.value.location
