"""Record and check the hashes of every file that `make demo` leaves.

    python tests/golden/demo_hashes.py record runs/demo runs/scalar-demo [--out FILE]
    python tests/golden/demo_hashes.py check  runs/demo runs/scalar-demo [--out FILE]

A file is named by its run folder's name and its path inside, so the folders may lie anywhere. This script imports
nothing of the project: it goes on working while modules move.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("demo.json")

SKIPPED = {
    "*/.lock": "an empty lock file",
    "*/seconds.json": "wall time",
    "*/metrics.jsonl": "tokens/s and memory; loss.json beside it has the rest",
    "*/tracking/*": "files of a tracker, with clocks in them",
    "*.log": "log of a training process: times, process ids, paths",
    "*/servers/*": "logs of servers",
    "*.partial/*": "work of a training that was interrupted: checkpoints, optimizer state",
    "*/checkpoints/*": "optimizer and random states with clocks in them",
    "*/training_args.bin": "a pickle of the trainer's arguments, with absolute paths",
}
"""Pattern of files that are not hashed -> the reason. `*` also matches `/`."""

DROPPED_KEYS = {
    "*/manifest/*.json": (
        ("versions", "git", "python", "machine"),
        "the state of the checkout and of the machine",
    ),
}
"""Pattern of JSON files -> top-level keys that are left out, and the reason."""

SORTED_KEYS = {
    "*/adapter_config.json": (
        ("target_modules", "modules_to_save"),
        "peft writes a set: the order differs from process to process",
    ),
}
"""Pattern of JSON files -> top-level keys with a list whose order does not count, and the reason."""

DROPPED_LINES = {
    "*/report.md": (r"\| seconds \||\| speed of ", "wall time"),
    "*/report.html": (
        r'<tr><th scope="row">(seconds<|speed of |(git|Python|packages|machine)</th>)',
        "wall time; the state of the checkout and of the machine",
    ),
    "*/judges/*/README.md": (
        r"\| seconds \||- Packages: |- Code: git ",
        "wall time; the state of the checkout and of the machine",
    ),
}
"""Pattern of text files -> regular expression of the beginning of lines that are left out, and the reason."""


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _reduced_json(name: str, path: Path) -> bytes:
    """Return a JSON document without dropped keys, and with sorted lists."""
    value = json.loads(path.read_bytes())
    for pattern, (keys, _) in DROPPED_KEYS.items():
        if fnmatch(name, pattern):
            value = {key: part for key, part in value.items() if key not in keys}
    for pattern, (keys, _) in SORTED_KEYS.items():
        if fnmatch(name, pattern):
            value |= {key: sorted(value[key]) for key in keys if isinstance(value.get(key), list)}
    return _json_bytes(value)


def _reduced_lines(name: str, path: Path) -> bytes:
    """Return a text without dropped lines."""
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    for pattern, (expression, _) in DROPPED_LINES.items():
        if fnmatch(name, pattern):
            lines = [line for line in lines if not re.match(expression, line)]
    return "\n".join(lines).encode("utf-8")


def _tensors(path: Path) -> bytes:
    """Return names, types, shapes and contents of a safetensors file, without its metadata."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    parts = []
    for name, entry in sorted(header.items()):
        begin, end = entry["data_offsets"]
        digest = hashlib.sha256(data[start + begin : start + end]).hexdigest()
        parts.append([name, entry["dtype"], entry["shape"], digest])
    return _json_bytes(parts)


def _notebook_outputs(path: Path) -> bytes:
    """Return what the code cells of a notebook print and show: their source holds imports, which may move."""
    cells = json.loads(path.read_bytes())["cells"]
    return _json_bytes([cell["outputs"] for cell in cells if cell["cell_type"] == "code"])


def content(name: str, path: Path) -> bytes:
    """Return the part of a file that two identical runs share."""
    if any(fnmatch(name, pattern) for pattern in (*DROPPED_KEYS, *SORTED_KEYS)):
        return _reduced_json(name, path)
    if any(fnmatch(name, pattern) for pattern in DROPPED_LINES):
        return _reduced_lines(name, path)
    if path.suffix == ".safetensors":
        return _tensors(path)
    if path.suffix == ".ipynb":
        return _notebook_outputs(path)
    return path.read_bytes()


def _files(roots: list[Path]) -> Iterator[tuple[str, Path]]:
    for root in roots:
        if not root.is_dir():
            sys.exit(f"{root}: directory not found")
        for path in sorted(root.rglob("*")):
            if path.is_file():
                yield f"{root.resolve().name}/{path.relative_to(root).as_posix()}", path


def hashes(roots: list[Path]) -> dict[str, str]:
    """Return the SHA-256 of every file that counts, by name."""
    return {
        name: hashlib.sha256(content(name, path)).hexdigest()
        for name, path in _files(roots)
        if not any(fnmatch(name, pattern) for pattern in SKIPPED)
    }


def differences(recorded: dict[str, str], actual: dict[str, str]) -> list[str]:
    """Return a line per file that is changed, missing or new."""
    lines = []
    for name in sorted(recorded.keys() | actual.keys()):
        if name not in actual:
            lines.append(f"missing  {name}")
        elif name not in recorded:
            lines.append(f"new      {name}")
        elif recorded[name] != actual[name]:
            lines.append(f"changed  {name}")
    return lines


def main() -> int:
    """Record or check; return 1 if a file differs."""
    parser = argparse.ArgumentParser(description="Hashes of the files of `make demo`.")
    parser.add_argument("action", choices=("record", "check"))
    parser.add_argument("roots", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--out", type=Path, default=RECORD, metavar="FILE", help=f"default: {RECORD.name}")
    options = parser.parse_args()
    actual = hashes(options.roots)
    if options.action == "record":
        options.out.write_text(json.dumps(actual, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{options.out}: {len(actual)} files")
        return 0
    recorded = json.loads(options.out.read_text(encoding="utf-8"))
    names = {root.resolve().name for root in options.roots}
    recorded = {name: value for name, value in recorded.items() if name.partition("/")[0] in names}
    lines = differences(recorded, actual)
    for line in lines:
        print(line)
    print(f"{len(actual)} files, {len(lines)} differ")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
