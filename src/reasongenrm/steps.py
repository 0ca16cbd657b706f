"""Steps of a stage: what determines each result, what a change would do again, and how a command names it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from reasongenrm.errors import ConfigError

Settings = Mapping[str, Any]
"""Dotted keys of a recipe with their values, and the hashes of input files, each under FILE and its path."""

FILE = "file "


@dataclass(frozen=True)
class Step:
    """A part of a stage; its name is dotted, such as `evaluate.toy.base`.

    Attributes:
        settings: what determines its result.
        outputs: the files and folders that it writes, as patterns inside the run folder.
        after: steps of the same stage whose results it reads.
        marker: of a step that is quick, a pattern of the file that it writes last; after a change, such a step is done
            again without `--redo`.
    """

    settings: Settings
    outputs: tuple[str, ...]
    after: tuple[str, ...] = ()
    marker: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the step as plain values."""
        row: dict[str, Any] = json.loads(json.dumps(vars(self)))
        return row


Steps = Mapping[str, Step]


def step_from_json(row: Mapping[str, Any]) -> Step:
    """Read back what `Step.to_json` returned.

    Raises:
        ValueError: it is not a step.
    """
    return msgspec.convert(row, Step)


def changed_keys(before: Settings, after: Settings) -> list[str]:
    """Return one text per key with another value; an absent key is null."""
    before, after = json.loads(json.dumps([before, after]))
    return [
        f"{key.removeprefix(FILE)} changed" if key.startswith(FILE)
        else f"{key} changed from {_shown(before.get(key))} to {_shown(after.get(key))}"
        for key in sorted(before.keys() | after.keys(), key=lambda key: (key.startswith(FILE), key))
        if before.get(key) != after.get(key)
    ]  # fmt: skip


def _shown(value: Any) -> str:
    """A setting as YAML and JSON write it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def with_later(names: Iterable[str], steps: Steps) -> set[str]:
    """Return the named steps, and those that read their results."""
    result = set(names)
    while more := {name for name, step in steps.items() if name not in result and result & set(step.after)}:
        result |= more
    return result


def _is_below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def named_steps(words: Iterable[str], steps: Steps) -> set[str]:
    """Return the steps whose names are, or begin with, one of the words of `--redo`.

    Raises:
        ConfigError: a word names no step.
    """
    result = set()
    for word in words:
        matches = {name for name in steps if _is_below(name, word)}
        if not matches:
            hint = f"this stage has the steps {', '.join(steps)}"
            raise ConfigError(f"there is no step {word!r}", location="--redo", hint=hint)
        result |= matches
    return result


def shortest_words(names: Collection[str], again: Collection[str], steps: Steps) -> list[str]:
    """Return the shortest words of `--redo` that name the given steps, and besides `again` only quick ones."""
    allowed = {*again, *names, *(name for name, step in steps.items() if step.marker)}

    def words(name: str) -> Iterator[str]:
        parts = name.split(".")
        yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))

    def shortest(name: str) -> str:
        return next(word for word in words(name) if named_steps([word], steps) <= allowed)

    # A step that another one leads to need not be named.
    roots = [name for name in names if not any(name in with_later([n], steps) for n in names if n != name)]
    return list(dict.fromkeys(map(shortest, roots)))


def redo_hint(names: Collection[str], again: Collection[str], steps: Steps) -> str:
    """Return the options that do the given steps again."""
    return " ".join(f"--redo {word}" for word in shortest_words(names, again, steps))
