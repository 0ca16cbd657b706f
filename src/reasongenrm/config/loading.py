"""Load YAML settings, apply overrides, and name the key of every error."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from reasongenrm.config.engines import Strict
from reasongenrm.config.recipe import Recipe
from reasongenrm.errors import ConfigError, first_line

Config = TypeVar("Config", bound=BaseModel)


_YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""Errors of PyYAML; all but the first for values such as `2026-99-99` and `!!bool x`, and for deep nesting."""


class _UniqueKeys(yaml.SafeLoader):
    """Reject a key that occurs twice in one mapping; YAML would silently use the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                problem = "a key is a list or a mapping; write a name"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.value in seen:
                problem = f"the key {key.value!r} occurs twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _override(tree: dict[str, Any], assignment: str) -> None:
    """Apply `a.b.c=value`; the value is YAML, and a number such as in `a.0.b` indexes a list."""
    key, sign, text = assignment.partition("=")
    if not sign or not key:
        raise ConfigError(
            f"{assignment!r} is not an override", location="command line", hint="write key=value"
        )
    try:
        value = yaml.safe_load(text)
    except _YAML_ERRORS as error:
        raise ConfigError(f"{text!r} is not a YAML value", location=key, hint=_yaml_problem(error)) from None
    node: Any = tree
    *path, last = key.split(".")
    for part in path:
        place = _place(node, part, key)
        if isinstance(node, dict) and node.get(place) is None:
            node[place] = {}
        node = node[place]
    node[_place(node, last, key)] = value


def _place(node: Any, part: str, key: str) -> str | int:
    """Return one part of a dotted key as the key of a mapping or the index of a list."""
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise ConfigError(f"{part!r} is nested under a scalar value", location=key, hint="check the key")
    if part.isdecimal() and int(part) < len(node):
        return int(part)
    raise ConfigError(f"{part!r} is not an index of a list of {len(node)}", location=key, hint="count from 0")


def _yaml_problem(error: Exception) -> str:
    """Return the problem that PyYAML reports, in one line."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return getattr(error, "problem", None) or first_line(error)


def _models(kind: Any) -> dict[str, Any]:
    """Return the models that an annotation allows, by their tag in validation errors (`openai`), else by ``."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        tags = get_args(kind.model_fields["kind"].annotation) if "kind" in kind.model_fields else ()
        return {tags[0] if len(tags) == 1 else "": kind}
    if get_origin(kind) is Annotated:
        return _models(get_args(kind)[0])
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return {tag: model for option in get_args(kind) for tag, model in _models(option).items()}
    return {}


def _locate(location: Sequence[Any], kind: Any) -> tuple[list[str], Any]:
    """Return the dotted key of an error, without the tags of unions, and the annotation of that key."""
    key: list[str] = []
    for part in location:
        models = _models(kind)
        if part in models:
            kind = models[part]
            continue
        key.append(str(part))
        if not models:  # an item of a list, or a value of a mapping
            while get_origin(kind) is Annotated:
                kind = get_args(kind)[0]
            kind = next((kind for kind in reversed(get_args(kind)) if kind is not ...), None)
        else:
            [model, *_] = models.values()
            field = model.model_fields.get(part)
            kind = field.annotation if field else None
    return key, kind


def _explain(error: Any, prefix: str, kind: type[BaseModel], hint: str) -> ConfigError:
    location = error["loc"]
    key = ".".join(_locate(location, kind)[0]) or "recipe"
    if error["type"] == "extra_forbidden":
        [section] = _models(_locate(location[:-1], kind)[1]).values()
        known = list(section.model_fields)
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return ConfigError("unknown key", location=prefix + key, hint=hint)
    return ConfigError(error["msg"].removeprefix("Value error, "), location=prefix + key, hint=hint)


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, limit: int | None = None) -> Recipe:
    """Read the recipe of the three stages; see `load_config`."""
    return load_config(Recipe, path, overrides, limit=limit)


def load_config(
    kind: type[Config], path: str | Path, overrides: Sequence[str] = (), *, limit: int | None = None
) -> Config:
    """Read a recipe, apply `key=value` overrides, and validate it.

    Args:
        kind: the model that validates it.
        path: the YAML file.
        overrides: dotted keys and their values.
        limit: value for the key `limit`.

    Raises:
        ConfigError: missing or unreadable file, broken YAML, unknown key, or a value out of range; names the dotted key.
    """
    path = Path(path)
    raw = read_yaml(path, "recipe", "see configs/ for examples")
    for assignment in overrides:
        _override(raw, assignment)
    if limit is not None:
        raw["limit"] = limit
    return validate(kind, raw, f"{path}: ", "correct the recipe")


def read_yaml(path: Path, name: str, hint: str) -> dict[str, Any]:
    """Return the keys of a YAML file.

    Args:
        path: the file.
        name: what the file is, for errors.
        hint: what to do where it does not exist.

    Raises:
        ConfigError: missing or unreadable file, broken YAML, a key that occurs twice, or no mapping of keys.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # a SafeLoader
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"{name} not found", location=str(path), hint=hint) from None
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            location=str(path),
            hint="check the path and its permissions",
        ) from None
    except _YAML_ERRORS as error:
        mark = getattr(error, "problem_mark", None)
        location = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError("invalid YAML", location=location, hint=_yaml_problem(error)) from None
    if not isinstance(raw, dict):
        raise ConfigError("not a mapping of keys", location=str(path), hint="write key: value")
    return raw


def validate(kind: type[Config], raw: Mapping[str, Any], prefix: str, hint: str) -> Config:
    """Return keys and values as a model.

    Args:
        kind: the model.
        raw: keys and values.
        prefix: text before the dotted key in the location of an error, such as the file.
        hint: how to correct a value.

    Raises:
        ConfigError: an unknown key, or an invalid value.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        # A misspelt key may leave a required one missing: name the former.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise _explain(first, prefix, kind, hint) from None


Section = TypeVar("Section", bound=Strict)


def section(kind: type[Section], keys: Mapping[str, Any] | Strict, location: str) -> Section:
    """Validate a section of a recipe that is passed to the Python API.

    Raises:
        ConfigError: an unknown key, or an invalid value.
    """
    if isinstance(keys, kind):
        return keys
    raw = keys.model_dump() if isinstance(keys, Strict) else keys
    return validate(kind, raw, f"{location}." if location else "", f"keys: {', '.join(kind.model_fields)}")
