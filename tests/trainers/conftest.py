"""A judge behind a real server: scripted, so that its answers are a function of the request alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from golden.engine import ScriptedEngine
from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.base import Request
from reasongenrm.judge.api import Judge
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.records import Completion
from reasongenrm.service.server import create_app
from support.app import running
from trainers.adapters import Work
from trainers.groups import UNREADABLE, toy_groups


class PartlySilentEngine(ScriptedEngine):
    """The scripted engine, which fails where an answer is UNREADABLE."""

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        assert self.encoder is not None
        for request in requests:
            [done] = super().complete([request], adapter=adapter)
            silent = UNREADABLE in self.encoder.tokenizer.decode(list(request.prompt_ids))
            error = {"text": "", "finish_reason": "error", "token_ids": (), "logprobs": {}, "error": "silent"}
            yield replace(done, **error) if silent else done  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def scripted_judge(toy_tokenizer: Any, toy_prompts: PromptFile) -> Judge:
    """A judge with graded P(A); one of 16 verdicts is an error, others need a rescue, and nothing is said of UNREADABLE."""
    template = Path("configs/prompts/reason.jinja").read_text(encoding="utf-8")
    encoder = ChatEncoder(toy_tokenizer, template, toy_prompts.verdict)
    return Judge(PartlySilentEngine(encoder), encoder, toy_prompts, JudgingConfig(max_tokens=64))


@pytest.fixture(scope="session")
def tokenizer_folder(toy_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the toy world's tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    toy_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def work(scripted_judge: Judge, tokenizer_folder: str) -> Iterator[Work]:
    """64 groups, and the scripted judge in this process and over HTTP; without settings."""
    with SharedJudge(scripted_judge, seconds=120) as shared, running(create_app(shared)) as url:
        yield Work(shared, url, tokenizer_folder, toy_groups(64), {})
