"""Keys are found by the name of their setting, by their place in a URL, and by their value; other text stays as it is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from reasongenrm import redaction
from reasongenrm.errors import ConfigError
from reasongenrm.redaction import (
    hide_in_message,
    hide_in_setting,
    hide_known,
    is_secret_name,
    keep_secret,
    keep_secrets_of,
    overwrite_known,
)

pytestmark = pytest.mark.unit

KEY = "kEy-5f1c77e0a9b2"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())


@pytest.mark.parametrize(
    "name",
    ["hub_token", "hf_token", "token", "use_auth_token", "push_to_hub_token", "api_key", "API-KEY", "apikey", "OPENAI_API_KEY",
     "password", "s3_secret_access_key", "s3_access_key_id", "authorization", "secret", "wandb_api_key", "private_key"],
)  # fmt: skip
def test_names_of_keys(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["eos_token", "pad_token", "api_key_env", "max_tokens", "tokens", "verdict_tokens", "key", "batch_tokens", "tokenizer",
     "hub_private_repo", "logprob_token_ids", "prompts", "secretary", "monkey"],
)  # fmt: skip
def test_names_of_other_settings(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"https://ann:{KEY}@host:8/v1", "https://***@host:8/v1"),
        (f"https://{KEY}@host/v1", "https://***@host/v1"),
        (f"http://h/v1?x=1&api-key={KEY}&y=2#end", "http://h/v1?x=1&api-key=***&y=2#end"),
        (f"http://h/v1?key={KEY}", "http://h/v1?key=***"),
        (f"--num_processes 2 --api-key {KEY} --x", "--num_processes 2 --api-key *** --x"),
        (f"--api_key={KEY}", "--api_key=***"),
        ("http://host/a@b", "http://host/a@b"),
        ("mail ann@host", "mail ann@host"),
        ("configs/a.yaml", "configs/a.yaml"),
    ],
)
def test_keys_in_a_setting(text: str, hidden: str) -> None:
    assert hide_in_setting(text) == hide_in_message(text) == hidden


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"prepare r.yaml train.args.hub_token={KEY} limit=2", "prepare r.yaml train.args.hub_token=*** limit=2"),
        (f'{{"hub_token": "{KEY}", "seed": 1}}', '{"hub_token": "***", "seed": 1}'),
        (f"Authorization: Bearer {KEY}", "Authorization: Bearer ***"),
        ("Invalid key: hf_AbCdEfGhIjKlMnOpQr", "Invalid key: ***"),
        ("Incorrect API key provided: sk-proj-AbCd-EfGhIjKlMnOp.", "Incorrect API key provided: ***."),
        ("is not set (export OPENAI_API_KEY=…)", "is not set (export OPENAI_API_KEY=…)"),
        ("evaluate.max_tokens=96 eos_token=</s>", "evaluate.max_tokens=96 eos_token=</s>"),
        ("the last token: 5", "the last token: 5"),
    ],
)  # fmt: skip
def test_keys_in_a_message(text: str, hidden: str) -> None:
    assert hide_in_message(text) == hidden


def test_a_known_key_is_hidden_everywhere_and_a_short_one_is_not() -> None:
    text = f"{KEY}, a {KEY}b and ok"
    assert hide_known(text) == text
    keep_secret(KEY)
    keep_secret("ok")
    assert hide_known(text) == "***, a ***b and ok"


def test_keys_of_urls_are_known_by_value() -> None:
    keep_secrets_of(f"https://ann:{KEY}@host/v1?api-key=other-{KEY}")
    assert hide_known(f"refused: {KEY}; other-{KEY}") == "refused: ***; ***"


def test_errors_hide_keys() -> None:
    keep_secret(KEY)
    error = ConfigError(f"bad {KEY}", location=f"http://a:{KEY}@h", hint="train.args.hub_token=short")
    assert str(error) == "http://***@h: bad *** (train.args.hub_token=***)"
    assert error.problem == "bad ***"


def test_a_log_is_overwritten_in_place(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text(f"a {KEY}\n")
    with log.open("a") as child:  # another process goes on appending
        overwrite_known(log)
        assert log.read_text() == f"a {KEY}\n", "nothing is known yet"
        keep_secret(KEY)
        child.write(f"{KEY}{KEY} end\n")
        child.flush()
        overwrite_known(log)
        child.write("more\n")
    assert log.read_text() == f"a {'*' * len(KEY)}\n{'*' * 2 * len(KEY)} end\nmore\n"
    overwrite_known(tmp_path / "none.log")


@pytest.mark.parametrize(
    "text", ["x", "x-", "a_", "token_", "sk-", "secret-", "?a-", "a://", "1a", "a:", " "]
)
def test_a_long_message_is_searched_quickly(text: str) -> None:
    began = time.monotonic()
    hide_in_message(text * (300_000 // len(text)))
    assert time.monotonic() - began < 10
