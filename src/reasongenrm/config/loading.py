"""Load YAML settings, apply overrides, and name the key of every error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from reasongenrm.config.engines import Strict
from reasongenrm.config.recipe import Recipe
from reasongenrm.errors import ConfigError, first_invalid, first_line
from reasongenrm.redaction import MASK, is_secret_name, keep_secret, keep_secrets_of

Config = TypeVar("Config", bound=Strict)

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""Characters that no path and no UTF-8 can hold."""

RECIPE = "recipe"
"""What most files of settings are, as errors name them."""

DEEPEST, MOST_VALUES = 40, 100_000
"""Limits of a recipe: levels of nesting, and values."""

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
    if is_secret_name(key.rpartition(".")[2]):
        keep_secret(text.strip("'\" "))
    if not sign or not key:
        raise ConfigError(
            f"{assignment!r} is not an override", location="command line", hint="write key=value"
        )
    try:
        value = yaml.load(text, Loader=_UniqueKeys)  # a SafeLoader
    except _YAML_ERRORS as error:
        shown = MASK if is_secret_name(key.rpartition(".")[2]) else repr(text)
        raise ConfigError(f"{shown} is not a YAML value", location=key, hint=_yaml_problem(error)) from None
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


def _dotted_key(location: Sequence[Any], raw: Any) -> list[str]:
    """Return the parts of an error's key: its location without the kinds that pydantic adds for unions (`openai`)."""
    key: list[str] = []
    for part in location:
        if isinstance(raw, Mapping):
            if part == raw.get("kind", "vllm") and part not in raw:  # an engine without a kind is vLLM
                continue
            raw = raw.get(part)
        else:
            inside = isinstance(raw, Sequence) and isinstance(part, int) and part < len(raw)
            raw = raw[part] if inside else None  # a missing item is beyond its list
        key.append(_one_line(part))
    return [part for part in key if part != "[key]"]


def _one_line(key: Any) -> str:
    """Return a key as a part of a dotted one, which is shown on one line."""
    return str(key) if str(key).isprintable() else repr(key)


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, limit: int | None = None) -> Recipe:
    """Read the recipe of the three stages; see `load_config`."""
    return load_config(Recipe, path, overrides, limit=limit)


def load_config(
    kind: type[Config],
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    limit: int | None = None,
    name: str = RECIPE,
    hint: str = "see configs/ for examples",
) -> Config:
    """Read a recipe, apply `key=value` overrides, and validate it.

    Args:
        kind: the model that validates it.
        path: the YAML file.
        overrides: dotted keys and their values.
        limit: value for the key `limit`.
        name: what the file is, for errors.
        hint: what to do where there is no such file.

    Raises:
        ConfigError: missing or unreadable file, broken YAML, unknown key, or a value out of range; names the dotted key.
    """
    path = Path(path)
    raw = read_yaml(path, name, hint)
    if limit is not None:
        overrides = [*overrides, f"limit={limit}"]
    return overridden(kind, raw, overrides, f"{path}: ", f"correct the {name}", name)


def overridden(
    kind: type[Config],
    raw: dict[str, Any],
    overrides: Sequence[str],
    prefix: str,
    hint: str,
    name: str = RECIPE,
) -> Config:
    """Apply `key=value` overrides to keys and values, and return them as a model; see `validate`."""
    for assignment in overrides:
        _override(raw, assignment)
    return validate(kind, raw, prefix, hint, name)


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
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"{name} not found", location=str(path), hint=hint) from None
    except OSError as error:
        problem, hint = f"cannot be read: {error.strerror}", "check the path and its permissions"
        raise ConfigError(problem, location=str(path), hint=hint) from None
    except UnicodeDecodeError as error:
        raise ConfigError("invalid YAML", location=str(path), hint=first_line(error)) from None
    raw = parse_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise ConfigError("not a mapping of keys", location=str(path), hint="write key: value")
    return raw


def parse_yaml(text: str, location: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: the text.
        location: file or field that it comes from, for errors.

    Raises:
        ConfigError: broken YAML, or a key that occurs twice.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeys)  # a SafeLoader
    except _YAML_ERRORS as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{location}:{mark.line + 1}" if mark else location
        raise ConfigError("invalid YAML", location=place, hint=_yaml_problem(error)) from None


def validate(
    kind: type[Config], raw: Mapping[str, Any], prefix: str, hint: str, name: str = RECIPE
) -> Config:
    """Return keys and values as a model.

    Args:
        kind: the model.
        raw: keys and values.
        prefix: text before the dotted key in the location of an error, such as the file.
        hint: how to correct a value.
        name: what holds them, for errors.

    Raises:
        ConfigError: an unknown key, or an invalid value.
    """
    _check_values(raw, prefix, f"correct the {name}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        place, problem, hint = first_invalid(error.errors(), hint)
        location = prefix + (".".join(_dotted_key(place, raw)) or name)
        raise ConfigError(problem, location=location, hint=hint) from None


def _check_values(raw: Mapping[str, Any], prefix: str, correct: str) -> None:
    """Check that every value can be saved as YAML and JSON, and that every text can be part of a path; register the keys
    and passwords inside URLs, which are hidden from here on.

    Raises:
        ConfigError: names the dotted key.
    """
    waiting: list[tuple[str, Any, int]] = [("", raw, 0)]
    count = 0
    while waiting:
        key, value, depth = waiting.pop()
        count += 1
        problem, hint = "", correct
        if depth > DEEPEST or count > MOST_VALUES:
            problem, hint = (
                "nested too deeply, or too large",
                "write fewer values, and no anchor inside itself",
            )
        elif isinstance(value, Mapping):
            others = [name for name in value if not _is_key(name, key)]
            if others:
                problem, hint = f"the key {others[0]!r} is not a text", "put quotes around it"
            names = [(f"{key}.{_one_line(name)}".removeprefix("."), item) for name, item in value.items()]
            waiting += [(name, item, depth + 1) for name, item in names]
        elif isinstance(value, list | tuple):
            waiting += [(f"{key}.{number}", item, depth + 1) for number, item in enumerate(value)]
        elif isinstance(value, str):
            keep_secrets_of(value)
            if _NO_TEXT.search(value):
                problem = "the text holds a NUL or half of a surrogate pair"
        elif isinstance(value, float) and not isfinite(value):
            problem = "not a finite number"
        elif isinstance(value, date | bytes | set):
            problem, hint = f"YAML reads this value as {type(value).__name__}", "put quotes around it"
        if problem:
            raise ConfigError(problem, location=f"{prefix}{key}" if key else prefix.rstrip(": "), hint=hint)


def _is_key(name: Any, parent: str) -> bool:
    """Whether a name is that of a key: a text, or a whole number for the levels of a criterion."""
    if type(name) is int and parent.rpartition(".")[2] == "levels":
        return True
    return isinstance(name, str) and not _NO_TEXT.search(name)


def section(kind: type[Config], keys: Mapping[str, Any] | Strict, location: str) -> Config:
    """Validate a section of a recipe that is passed to the Python API.

    Raises:
        ConfigError: an unknown key, or an invalid value.
    """
    if isinstance(keys, kind):
        return keys
    raw = keys.model_dump() if isinstance(keys, Strict) else keys
    hint = f"see {kind.__module__}.{kind.__name__}"
    return validate(kind, raw, f"{location}." if location else "", hint)
