"""A judge that a server has loaded: found by its note only where it is the same judge, and with the same results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.config.rubric import Rubric
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.errors import EngineError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.inputs import ComparisonInput
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.records import with_criteria
from reasongenrm.service.server import create_app
from reasongenrm.service.warm import ServerNote, WarmJudge, judge_fingerprint
from support.app import running, wait_until

RUBRIC = Rubric.model_validate([{"name": "right", "weight": 3}, {"name": "short"}])


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe with a trained judge, all of whose files are in a folder of this test."""
    root = Path.cwd()
    for name in ("toy.yaml", "reason.jinja", "direct.jinja"):
        (tmp_path / name).write_bytes((root / "configs" / "prompts" / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model/model.safetensors").write_bytes(b"base")
    text = "{name: r, model: {path: ./model}, prompts: toy.yaml, templates: {reason: reason.jinja, direct: direct.jinja}, data: {sources: [{path: x.jsonl}]}, judges: {mine: {template: reason}, other: {template: direct}}, train: {launch: launch.yaml}}"
    Path("r.yaml").write_text(text)
    recipe = load_recipe("r.yaml", [])
    for name in recipe.trained:
        recipe.weights(name).mkdir(parents=True)
        (recipe.weights(name) / "adapter_model.safetensors").write_bytes(name.encode())
    return recipe


@contextmanager
def served(fingerprint: str | None, key: str | None = None) -> Iterator[str]:
    """A server whose judge has this fingerprint."""
    judge = Judge(
        SimpleNamespace(max_model_len=512),
        None,
        PromptFile.load("toy.yaml"),
        JudgingConfig(),  # type: ignore[arg-type]
    )
    with (
        SharedJudge(judge) as shared,
        running(create_app(shared, fingerprint=fingerprint, api_key=key)) as url,
    ):
        yield url


@pytest.mark.unit
def test_a_fingerprint_changes_with_all_that_changes_results(recipe: Recipe) -> None:
    seen = {judge_fingerprint(recipe, "mine")}
    assert judge_fingerprint(load_recipe("r.yaml", []), "mine") in seen

    def is_new(changed: Recipe, name: str = "mine") -> bool:
        fingerprint = judge_fingerprint(changed, name)
        new = fingerprint not in seen
        seen.add(fingerprint)
        return new

    assert is_new(recipe, "other") and is_new(recipe, "base")
    for override in (
        "seed=3",
        "evaluate.max_tokens=9",
        "evaluate.temperature=0.5",
        "engine.max_model_len=9000",
    ):
        assert is_new(load_recipe("r.yaml", [override])), override
    for file in (
        "toy.yaml", "reason.jinja", "model/model.safetensors", "runs/r/judges/mine/adapter/adapter_model.safetensors",
    ):  # fmt: skip
        Path(file).write_bytes(Path(file).read_bytes() + b" ")
        assert is_new(recipe), file
    (Path("model") / "new.json").touch()
    assert is_new(recipe)


@pytest.mark.unit
def test_a_command_that_asks_a_server_loads_no_heavy_library() -> None:
    code = "import sys, reasongenrm.stages.ask, reasongenrm.service.warm, reasongenrm.service.server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "vllm", "tokenizers", "numpy", "scipy", "sklearn", "pandas", "datasets", "peft", "trl", "ray", "matplotlib", "fastapi"}  # fmt: skip
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "httpx" in loaded and not loaded & heavy


@pytest.mark.unit
def test_only_the_server_of_the_same_judge_is_found(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    note = ServerNote.of_judge(recipe, None)
    assert note == ServerNote.of_judge(recipe, "mine") and note.server() is None
    with served(note.fingerprint) as url:
        with note.published(url):
            warm = note.server()
            assert warm is not None and warm.seed == recipe.seed
            warm.close()
            line = capsys.readouterr().err
            assert url in line and f"process {os.getpid()}" in line and "--own-engine" in line
            assert ServerNote.of_judge(recipe, "other").server() is None
            assert ServerNote.of_judge(load_recipe("r.yaml", ["seed=3"]), None).server() is None
        assert note.server() is None and not note.path.parent.exists()
    assert capsys.readouterr().err == ""


@pytest.mark.unit
def test_notes_that_are_left_behind_are_ignored(recipe: Recipe) -> None:
    note = ServerNote.of_judge(recipe, None)
    note.path.parent.mkdir()
    with served("that of another judge") as url:
        good = {"url": url, "pid": 1, "api_key_env": None}
        note.path.write_text(json.dumps(good))  # another server has the port now
        assert note.server() is None
    assert note.server() is None  # nothing listens there
    with served(note.fingerprint) as url:
        for text in ("", "{", "[]", "{}", json.dumps(good | {"pid": None}), json.dumps(good | {"url": 5})):
            note.path.write_text(text)
            assert note.server() is None, text
        note.path.write_text(json.dumps(good | {"url": url}))
        assert note.server() is not None
        note.path.write_text(json.dumps(good | {"url": url.replace("127.0.0.1", "203.0.113.7")}))
        assert note.server() is None  # no judged text leaves this machine


@pytest.mark.unit
def test_the_key_comes_from_the_environment(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note = ServerNote.of_judge(recipe, None, "WARM_KEY")
    with served(note.fingerprint, "open-sesame") as url, note.published(url):
        assert "sesame" not in note.path.read_text()
        monkeypatch.delenv("WARM_KEY", raising=False)
        assert note.server() is None and "$WARM_KEY" in capsys.readouterr().err
        monkeypatch.setenv("WARM_KEY", "wrong")
        assert note.server() is None
        monkeypatch.setenv("WARM_KEY", "open-sesame")
        assert note.server() is not None


@pytest.mark.unit
def test_a_note_is_the_server_s_own(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    note = ServerNote.of_judge(recipe, None)
    with note.published("http://203.0.113.7:80"):
        assert not note.path.exists()
    with note.published("http://127.0.0.1:1"):
        with note.published("http://127.0.0.1:2"):  # a second server of the same judge
            pass
        assert not note.path.exists()
    with note.published("http://127.0.0.1:1"):
        note.path.write_text("{}")
    assert note.path.read_text() == "{}"
    note.path.unlink()
    note.path.mkdir()  # as a full disk, it cannot be written
    with note.published("http://127.0.0.1:1"):
        pass
    assert "cannot be written" in capsys.readouterr().err


ROWS: list[ComparisonInput] = [
    ("count to 3", "1 2 3", "no no"),
    ([{"role": "system", "content": "be short"}, {"role": "user", "content": "q \ud800"}], "fan", "x" * 90),
    (with_criteria([{"role": "user", "content": "add 1 and 2 ."}], "the sum is right"), "3", "4"),
    ("add 1 and 2 .", "3", "4", RUBRIC),
    ("say fan", "fan", "fan fan fan"),
]


@pytest.fixture(scope="module")
def judge(
    engine: VLLMEngine, encoders: dict[str, ChatEncoder], tmp_path_factory: pytest.TempPathFactory
) -> Judge:
    """The toy world's wording with a rating template, both with criteria."""
    data = yaml.safe_load(Path("configs/prompts/toy.yaml").read_text())
    criteria = "{% if criteria %}{{ criteria }}\n{% endif %}"
    data["judge"] = criteria + data["judge"]
    data["rating"] = criteria + "[Question]\n{{ conversation }}\n[Answer]\n{{ answer }}\n[End]\nhow good ?"
    path = tmp_path_factory.mktemp("warm") / "prompts.yaml"
    path.write_text(yaml.safe_dump(data | {"rating_delimiters": ["[Answer]"]}))
    return Judge(engine, encoders["reason"], PromptFile.load(path), JudgingConfig(max_tokens=12))


@pytest.mark.engine
def test_results_are_those_of_the_judge(judge: Judge) -> None:
    judge.engine.reset_prefix_cache()
    own = list(judge.compare_many(ROWS))
    judge.engine.reset_prefix_cache()
    ratings = list(judge.rate_many([(row[0], row[1], *row[3:]) for row in ROWS]))
    best = judge.best_of_n("say fan", ["fan", "x", "fan fan"])
    with SharedJudge(judge) as shared, running(create_app(shared)) as url:
        warm = WarmJudge(url, None, seed=judge.seed)
        for _ in range(2):  # whatever is in the prefix cache
            assert list(warm.compare_many(ROWS)) == own
            assert list(warm.rate_many([(row[0], row[1], *row[3:]) for row in ROWS])) == ratings
        assert warm.best_of_n("say fan", ["fan", "x", "fan fan"]).index == best.index
        assert list(warm.compare_many([])) == []
        warm.close()
    assert {type(c).__name__ for c in own} == {"Comparison", "RubricComparison"}
    assert own[0].verdicts and own[0].id


@pytest.mark.engine
def test_rows_of_a_file_are_judged_apart_from_other_requests(judge: Judge) -> None:
    calls: list[int] = []

    class Noted(Judge):
        def comparisons(self, rows: Any) -> Any:
            batch = list(rows)
            calls.append(len(batch))
            return super().comparisons(batch)

    noted = Noted(judge.engine, judge.encoder, judge.prompt_file, judge.config)
    with SharedJudge(noted) as shared:
        block = shared.submit([("hold", "a", "b")])
        wait_until(lambda: shared.waiting == 0)
        jobs = [shared.submit([ROWS[0]]), shared.submit(ROWS[:2], alone=True), shared.submit([ROWS[4]])]
        assert all(job.result(60) for job in (block, *jobs))
    assert calls == [1, 1, 2, 1]


@pytest.mark.engine
def test_a_server_that_has_stopped_is_an_error(judge: Judge) -> None:
    with SharedJudge(judge) as shared, running(create_app(shared)) as url:
        warm = WarmJudge(url, None, seed=1)
        with pytest.raises(EngineError, match="refuses"):
            list(warm.compare_many([([], "a", "b")]))
    with pytest.raises(EngineError, match="does not answer") as caught:
        list(warm.compare_many(ROWS))
    assert "--own-engine" in caught.value.hint
