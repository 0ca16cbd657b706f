"""Reference of the HTTP API: its routes, bodies and answers, from the app's own OpenAPI schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

from pydantic import BaseModel

from generate.settings import descriptions, plural, summary, table_text
from reasongenrm.service.bodies import DEFAULT_LIMITS, Limits
from reasongenrm.service.replies import PROBLEMS
from reasongenrm.service.server import create_app

Schema = Mapping[str, Any]

_SUM = {"prompt": "What is 2 + 2?"}
_ROLLOUT = {
    "responses_create_params": {"input": [{"role": "user", "content": "What is 2 + 2?"}]},
    "response": {"output": [{"type": "message", "content": [{"type": "output_text", "text": "4"}]}]},
    "reference": "It is 4.",
}

EXAMPLES: dict[str, Any] = {
    "/compare": _SUM | {"a": "4", "b": "5"},
    "/score": _SUM | {"answer": "4", "reference": "It is 4."},
    "/rate": _SUM | {"answer": "4", "rubric": ["is correct", {"name": "is short", "weight": 0.5}]},
    "/rank": _SUM | {"answers": ["4", "5", "It is 4."], "method": "round_robin"},
    "/best_of_n": _SUM | {"answers": ["4", "5", "It is 4."]},
    "/compare_many": {"rows": [_SUM | {"a": "4", "b": "5"}]},
    "/rate_many": {"rows": [_SUM | {"answer": "4"}]},
    "/reward": _SUM | {"answers": ["4", "5", "It is 4."], "settings": {"schedule": "circular"}},
    "/get_reward?timeout=60": {"query": ["2 + 2?4", "2 + 2?5"], "prompts": ["2 + 2?", "2 + 2?"]},
    "/verify": _ROLLOUT,
    "/seed_session": {},
    "/close_session": {},
    "/alarm": {"run": "policy", "step": 20, "means": {"judge": 0.61, "second": 0.52}, "alarms": 0},
}
"""Path of a POST, with a query if it has one -> the body of its example."""

_OTHER_PAGES = {"RewardSettings": "rewards.md"}
"""Objects with a page of their own; those that only they hold are not on this one."""

_JSON_TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`", "null": "null", "object": "object"}  # fmt: skip

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def schema() -> Schema:
    """Return the schema that a server shows as /openapi.json; its judge is not needed."""
    app = create_app(cast(Any, SimpleNamespace(counts={}, waiting=0, running=0)))
    shown: Schema = app.openapi()
    return shown


def _models(base: type[BaseModel] = BaseModel) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        if model.__module__.startswith("reasongenrm."):
            yield model
        yield from _models(model)


def model(name: str) -> Any:
    """Return the model of an object of the schema."""
    return next(one for one in _models() if one.__name__ == name)


def undocumented(openapi: Schema) -> list[str]:
    """Return the fields of all objects without a description, as `object.field`."""
    return [
        f"{name}.{field}"
        for name, shape in openapi["components"]["schemas"].items()
        for field in shape["properties"]
        if not descriptions(model(name)).get(field)
    ]


def name_of(shape: Schema) -> str:
    """Return the name of the object that a part of the schema refers to; empty where it is another type."""
    return str(shape.get("$ref", "")).rpartition("/")[2]


def _bounds(shape: Schema) -> str:
    words = [f"{sign} {shape[key]:,g}" for key, sign in _BOUNDS.items() if key in shape]
    return " " + ", ".join(words) if words else ""


class HTTPPage:
    """The page of a schema.

    Args:
        openapi: the schema.
    """

    def __init__(self, openapi: Schema) -> None:
        self._objects = openapi["components"]["schemas"]
        self._routes = [
            (method, path, route)
            for path, methods in openapi["paths"].items()
            for method, route in methods.items()
        ]
        self._links = {name: f"#{name.lower()}" for name in self._objects} | _OTHER_PAGES
        for method, path, route in reversed(self._routes):
            for _, shape in parts(route):
                self._links[name_of(shape)] = f"#{_anchor(method, path)}"

    def type_text(self, shape: Schema) -> str:
        """Return the type of a JSON schema in words, with its bounds; objects are links."""
        if name := name_of(shape):
            return f"[{name}]({self._links[name]})"
        if options := shape.get("anyOf"):
            return " or ".join(dict.fromkeys(map(self.type_text, options)))
        if values := shape.get("enum"):
            return ", ".join(f"`{value}`" for value in values)
        if "const" in shape:
            return f"`{shape['const']}`"
        if shape.get("type") == "array":
            inner = shape.get("items") or next(iter(shape.get("prefixItems", ())), {})
            text = self.type_text(inner)
            text = f"({text})" if " or " in text or "," in text else plural(text)
            count = f"{shape['minItems']} " if "prefixItems" in shape else ""
            least = f", {shape['minItems']} or more" if shape.get("minItems") and not count else ""
            return f"list of {count}{text}{least}"
        if isinstance(values := shape.get("additionalProperties"), Mapping):
            return f"object, each value {self.type_text(values)}"
        return _JSON_TYPES.get(shape.get("type", ""), "any") + _bounds(shape)

    def _fields(self, name: str, *, defaults: bool) -> Iterator[str]:
        """Yield the table of an object's fields."""
        shape, known = self._objects[name], descriptions(model(name))
        yield from (
            ("| key | type | default | meaning |", "| --- | --- | --- | --- |")
            if defaults
            else ("| key | type | meaning |", "| --- | --- | --- |")
        )
        for field, inner in shape["properties"].items():
            required = field in shape.get("required", ())
            default = "**required**" if required else f"`{json.dumps(inner.get('default'))}`"
            cells = [
                f"`{field}`",
                self.type_text(inner),
                *[default] * defaults,
                table_text(known.get(field, "")),
            ]
            yield f"| {' | '.join(cells)} |"
        yield ""

    def _route(self, method: str, path: str, route: Schema) -> Iterator[str]:
        yield from (
            f"## {method.upper()} {path} {{#{_anchor(method, path)}}}",
            "",
            f"{route['summary']}.",
            "",
        )
        yield from ("```bash", _curl(method, path), "```", "")
        for one in route.get("parameters", ()):
            yield from (f"**Query**: `{one['name']}`: {self.type_text(one['schema'])}.", "")
        for title, shape in parts(route):
            if name := name_of(shape):
                yield from (f"**{title}**: {table_text(summary(model(name)))}", "")
                yield from self._fields(name, defaults=title == "Body")
            elif shape:
                yield from (f"**{title}**: {self.type_text(shape)}.", "")
        for status, one in route["responses"].items():
            if status != "200" and int(status) not in PROBLEMS:
                yield from (f"**{status}**: {table_text(one['description'])}", "")

    def _inner_objects(self) -> list[str]:
        """Return the objects that others hold and no route shows, in the order of the schema."""
        held = {name for shape in self._objects.values() for name in _held(shape["properties"])}
        elsewhere = {name for page in _OTHER_PAGES for name in _held(self._objects[page]["properties"])}
        return [
            name
            for name in self._objects
            if name in held - elsewhere and self._links[name] == f"#{name.lower()}"
        ]

    def lines(self) -> Iterator[str]:
        """Yield the lines of the page."""
        yield from ("# HTTP API", "", _INTRODUCTION, "")
        for method, path, route in self._routes:
            yield from self._route(method, path, route)
        yield from ("## Errors", "", "Of every route. The body has `error`, the problem, and `hint`, what to do about it.", "")  # fmt: skip
        yield from ("| status | meaning |", "| --- | --- |")
        for status, one in PROBLEMS.items():
            yield f"| {status} | {table_text(one['description'])} |"
        yield from (
            "",
            _limits_text(DEFAULT_LIMITS),
            "",
            "## Objects",
            "",
            "Parts of bodies and answers.",
            "",
        )
        for name in self._inner_objects():
            shape = self._objects[name]
            yield from (f"### {name}", "", table_text(summary(model(name))), "")
            yield from self._fields(
                name,
                defaults=shape.keys() >= {"required"} and len(shape["required"]) < len(shape["properties"]),
            )


