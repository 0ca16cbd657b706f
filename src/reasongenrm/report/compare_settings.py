"""What else differs between two runs: their recipes, files, packages and machines, as far as the manifests know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reasongenrm.report.run_files import Manifest

_LONGEST = 100
_FIRST = ("model", "prompts", "templates", "judges", "seed", "limit", "evaluate", "data", "select", "train")
_NONE = "none"


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that is not the same in two runs.

    Attributes:
        setting: a dotted key of the recipe, `file PATH`, a package, or another entry of the manifest.
        before, after: its values, shortened; `none` where there is none.
    """

    setting: str
    before: str
    after: str


def differences(before: Manifest, after: Manifest) -> list[Difference]:
    """Return what differs, the recipe first.

    A run's name is no difference, nor the folder of its own files; of a file that both name, the hashes are compared.
    """
    recipes = [{key: value for key, value in one.recipe.items() if key != "name"} for one in (before, after)]
    found = sorted(_unequal(*recipes), key=_importance)
    found += [(f"file {name}", *hashes) for name, *hashes in _unequal(*map(_files, (before, after))) if None not in hashes]  # fmt: skip
    found += [(f"package {name}", *versions) for name, *versions in _unequal(before.versions, after.versions)]
    ends = [{"git": one.git, "python": one.python, "machine": one.machine} for one in (before, after)]
    found += _unequal(*ends)
    return [Difference(name, _shown(old), _shown(new)) for name, old, new in found]


def _unequal(before: Any, after: Any, *, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted key and both values of every leaf that differs, in the order of the keys; None is absent."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            dotted = f"{key}.{name}" if key else str(name)
            yield from _unequal(before.get(name), after.get(name), key=dotted)
    elif before != after:
        yield key, before, after


def _importance(found: tuple[str, Any, Any]) -> tuple[int, str]:
    """Sort what decides most first, and the rest by name."""
    section = found[0].split(".")[0]
    return (_FIRST.index(section) if section in _FIRST else len(_FIRST)), found[0]


def _files(manifest: Manifest) -> dict[str, str]:
    """Return the hashes of the files that the stage read, those of the run's own folder without its name."""
    files = manifest.settings.get("files", {})
    own = f"runs/{manifest.recipe.get('name')}/"
    return {name.removeprefix(own): value for name, value in files.items()}


def _shown(value: Any) -> str:
    if value is None:
        return _NONE
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
