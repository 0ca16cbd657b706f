"""The three scripts as a user runs them: from the repository's root, in processes of their own, on toy data.

Runs are called `test-<pid>-…` and removed at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import DEFAULT_GRAMMAR
from reasongenrm.chat.prompts import PromptFile, hindsight_prompt
from reasongenrm.demo.world import toy_pairs
from reasongenrm.records import Letter
from support.scripts import BAD_LINES, Bench, stage_server


def lessons(encoder: ChatEncoder, prompts: PromptFile) -> Iterator[list[int]]:
    """Token ids of hindsight prompts, each with a short reason and its verdict."""
    for number, pair in enumerate(toy_pairs("train", 200, seed=1)):
        winner: Letter = "A" if number % 2 else "B"
        said = f"{pair.chosen} , right . {pair.rejected} , wrong . so {winner} is better ."
        asked = encoder.encode(hindsight_prompt(pair, "AB" if number % 2 else "BA", prompts), generation=True)
        yield asked + encoder.completion(said, DEFAULT_GRAMMAR.text(winner))


@pytest.fixture(scope="session")
def taught_model(tiny_model: Path, toy_prompts: PromptFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after 100 steps on toy reasons (seconds): it judges at random, but it ends its turns."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    rows = lessons(ChatEncoder(tokenizer, tokenizer.chat_template), toy_prompts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        ids = torch.tensor([[token for row in islice(rows, 8) for token in row]])  # eight chats end to end
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("taught-model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `reasongenrm toy build` writes, with some bad lines in `train.jsonl` and `rewardbench.jsonl`."""
    folder = tmp_path_factory.mktemp("toy")
    done = stage_server().run(["toy", "build", "--out", str(folder), "--pairs", "6", "--rows", "5"])
    assert (done.code, done.stderr, done.stdout.count("\n")) == (0, "", 1), "the console is clean"
    train = folder / "train.jsonl"
    good = train.read_text(encoding="utf-8").splitlines()
    assert len(good) == 24
    leaking = json.dumps(json.loads(good[5]) | {"source": "magpie_ultra"})
    mixed = [*good[:3], BAD_LINES[0], *good[3:], good[0], leaking, *BAD_LINES[1:]]
    train.write_text("\n".join(mixed) + "\n", encoding="utf-8")
    with (folder / "rewardbench.jsonl").open("a", encoding="utf-8") as out:
        out.write('{"subset": "toy-chat", "prompt": "no answers"}\n')
    return folder


@pytest.fixture(scope="session")
def toy_overrides(taught_model: Path, toy_data: Path) -> list[str]:
    """The demo's recipe, made small: blocks of 8 requests, a checkpoint every three steps."""
    return [
        f"model.path={taught_model}",
        f"data.sources=[{{path: {toy_data / 'train.jsonl'}}}]",
        "engine.max_num_seqs=2",
        "teachers.student.samples=2",
        "teachers.student.max_tokens=48",
        "teachers.blind.samples=2",
        "teachers.blind.max_tokens=48",
        f"records.general.0.path={toy_data / 'general.jsonl'}",
        "judges={reasongenrm: {template: reason, general: true}, genrm: {template: direct}}",
        "select.threshold=0.0",
        "select.min_kept=0",
        "select.giveaway_words=0",
        "select.batch_tokens=64",
        "train.tokens=3600",
        "train.batch=4",
        "train.args.per_device_train_batch_size=2",
        "train.args.learning_rate=0.002",
        "train.args.warmup_steps=2",
        "train.args.save_steps=3",
        "train.args.logging_steps=4",
        f"scalar.model={toy_data / 'distilbert'}",
        "scalar.args.max_steps=10",
        f"evaluate.benchmarks.toy.path={toy_data / 'rewardbench.jsonl'}",
        "evaluate.max_tokens=16",
    ]


@pytest.fixture(scope="session")
def bench() -> Iterator[Callable[[str, Sequence[str]], Bench]]:
    """`f(label, overrides)`: a bench whose runs are removed at the end of the session."""
    made: list[Bench] = []

    def make(label: str, overrides: Sequence[str]) -> Bench:
        made.append(Bench(list(overrides), label))
        return made[-1]

    yield make
    for one in made:
        one.clean()
