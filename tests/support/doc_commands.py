"""Check a command of the documentation as far as its program can without doing the work: its options, its recipe, its files."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from reasongenrm.cli import command_parser, parsed_options
from reasongenrm.config.distil import DistilRecipe
from reasongenrm.config.draft import RubricDraft
from reasongenrm.config.loading import load_config, section
from reasongenrm.config.merge import MergeConfig
from reasongenrm.config.models import models_recipe
from reasongenrm.config.scalar import AnswersConfig, BestOfNConfig, ScalarRecipe
from reasongenrm.errors import ReasonGenRMError
from reasongenrm.judge.criteria import load_rubric
from reasongenrm.stages.distil import load_distil_recipe
from reasongenrm.verbs.judge import DEFAULT_DRAFT
from reasongenrm.verbs.options import named_recipe
from reasongenrm.verbs.stages import WITHOUT_RECIPE
from support.doc_blocks import ROOT

EXTERNAL = {
    "curl": "asks a server; those of docs/usage.md and of the HTTP API are run by tests/docs",
    "export": "sets the environment of a shell",
    "ray": "starts a cluster; tests/e2e/test_e2e_workers.py starts one of two nodes",
    "sbatch": "needs a Slurm cluster",
    "kubectl": "needs a Kubernetes cluster",
    "vllm": "needs a GPU; tests/scalar/test_vllm_pooling.py runs its server on the CPU build",
    "gym": "starts NeMo-Gym's servers; tests/trainers runs its agent and our resources server",
    "swift": "needs a GPU; tests/trainers calls the function as ms-swift does",
    "vf-eval": "needs a model; tests/trainers scores its traces",
    "pip": "installs a package",
    "git": "fetches the repository",
    "cp": "copies a file of the reader's",
    "cd": "changes the folder",
    "source": "activates the environment",
    ".": "activates the environment",
    "head": "shows a file",
    "tail": "shows a file",
    "echo": "writes a row that the page shows",
    "ls": "shows a folder",
    "cat": "writes a file that the page shows",
    "tensorboard": "shows curves; the files are tested in tests/train",
}
"""Programs that no test can run from here, each with the reason."""

EXTERNAL_MODULES = {
    "verl": "needs GPUs; tests/trainers calls the function as verl does",
    "openrlhf": "needs GPUs; tests/trainers asks as it asks",
    "vllm": "tests/scalar/test_vllm_pooling.py runs it",
    "http": "serves a folder",
}
"""Python modules that are started by `python -m` and do not belong to this project."""

PLACEHOLDERS = {
    "RECIPE": "configs/demo.yaml",
    "configs/mine.yaml": "configs/demo.yaml",
    "my-judge.yaml": "configs/distil/judge.yaml",
}
"""Files that a reader writes -> a shipped file of the same kind."""

SCRIPTS = {
    "./1_prepare.sh": ["prepare"],
    "./2_train.sh": ["train"],
    "./3_eval_reward_bench.sh": ["evaluate"],
}
"""Script -> the verb that it calls."""

READERS_OWN = ("data/private/",)
"""Folders of files that a reader has."""

CONFIGS: dict[tuple[str, str], Any] = {
    ("answers", "generate"): AnswersConfig,
    ("distil", "best"): BestOfNConfig,
    **{("distil", step): DistilRecipe for step in ("judge", "train", "evaluate", "run")},
    **{("scalar", step): ScalarRecipe for step in ("train", "evaluate", "notebook")},
}
"""Verb and step -> the model of their YAML file."""


def commands(code: str) -> Iterator[list[str]]:
    """Yield the words of every command of a shell block; comments, redirections and texts of `<<EOF` are left out."""
    code = re.sub(r"<<-?\s*'?(\w+)'?(.*)\n(?:.*\n)*?\1\n", r"\2\n", code).replace("\\\n", " ")
    for line in code.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
        lexer.whitespace_split = True
        words: list[str] = []
        waiting = iter(list(lexer))
        for word in waiting:
            if re.fullmatch(r"[<>]+", word):
                next(waiting, None)
            elif re.fullmatch(r"[;|&]+", word):
                yield from [words] * bool(words)
                words = []
            else:
                words.append(word)
        yield from [words] * bool(words)


def problem_of(words: Sequence[str]) -> str:
    """Return why a command cannot work; empty where nothing is wrong with it."""
    rest = [_shipped(word) for word in words if word != "…"]
    while rest and re.match(r"[A-Z_]+=", rest[0]):
        rest.pop(0)
    if not rest or rest[0] in EXTERNAL:
        return ""
    program, *arguments = rest
    if missing := [path for word in arguments if (path := _missing_file(word))]:
        return f"no such file: {missing[0]}"
    if program == "reasongenrm":
        return verb_problem(arguments)
    if program in SCRIPTS:
        return verb_problem([*SCRIPTS[program], *arguments])
    if program == "examples/tutor/run.sh":
        given = bool(arguments) and arguments[0].endswith(".yaml")
        return verb_problem(
            ["distil", "run", *["configs/distil/reward_model.yaml"] * (not given), *arguments]
        )
    if program == "make":
        known = make_targets()
        return next((f"no target {word}" for word in arguments if "=" not in word and word not in known), "")
    if program == "python":
        return _python_problem(arguments)
    return f"unknown program {program}: check it in tests/support/doc_commands.py, or name it in EXTERNAL"


def _shipped(word: str) -> str:
    """Return a word with a shipped file in place of a reader's, also after `key=`."""
    key, sign, value = word.rpartition("=")
    return f"{key}{sign}{PLACEHOLDERS.get(value, value)}"


