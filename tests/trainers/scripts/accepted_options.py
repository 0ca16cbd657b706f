"""What a trainer's own command line does not accept of words that docs/reward.md has for it: a JSON list of problems for each command.

Nothing is started: configurations are composed, and arguments parsed.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

TASKSET = """import verifiers.v1 as vf

class MyTaskset(vf.Taskset[vf.Task, vf.TasksetConfig]):
    def load(self):
        return []

__all__ = ["MyTaskset"]
"""
"""A module of verifiers in the place of the reader's own."""


def verl(words: Sequence[str]) -> list[str]:
    """Compose verl's configuration with overrides, or find dotted keys in it."""
    import verl as package
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    problems = []
    with initialize_config_dir(str(Path(package.__path__[0]) / "trainer" / "config"), version_base=None):
        for word in words:
            try:
                if "=" in word:
                    compose("ppo_trainer", overrides=[word])
                    continue
                parent, _, key = word.rpartition(".")
                if key not in OmegaConf.select(compose("ppo_trainer"), parent):
                    problems.append(word)
            except Exception as error:
                problems.append(f"{word}: {error}")
    return problems


def openrlhf(words: Sequence[str]) -> list[str]:
    """Look for the options in the source of its program, which imports vLLM and flash-attn."""
    spec = importlib.util.find_spec("openrlhf")
    assert spec and spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0], "cli/train_ppo_ray.py").read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    options = {
        argument.value
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
        for argument in call.args
        if isinstance(argument, ast.Constant)
    }
    return [word for word in words if word not in options]


def swift(words: Sequence[str]) -> list[str]:
    """Look for the options, with or without dashes, among the fields from which `swift rlhf` makes its command line."""
    from dataclasses import fields

    from swift.arguments import RLHFArguments

    names = {field.name for field in fields(RLHFArguments)}
    return [word for word in words if word.removeprefix("--") not in names]


def verifiers(words: Sequence[str]) -> list[str]:
    """Run vf-eval until its configuration is complete."""
    from verifiers.v1.cli.eval.main import main

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "my_taskset.py").write_text(TASKSET, encoding="utf-8")
        sys.path[:0] = [folder, str(Path(__file__).resolve().parents[3] / "examples" / "trainers")]
        output = StringIO()
        try:
            with redirect_stdout(output), redirect_stderr(output):
                main([*words, "--dry-run", "--output-dir", folder])
        except SystemExit as end:
            return [f"{end.code}: {output.getvalue()[-2000:]}"] if end.code else []
    return []


def nemo_gym(words: Sequence[str]) -> list[str]:
    """Parse what follows `gym`."""
    from nemo_gym.cli.main import build_parser

    output = StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(output):
            _, rest = build_parser().parse_known_args(list(words))
    except SystemExit:
        return [output.getvalue()[-2000:]]
    return rest


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    checks = {
        "verl": verl,
        "openrlhf": openrlhf,
        "swift": swift,
        "verifiers": verifiers,
        "nemo_gym": nemo_gym,
    }
    print(json.dumps([checks[asked["trainer"]](words) for words in asked["commands"]]))
