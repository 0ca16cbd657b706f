"""Encoders of the judge templates over the toy tokenizer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.verdict import VerdictTokens


@pytest.fixture(scope="session")
def encoder(toy_tokenizer: Any) -> ChatEncoder:
    return ChatEncoder(toy_tokenizer, Path("configs/prompts/reason.jinja").read_text())


@pytest.fixture(scope="session")
def direct(toy_tokenizer: Any) -> ChatEncoder:
    return ChatEncoder(toy_tokenizer, Path("configs/prompts/direct.jinja").read_text())


@pytest.fixture(scope="session")
def think(toy_tokenizer: Any) -> ChatEncoder:
    """Over the toy tokenizer with tokens for the think tags, as models that think have them: added, but not special."""
    tokenizer = copy.deepcopy(toy_tokenizer)
    assert tokenizer.add_tokens(["<think>", "</think>"]) == 2
    return ChatEncoder(tokenizer, Path("configs/prompts/think.jinja").read_text())


@pytest.fixture(scope="session")
def tokens(encoder: ChatEncoder) -> VerdictTokens:
    return VerdictTokens.from_encoder(encoder)


@pytest.fixture(params=["encoder", "direct", "think"])
def judge_encoder(request: pytest.FixtureRequest) -> ChatEncoder:
    """The encoder of each kind of template."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, ChatEncoder)
    return found
