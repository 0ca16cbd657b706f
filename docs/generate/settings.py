"""Reference of the recipes: every key of every settings model, with type, default and description.

The descriptions are those of the models' docstrings; `undocumented` lists the keys without one.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.agree import AgreeConfig
from reasongenrm.config.distil import DistilRecipe
from reasongenrm.config.draft import RubricDraft
from reasongenrm.config.engines import Strict
from reasongenrm.config.merge import MergeConfig
from reasongenrm.config.models import ModelsRecipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.config.rewards import RewardSettings
from reasongenrm.config.scalar import AnswersConfig, BestOfNConfig, ScalarRecipe

Model = type[Strict]


class SettingsPage(NamedTuple):
    """One page of the reference.

    Attributes:
        model: the settings.
        title: of the page.
        used_by: the commands that read them.
        example: a file with such settings, or empty.
    """

    model: Model
    title: str
    used_by: str
    example: str = ""


PAGES = {
    "recipe": SettingsPage(
        Recipe,
        "Recipe of the three stages",
        "`prepare`, `train`, `evaluate`, `select`, `export`, `doctor`, `judge` and `serve`",
        "configs/qwen2.5-7b.yaml",
    ),
    "evaluate": SettingsPage(
        ModelsRecipe, "Evaluation without a recipe", "`evaluate` with `--model`, `--server` or `--scalar`"
    ),
    "rewards": SettingsPage(
        RewardSettings, "Rewards", "`serve` with `--rewards`, and the rewards of trainers"
    ),
    "distil": SettingsPage(
        DistilRecipe,
        "Recipe of distil",
        "`distil judge`, `train`, `evaluate` and `run`",
        "configs/distil/reward_model.yaml",
    ),
    "best-of-n": SettingsPage(
        BestOfNConfig, "Settings of best of N", "`distil best`", "configs/distil/best_of_n.yaml"
    ),
    "draft": SettingsPage(
        RubricDraft, "Settings of a rubric's draft", "`rubric draft`", "configs/rubric/draft.yaml"
    ),
    "scalar": SettingsPage(
        ScalarRecipe,
        "Recipe of the scalar reward model",
        "`scalar train`, `evaluate` and `notebook`",
        "configs/scalar/distilbert.yaml",
    ),
    "answers": SettingsPage(
        AnswersConfig, "Settings of answers", "`answers generate`", "configs/answers/phi-2.yaml"
    ),
    "prompts": SettingsPage(
        PromptFile, "Prompt file", "every judge; a recipe names it as `prompts`", "configs/prompts/judge.yaml"
    ),
    "agree": SettingsPage(AgreeConfig, "Settings of agree", "`agree`, as options"),
    "merge": SettingsPage(MergeConfig, "Settings of a merge", "`merge`, as options"),
}
"""File in `reference/` without its ending -> its page."""

KEYS_NOTE = "Keys are written with dots, as on the command line (`key=value`). `NAME` is a name of yours, `N` a number from 0."

MANY = {dict: "NAME", list: "N", tuple: "N"}
"""Place in a dotted key of a section that occurs several times: a name of the reader's, or a number from 0."""


class Section(NamedTuple):
    """A model where it occurs in the settings.

    Attributes:
        path: its dotted key; empty for the settings themselves.
        model: the model.
        kind: the value of its key `kind`, where several models may stand at this place; else empty.
    """

    path: str
    model: Model
    kind: str = ""

    def key(self, name: str) -> str:
        """Return the dotted key of a field."""
        return f"{self.path}.{name}".removeprefix(".")

    @property
    def anchor(self) -> str:
        """Return the anchor of its heading."""
        return "-".join(filter(None, (self.path, self.kind, "section")))


def sections(model: Model) -> Iterator[Section]:
    """Yield a model and those that its fields hold, in the order of the fields."""
    yield from _sections(Section("", model))


def _sections(section: Section) -> Iterator[Section]:
    yield section
    for name in section.model.model_fields:
        for inner in field_sections(section, name):
            yield from _sections(inner)


def field_sections(section: Section, name: str) -> list[Section]:
    """Return the sections that a field of a section holds."""
    found = list(_models(section.model.model_fields[name].annotation))
    return [
        Section(
            ".".join(filter(None, (section.key(name), place))), model, _kind(model) if len(found) > 1 else ""
        )
        for model, place in found
    ]


def _kind(model: Model) -> str:
    return str(get_args(model.model_fields["kind"].annotation)[0])


def _models(annotation: Any, place: str = "") -> Iterator[tuple[Model, str]]:
    """Yield the settings models in a type, each with the part of the dotted key that leads to it."""
    if inspect.isclass(annotation) and issubclass(annotation, Strict):
        yield annotation, place
    origin = get_origin(annotation)
    for inner in get_args(annotation):
        yield from _models(inner, MANY.get(origin, place) if inspect.isclass(origin) else place)


def descriptions(model: Model) -> dict[str, str]:
    """Return field -> its text in the section `Attributes` of the docstring, or of that of a base."""
    texts: dict[str, str] = {}
    for base in reversed(model.__mro__):
        doc = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, _, block = doc.partition("\nAttributes:\n")
        for names, text in re.findall(r"^ {4}([\w, ]+): ((?:.+\n?)(?: {5,}.*\n?)*)", block, re.MULTILINE):
            texts |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return texts


