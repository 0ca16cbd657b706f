"""The page of the HTTP API: it has every route and field of the schema, and its examples work on a real server."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("mkdocstrings", reason="no mkdocs: pip install '.[docs]'")

from generate import http
from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.judge.api import Judge
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.service.replies import PROBLEMS
from reasongenrm.service.server import create_app
from support.app import running
from support.doc_commands import commands

ROUTE = re.compile(
    r"^## (?P<method>GET|POST) (?P<path>/\w+) \{#(?P<anchor>\S+)\}\n(?P<text>.*?)(?=^## )",
    re.MULTILINE | re.DOTALL,
)


@pytest.fixture(scope="module")
def page() -> str:
    return http.http_page()


@pytest.fixture(scope="module")
def openapi() -> Any:
    return http.schema()


@pytest.mark.unit
def test_every_field_of_the_api_has_a_description(openapi: Any) -> None:
    assert http.undocumented(openapi) == []


@pytest.mark.unit
def test_the_page_has_every_route_and_every_field(page: str, openapi: Any) -> None:
    routes = {match["path"]: match for match in ROUTE.finditer(page)}
    assert routes.keys() == openapi["paths"].keys()
    objects = openapi["components"]["schemas"]
    for path, methods in openapi["paths"].items():
        [(method, route)] = methods.items()
        text = routes[path]["text"]
        assert routes[path]["method"].lower() == method and route["summary"] in text
        for title, shape in http.parts(route):
            fields = objects[name]["properties"] if (name := http.name_of(shape)) else ()
            assert f"**{title}**" in text or not shape
            assert all(f"| `{field}` |" in text for field in fields), path
    assert "**409**: The sample contradicts its open cohort." in routes["/reward"]["text"]
    errors = page.partition("\n## Errors\n")[2].partition("\n## ")[0]
    assert all(f"| {status} | " in errors for status in PROBLEMS)


@pytest.mark.unit
def test_links_lead_to_objects_of_the_page(page: str) -> None:
    anchors = {match["anchor"] for match in ROUTE.finditer(page)}
    anchors |= {heading.lower() for heading in re.findall(r"^### (\w+)$", page, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([^)]+)\)", page))
    assert links and links <= anchors
    row = next(line for line in page.splitlines() if line.startswith("| `scale` |"))
    assert "list of 2 (whole number ≥ -1,000, ≤ 1,000)" in row and "`[1, 5]`" in row
    assert "| `rewards` | list of (number or null) |" in page and "[RewardSettings](rewards.md)" in page


@pytest.fixture(scope="module")
def wording(tmp_path_factory: pytest.TempPathFactory) -> PromptFile:
    """The toy world's wording with a rating template, both with criteria."""
    data = yaml.safe_load(Path("configs/prompts/toy.yaml").read_text(encoding="utf-8"))
    data["direct"]["judge"] = "{% if criteria %}{{ criteria }}\n{% endif %}" + data["direct"]["judge"]
    data["rating"] = (
        "{% if criteria %}{{ criteria }}\n{% endif %}[Question]\n{{ conversation }}\n[Answer]\n{{ answer }}\n[End]"
    )
    path = tmp_path_factory.mktemp("wording") / "prompts.yaml"
    path.write_text(yaml.safe_dump(data | {"rating_delimiters": ["[Answer]"]}))
    return PromptFile.load(path)


@pytest.fixture(scope="module")
def server(engine: VLLMEngine, encoders: dict[str, ChatEncoder], wording: PromptFile) -> Iterator[str]:
    judge = Judge(engine, encoders["direct"], wording, JudgingConfig(max_tokens=4))
    with SharedJudge(judge) as shared, running(create_app(shared)) as url:
        yield url


@pytest.mark.engine
def test_every_example_works_and_has_the_answer_of_its_schema(server: str, page: str, openapi: Any) -> None:
    called = set()
    for match in ROUTE.finditer(page):
        [code] = re.findall(r"^```bash\n(.*?)^```$", match["text"], re.MULTILINE | re.DOTALL)
        [[program, *_]] = commands(code)
        assert program == "curl"
        shell = code.replace("localhost:8080", server.removeprefix("http://")).replace(
            "curl -s", "curl -sS --fail-with-body --noproxy '*'"
        )
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (match["path"], done.stdout, done.stderr)
        called.add(match["path"])
        if match["path"] == "/metrics":
            assert "reasongenrm_comparisons_total" in done.stdout
            continue
        [route] = openapi["paths"][match["path"]].values()
        shape = dict(http.parts(route))["Answer"]
        if name := http.name_of(shape):
            http.model(name).model_validate(json.loads(done.stdout))
        else:
            assert json.loads(done.stdout) == {}
    assert called == openapi["paths"].keys()