def parts(route: Schema) -> list[tuple[str, Schema]]:
    """Return the schemas of a route's body and answer, each with its title; empty where they are not JSON."""
    parts = {"Body": route.get("requestBody", {}), "Answer": route["responses"]["200"]}
    return [
        (title, part.get("content", {}).get("application/json", {}).get("schema", {}))
        for title, part in parts.items()
    ]


def _anchor(method: str, path: str) -> str:
    return f"{method}-{path.strip('/')}"


def _curl(method: str, path: str) -> str:
    if method == "get":
        return f"curl -s 'localhost:8080{path}'"
    called = next(one for one in EXAMPLES if one.partition("?")[0] == path)
    body = json.dumps(EXAMPLES[called], ensure_ascii=False)
    return f"curl -s 'localhost:8080{called}' -H 'Content-Type: application/json' \\\n  -d '{body}'"


def _held(value: Any) -> Iterator[str]:
    """Yield the names of the objects in a part of the schema."""
    if isinstance(value, Mapping):
        if name := name_of(value):
            yield name
        for inner in value.values():
            yield from _held(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _held(inner)


_INTRODUCTION = (
    "The routes of `reasongenrm serve`, from the schema that a running server shows as `/openapi.json`. How to start it, its keys, limits "
    "and proxies: [The judge as a server](../judging.md#the-judge-as-a-server). A body is a JSON object with `Content-Type: application/json`; "
    "an unknown key is an error. With `--api-key-env`, send `Authorization: Bearer …`."
)


def _limits_text(limits: Limits) -> str:
    most, rewards, rows = (size // 2**20 for size in (limits.body, limits.rewards_body, limits.rows_body))
    return (
        f"413 means more than {limits.text:,} characters in a turn, an answer or a criterion, {limits.turns} turns, {limits.answers} answers or "
        f"{limits.criteria} criteria, or a body of more than {most} MiB ({rewards} MiB for `/get_reward` and `/verify`, {rows} MiB for "
        "`/compare_many` and `/rate_many`)."
    )


def http_page() -> str:
    """Return the page as Markdown."""
    return "\n".join(HTTPPage(schema()).lines())
