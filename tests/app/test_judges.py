"""Judges that a page can load: those of the runs, in place or moved, and fields of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.app.examples import OWN, example_rows
from reasongenrm.app.judge_fields import (
    ANTHROPIC,
    OPENAI_CHAT,
    OPENAI_COMPLETIONS,
    server_settings,
    status_line,
)
from reasongenrm.app.judges import head_folders, run_judges
from reasongenrm.app.slot import JudgeSlot
from reasongenrm.app.sources import AppSources
from reasongenrm.config.engines import AnthropicConfig, OpenAIConfig
from reasongenrm.config.loading import load_recipe, section
from reasongenrm.errors import ConfigError
from reasongenrm.store import dump_line
from support.app import wait_until

pytestmark = pytest.mark.unit


def make_run(runs: Path, name: str, *judges: str, **keys: Any) -> Path:
    """Write a run's recipe, and the folders of its trained judges."""
    recipe = load_recipe("configs/demo.yaml", [f"name={name}"]).model_dump(mode="json") | keys
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    for judge in judges:
        (folder / "judges" / judge / "adapter").mkdir(parents=True)
    return folder


def test_judges_are_those_that_are_trained_and_the_bases(tmp_path: Path) -> None:
    make_run(tmp_path, "one", "reasongenrm", "unknown")
    make_run(tmp_path, "two")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "recipe.yaml").write_text("name: [", encoding="utf-8")
    (tmp_path / "no-run").mkdir()
    choices, errors = run_judges(tmp_path)
    assert sorted(choices) == [
        "one/base",
        "one/base-direct",
        "one/reasongenrm",
        "two/base",
        "two/base-direct",
    ]
    assert [Path(error.location.rpartition(":")[0]).parent.name for error in errors] == ["broken"]
    assert run_judges(tmp_path / "nowhere") == ({}, [])


def test_heads_are_those_of_the_runs(tmp_path: Path) -> None:
    head = make_run(tmp_path, "one") / "scalar"
    head.mkdir()
    assert head_folders(tmp_path) == []
    (head / "config.json").write_text("{}", encoding="utf-8")
    assert head_folders(tmp_path) == [str(head)]


def test_fields_of_a_server_are_a_valid_config() -> None:
    chat = section(OpenAIConfig, server_settings(OPENAI_CHAT, " http://h/v1 ", " m ", " KEY "), "server")
    assert (chat.urls, chat.model, chat.api, chat.api_key_env) == (["http://h/v1"], "m", "chat", "KEY")
    tokens = section(OpenAIConfig, server_settings(OPENAI_COMPLETIONS, "http://h/v1", "m", ""), "server")
    assert tokens.api == "completions" and tokens.api_key_env is None
    own = section(AnthropicConfig, server_settings(ANTHROPIC, "", "m", ""), "server")
    assert (own.mode, own.url, own.api_key_env) == ("direct", None, "ANTHROPIC_API_KEY")


@pytest.mark.parametrize(("url", "model", "location"), [("", "m", "URL"), ("http://h/v1", " ", "model")])
def test_an_empty_field_of_a_server_is_named(url: str, model: str, location: str) -> None:
    with pytest.raises(ConfigError) as error:
        server_settings(OPENAI_CHAT, url, model, "")
    assert error.value.location == location and error.value.hint


def test_the_line_of_the_judge_escapes_its_name() -> None:
    slot = JudgeSlot()
    assert "no judge is loaded" in status_line(slot)

    def fail() -> Any:
        raise ConfigError("<b>no</b>", location="<i>", hint="<u>")

    slot.load("<script>", fail)
    wait_until(lambda: slot.status.state == "failed")
    line = status_line(slot)
    slot.close()
    assert "&lt;b&gt;no" in line and "&lt;i&gt;" in line and "<b>" not in line and "<i>" not in line


def test_examples_are_of_the_recipes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("configs/demo.yaml", ["name=one"])
    monkeypatch.chdir(tmp_path)
    sources = AppSources(recipe=recipe)
    assert example_rows(AppSources()) == OWN and example_rows(sources) == OWN
    pairs = [
        {"history": [{"role": "user", "content": f"p{n}"}], "chosen": "good", "rejected": "bad"}
        for n in range(6)
    ]
    pairs.insert(0, {"history": [{"role": "user", "content": "x" * 5000}], "chosen": "a", "rejected": "b"})
    recipe.folder.mkdir(parents=True)
    file = recipe.folder / "pairs.jsonl"
    file.write_text("".join(map(dump_line, pairs)), encoding="utf-8")
    rows = example_rows(sources)
    assert [row[0] for row in rows] == ["p0", "p1", "p2", "p3"]
    assert [row[1] for row in rows] == ["good", "bad", "good", "bad"]
    file.write_text("torn {", encoding="utf-8")
    assert example_rows(sources) == OWN