def _missing_file(word: str) -> str:
    path = re.sub(r"^[\w.]+=", "", word)
    shipped = re.fullmatch(r"(configs|data|examples|bench|notebooks)/[\w./-]+", path)
    own = path.startswith(READERS_OWN)
    return "" if not shipped or own or (ROOT / path).exists() else path


def _python_problem(arguments: Sequence[str]) -> str:
    if arguments[:1] == ["-m"]:
        module = arguments[1]
        folder = ROOT / "src" / module.replace(".", "/")
        known = folder.with_suffix(".py").is_file() or (folder / "__main__.py").is_file()
        return "" if known or module.partition(".")[0] in EXTERNAL_MODULES else f"no module {module}"
    script = ROOT / arguments[0]
    known = script.is_file() or (script / "__main__.py").is_file()
    return "" if known else f"no script {arguments[0]}"


def make_targets() -> set[str]:
    """Return the targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def verb_problem(arguments: Sequence[str]) -> str:
    """Return why `reasongenrm` would refuse a command line or its recipe."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
            options = parsed_options(list(arguments))
            _load(options)
    except SystemExit as ended:
        return errors.getvalue().strip().rpartition("\n")[2] if ended.code else ""
    except ReasonGenRMError as error:
        return str(error)
    return ""


def _load(options: Any) -> None:
    """Load the settings that a verb reads, with the overrides of its command line."""
    if hasattr(options, "config"):
        kind = CONFIGS[options.verb, options.step]
        load = load_distil_recipe if kind is DistilRecipe else partial(load_config, kind)
        load(options.config, options.overrides)
    elif options.verb == "rubric":
        path, *overrides = options.overrides or [DEFAULT_DRAFT]
        load_config(RubricDraft, path, overrides)
    elif options.verb == "merge":
        section(MergeConfig, {"method": options.method}, "merge")
    elif options.verb == "evaluate" and any(getattr(options, name) for name in WITHOUT_RECIPE):
        keys = ("model", "adapter", "server", "api_key_env", "scalar")
        models_recipe(
            **{key: getattr(options, key) for key in keys},
            benchmarks=options.benchmark or "rewardbench",
            overrides=options.recipe,
        )
    elif hasattr(options, "recipe") and _needs_recipe(options):
        if getattr(options, "rubric", None) and (ROOT / options.rubric).exists():
            load_rubric(options.rubric)
        _check_judge(named_recipe(options), getattr(options, "judge", None))


def _needs_recipe(options: Any) -> bool:
    served = options.verb == "serve" and options.scalar is not None
    return not served and (options.verb != "app" or bool(options.recipe))


def _check_judge(recipe: Any, name: str | None) -> None:
    if name is not None and name not in (*recipe.trained, "base", "base-direct"):
        raise ReasonGenRMError(f"the recipe {recipe.name} has no judge {name}")


def inline_problem(code: str) -> str:
    """Return why a command in the text is not one of ours: an unknown verb, target or option."""
    try:
        words = shlex.split(code)
    except ValueError:  # an apostrophe
        words = code.split()
    if words[0] == "make":
        target = words[1] if len(words) > 1 and re.fullmatch("[a-z-]+", words[1]) else "help"
        return "" if target in make_targets() else f"no target {target}"
    if words[0] in SCRIPTS:
        words = ["reasongenrm", *SCRIPTS[words[0]], *words[1:]]
    if words[0] != "reasongenrm":
        return ""
    parser, rest = command_parser(), words[1:]
    while choices := _verbs(parser):
        if not rest:
            return ""
        if rest[0] not in choices:
            return f"no verb {rest[0]}"
        parser = choices[rest.pop(0)]
    known = parser._option_string_actions
    options = [word.partition("=")[0].rstrip(",") for word in rest if word.startswith("--")]
    return next((f"no option {option}" for option in options if option not in known), "")


def _verbs(parser: Any) -> dict[str, Any]:
    return next((action.choices for action in parser._actions if hasattr(action, "add_parser")), {})
