"""The keys and options that docs/reward.md names for a trainer are those of its installed package: its own parser reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields

import pytest

from support.doc_blocks import ROOT, code_blocks
from support.doc_commands import commands
from trainers.adapters import needs_environment, run_script

PAGE = ROOT / "docs" / "reward.md"


def inline(heading: str) -> list[str]:
    """Return the inline code of a section."""
    [section] = re.findall(rf"^## {heading}$(.*?)^## ", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    text = re.sub(r"^```.*?^```$", "", section, flags=re.M | re.S)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def arguments(heading: str, program: str) -> Iterator[list[str]]:
    """Yield what follows a program in the commands of a section."""
    for block in code_blocks(PAGE):
        if (block.heading, block.language) != (heading, "bash"):
            continue
        for words in commands(block.code):
            if program in words:
                rest = [word for word in words[words.index(program) + 1 :] if word != "…"]
                yield [word.replace("\\$", "$") for word in rest]  # as bash reads it in double quotes


def options(heading: str, program: str, pattern: str) -> list[str]:
    """Return the options in a section's commands and inline code that a pattern matches."""
    words = [word for rest in arguments(heading, program) for word in rest]
    words += [code.split()[0] for code in inline(heading)]
    return sorted({word for word in words if re.fullmatch(pattern, word)})


def verl() -> Iterator[list[str]]:
    [words] = arguments("verl", "verl.trainer.main_ppo")
    keys = [code for code in inline("verl") if re.match(r"(reward|actor_rollout_ref)\.\w+", code)]
    assert len(words) == 3 and len(keys) >= 5
    yield [*words, *keys]


def openrlhf() -> Iterator[list[str]]:
    words = options("OpenRLHF", "openrlhf.cli.train_ppo_ray", r"--\w+\.\w+")
    assert words == ["--data.label_key", "--reward.remote_url", "--rollout.n_samples_per_prompt"]
    yield words


def swift() -> Iterator[list[str]]:
    words = options("ms-swift", "rlhf", r"--\w+|per_device_\w+|num_generations")
    assert {"--external_plugins", "--reward_funcs", "per_device_train_batch_size"} <= {*words}
    yield words


def verifiers() -> Iterator[list[str]]:
    [words] = arguments("verifiers and prime-rl", "vf-eval")
    assert "--no-push" in words
    yield words
    more = [code.split() for code in inline("verifiers and prime-rl") if code.startswith("--env.")]
    assert len(more) == 2
    yield from ([words[0], *one] for one in more)


def nemo_gym() -> Iterator[list[str]]:
    start, evaluate = arguments("NeMo-Gym", "gym")
    yield start
    yield evaluate


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize(
    "words_of",
    [pytest.param(one, id=one.__name__, marks=needs_environment(one.__name__))
     for one in (verl, openrlhf, swift, verifiers, nemo_gym)],
)  # fmt: skip
def test_a_trainer_accepts_the_words_of_the_page(words_of: Callable[[], Iterator[list[str]]]) -> None:
    right = list(words_of())
    wrong = [
        [word.replace("rew", "rwe").replace("env", "evn").replace("--", "--x") for word in words] for words in right
    ]  # fmt: skip
    problems = run_script(
        words_of.__name__, "accepted_options", {"trainer": words_of.__name__, "commands": right + wrong}
    )
    assert problems[: len(right)] == [[] for _ in right] and all(problems[len(right) :])


@pytest.mark.slow
@pytest.mark.e2e
def test_trl_has_the_keys_of_the_page() -> None:
    from trl import GRPOConfig

    known = {field.name for field in fields(GRPOConfig)}
    codes = {code.partition(":")[0] for heading in ("TRL", "Hard to hack") for code in inline(heading)}
    named = {
        code for code in codes if re.fullmatch(r"(per_device|steps|num|reward_w|ds3|ddp|logging)_\w+", code)
    }
    assert len(named) >= 5 and named <= known