def summary(model: Model) -> str:
    """Return the first paragraph of a model's docstring."""
    return " ".join(inspect.cleandoc(model.__dict__.get("__doc__") or "").split("\n\n")[0].split())


def description(model: Model, name: str) -> str:
    """Return the description of a field: its own, else that of the section that it is; empty without either."""
    own = descriptions(model).get(name, "")
    inner = [one for one, _ in _models(model.model_fields[name].annotation)]
    return own or (summary(inner[0]) if inner else "")


def undocumented() -> list[str]:
    """Return the keys of all pages without a description, as `page: dotted key`."""
    return [
        f"{page}: {section.key(name)}"
        for page, settings in PAGES.items()
        for section in sections(settings.model)
        for name in section.model.model_fields
        if not description(section.model, name)
    ]


def type_text(annotation: Any, metadata: Any = ()) -> str:
    """Return a type in words, with its bounds."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(inner[0], (*inner[1:], *metadata))
    if origin in (Union, types.UnionType):
        words = [type_text(one, metadata) for one in inner if one is not type(None)]
        return " or ".join([*dict.fromkeys(words), *["null"] * (type(None) in inner)])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is dict:
        keys = "NAME" if inner[0] is not int and get_origin(inner[0]) is not Literal else type_text(inner[0])
        return "mapping" if inner[1] is Any else f"mapping of {keys} to {type_text(inner[1])}"
    if origin in (list, tuple):
        items = plural(type_text(inner[0]))
        if origin is tuple and inner[-1] is not Ellipsis:
            return f"list of {len(inner)} {items}"
        least = next(
            (f", {m.min_length} or more" for m in _flat(metadata) if getattr(m, "min_length", 0)), ""
        )
        return f"list of {items}{least}"
    if inspect.isclass(annotation) and issubclass(annotation, Strict):
        return "section"
    names = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text", Any: "any"}
    return f"{names[annotation]}{_bounds(metadata)}"


def plural(text: str) -> str:
    """Return a type in words as several."""
    return re.sub(r"\b(section|number|text|list|mapping)\b", r"\1s", text, count=1)


def _flat(metadata: Any) -> Iterator[Any]:
    """Yield the constraints of a field, those inside a `Field` too."""
    for one in metadata:
        if isinstance(one, FieldInfo):
            yield from _flat(one.metadata)
        else:
            yield one


def _bounds(metadata: Any) -> str:
    """Return the bounds of a number: ` ≥ 1, ≤ 10`."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(one, name):,g}"
        for one in _flat(metadata)
        for name, sign in signs.items()
        if getattr(one, name, None) is not None
    ]
    return f" {', '.join(bounds)}" if bounds else ""


def default_text(field: FieldInfo) -> str:
    """Return a field's default as YAML; of a section, only what differs from its own defaults."""
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Strict):
        value = value.model_dump(mode="json", exclude_defaults=True)
        if not value:
            return "its defaults"
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=1000, allow_unicode=True)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


def _plain(value: Any) -> Any:
    if isinstance(value, Strict):
        return value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def table_text(text: str) -> str:
    """Return a docstring's text for a table's cell: outside code nothing is markup, and `docs/x.md` is a link."""
    parts = text.split("`")
    for number in range(0, len(parts), 2):
        plain = re.sub(r"([*_<\[\]])", r"\\\1", parts[number]).replace("|", "&#124;")
        parts[number] = re.sub(r"docs/([\w\\./-]+?\.md)", _page_link, plain)
    return "`".join(parts)


def _page_link(match: re.Match[str]) -> str:
    page = match[1].replace("\\", "")
    return f"[{page}](../{page})"


def _row(section: Section, name: str, field: FieldInfo) -> str:
    key, kind = section.key(name), type_text(field.annotation, field.metadata)
    anchor = "-".join(filter(None, (key, section.kind)))
    if inner := field_sections(section, name):
        kind = re.sub("sections?", rf"[\g<0>](#{inner[0].anchor})", kind, count=1)
    text = table_text(description(section.model, name))
    return f"| [`{key}`](#{anchor}){{#{anchor}}} | {kind} | {default_text(field)} | {text} |"


def settings_page(page: SettingsPage) -> str:
    """Return a page of the reference as Markdown."""
    lines = [f"# {page.title}", "", table_text(summary(page.model)), ""]
    lines.append(f"Read by {page.used_by}.")
    if page.example:
        lines.append(f"Example: [{page.example}](../../{page.example}).")
    lines += [KEYS_NOTE, ""]
    first: dict[Model, Section] = {}
    for section in sections(page.model):
        title = f"`{section.path}`" if section.path else "Keys at the top"
        kind = f" of kind `{section.kind}`" if section.kind else ""
        lines += [f"## {title}{kind} {{#{section.anchor}}}", ""]
        if section.model in first:
            same = first[section.model]
            lines += [f"As [`{same.path}`](#{same.anchor}): {table_text(summary(section.model))}", ""]
            continue
        first[section.model] = section
        if section.path:
            lines += [table_text(summary(section.model)), ""]
        lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [_row(section, name, field) for name, field in section.model.model_fields.items()]
        lines.append("")
    return "\n".join(lines)
