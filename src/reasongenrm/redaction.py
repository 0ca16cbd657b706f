"""Keys and passwords, and their removal from whatever is written: messages, logs, manifests and reports.

A key is known by the name of the setting that holds it, by its place in a URL, or because it was read from the environment
(`keep_secret`). Judged text is data and is not searched for patterns: a URL inside an answer stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

MASK = "***"
"""What is shown in place of a key."""

LEAST = 12
"""Characters of the shortest key that is looked for everywhere; a shorter one could be a word of a text."""

_NAME = r"""(?:[a-z0-9]+[_-])*?(?:
    (?:hub|hf|auth|access|api|bearer|refresh|session|id|secret|huggingface|wandb)[_-]?(?:token|key)
    |token|use_auth_token|passw(?:or)?d|passphrase|secret|credentials?|private[_-]?key|authorization
    |(?:secret[_-])?access[_-]?key(?:[_-]?id)?
)"""
_SECRET_NAME = re.compile(_NAME, re.VERBOSE | re.IGNORECASE)
_PLAIN_NAMES = re.compile(
    r"(?:eos|bos|pad|unk|sep|cls|mask|image|video|audio|stop|think)_token", re.IGNORECASE
)

# Lengths are bounded: a server's message may be one long word, which a search from each of its letters would take hours for.
_CREDENTIALS = re.compile(
    r"(?P<before>\b[a-z][a-z0-9+.-]{0,30}://)(?P<secret>[^\s/?#\"'<>\\]+)(?=@)", re.IGNORECASE
)
_QUERY = re.compile(
    rf"(?P<before>[?&;](?:{_NAME}|key|sig|signature)=)(?P<secret>[^\s&;#\"'<>\\]+)",
    re.VERBOSE | re.IGNORECASE,
)
_ARGUMENT = re.compile(
    rf"(?P<before>(?:(?<=\s)|^|(?<=['\"]))--{_NAME}[=\s]['\"]?)(?P<secret>[^\s\"'\\]+)",
    re.VERBOSE | re.IGNORECASE,
)
_ASSIGNMENT = re.compile(
    r"""(?P<before>(?<![A-Za-z_-])(?P<name>[A-Za-z][\w-]{0,80})["']?(?P<sign>\s?=\s?|:\s?)["']?)(?P<secret>(?!…)[^\s"',;)\]}\\]+)"""
)
"""A setting in a message: `hub_token=x`, `"hub_token": "x"`; the name decides."""
_BEARER = re.compile(r"(?P<before>\bBearer\s+)(?P<secret>[^\s\"',\\]+)", re.IGNORECASE)
_SHAPES = re.compile(r"(?P<before>)(?P<secret>\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}))")

_IN_SETTINGS = (_CREDENTIALS, _QUERY, _ARGUMENT)
_IN_MESSAGES = (*_IN_SETTINGS, _BEARER, _SHAPES, _ASSIGNMENT)

_known: set[str] = set()


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name holds a key: `hub_token`, `s3_secret_access_key`; not `eos_token` or `api_key_env`."""
    return bool(_SECRET_NAME.fullmatch(name)) and not _PLAIN_NAMES.fullmatch(name)


def keep_secret(value: str) -> None:
    """Remove a value from everything that this process writes from here on, unless it is shorter than LEAST."""
    if len(value) >= LEAST:
        _known.add(value)


def keep_secrets_of(text: str) -> None:
    """Do so with the keys inside the URLs and arguments of a setting."""
    for pattern in _IN_SETTINGS:
        for match in pattern.finditer(text):
            for value in (match["secret"], *match["secret"].split(":")):
                keep_secret(value)


def hide_known(text: str) -> str:
    """Return a text without the values of `keep_secret`."""
    for value in _longest_first():
        if value in text:
            text = text.replace(value, MASK)
    return text


def hide_in_setting(text: str) -> str:
    """Return a setting without known keys, and without those inside URLs and arguments."""
    return _masked(hide_known(text), _IN_SETTINGS)


def hide_in_message(text: str) -> str:
    """Return a message without known keys, and without whatever looks like one."""
    return _masked(hide_known(text), _IN_MESSAGES)


def overwrite_known(path: Path) -> None:
    """Overwrite known keys in a log, in place and with as many asterisks, since other processes may append to it.

    Args:
        path: a file that libraries or child processes write; a missing one is skipped.
    """
    if not _known or not path.is_file():
        return
    content = path.read_bytes()
    with path.open("rb+") as file:
        for value in (value.encode() for value in _longest_first()):
            start = content.find(value)
            while start >= 0:
                file.seek(start)
                file.write(b"*" * len(value))
                start = content.find(value, start + len(value))


def _longest_first() -> Iterator[str]:
    yield from sorted(_known, key=len, reverse=True)


def _masked(text: str, patterns: tuple[re.Pattern[str], ...]) -> str:
    for pattern in patterns:
        text = pattern.sub(_mask, text)
    return text


def _mask(match: re.Match[str]) -> str:
    parts = match.groupdict()
    name = parts.get("name", "")
    # "the token: 5" is a sentence.
    prose = "=" not in parts.get("sign", "=") and not re.search("[_-]", name)
    if name and (prose or not is_secret_name(name)):
        return match[0]
    return f"{match['before']}{MASK}"
