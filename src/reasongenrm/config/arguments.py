"""Arguments that pass through to a library: keys among them are shown and saved as `***`, and never change a fingerprint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, PlainSerializer, SecretStr

from reasongenrm.redaction import MASK, hide_in_setting, is_secret_name, keep_secret

HUB_TOKENS = ("hub_token", "hf_token", "token", "use_auth_token")
"""Keys with a token of the Hugging Face hub. The libraries log their arguments and save them beside checkpoints, so the
token reaches them in the environment, as `HF_TOKEN`."""


def _wrapped(value: Any, name: str = "") -> Any:
    """Return arguments whose keys are `SecretStr`, at any depth."""
    if isinstance(value, Mapping):
        return {key: _wrapped(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_wrapped(item, name) for item in value]
    if isinstance(value, str) and value and is_secret_name(name):
        keep_secret(value)
        return SecretStr(value)
    return value


def hidden_secrets(value: Any) -> Any:
    """Return a setting as it is shown and saved."""
    if isinstance(value, Mapping):
        return {key: hidden_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return list(map(hidden_secrets, value))
    if isinstance(value, SecretStr):
        return MASK
    return hide_in_setting(value) if isinstance(value, str) else value


Arguments = Annotated[
    dict[str, Any],
    AfterValidator(_wrapped),
    PlainSerializer(hidden_secrets, return_type=dict[str, Any], when_used="json"),
]
"""Arguments of a library by name."""


def library_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments for the library: with their keys, but without tokens of the hub, which are put into the
    environment of this process and its children. A key that was saved as `***` is left out."""
    for name in HUB_TOKENS:
        token = arguments.get(name)
        if isinstance(token, SecretStr) and token.get_secret_value() != MASK:
            os.environ["HF_TOKEN"] = token.get_secret_value()
    return {name: _revealed(value) for name, value in arguments.items() if not _is_left_out(name, value)}


def _is_left_out(name: str, value: Any) -> bool:
    return isinstance(value, SecretStr) and (name in HUB_TOKENS or value.get_secret_value() == MASK)


def _revealed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _revealed(item) for name, item in value.items() if not _is_left_out("", item)}
    if isinstance(value, list):
        return list(map(_revealed, value))
    return value.get_secret_value() if isinstance(value, SecretStr) else value
