"""Delimiters of a wording: what separates judged text from the rest, and is broken up inside it.

Normalisers of tokenizers replace compatible characters by plain ones (NFKC: `［End］` becomes `[End]`), compose letters, and remove or
blank out invisible characters. So patterns are matched on the decomposed text (NFKD), and `delimiter_pattern` allows
invisible characters anywhere in a delimiter.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from reasongenrm.errors import ConfigError, first_line
from reasongenrm.rows.turns import replace_surrogates

SANDBOX = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=False, autoescape=False
)

INVISIBLE = (
    r"\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffd\U000e0000-\U000e0fff"
)
"""Control and format characters (Cc, Cf), and those that Unicode calls default ignorable (DerivedCoreProperties.txt); the
inside of a character class."""

BLANK = rf"\s{INVISIBLE}\u2581\ufffd"
"""What becomes a blank: SentencePiece writes its own as U+2581, and its nmt_nfkc rules blank out U+FFFD."""

_BLANKS = re.compile(f"[{BLANK}]")


@lru_cache(maxsize=65536)
def decomposed(character: str) -> str:
    """Return a character's compatibility decomposition; a lone surrogate is a question mark, as for the tokenizer."""
    return "?" if "\ud800" <= character <= "\udfff" else unicodedata.normalize("NFKD", character)


def folded(text: str) -> str:
    """Return what a text and its normalised form have in common: decomposed, without blanks and invisible characters."""
    return _BLANKS.sub("", "".join(map(decomposed, text)))


def break_matches(text: str, pattern: re.Pattern[str], mark: str) -> str:
    """Return a text with a mark behind the first character of every match.

    Args:
        text: any text.
        pattern: matches one character and looks ahead at the rest, so that overlapping matches are all found.
        mark: what is inserted.
    """
    if text.isascii():
        return pattern.sub(lambda match: match[0] + mark, text)
    # Most texts have no match, and decomposing a whole text is much faster than doing it by character.
    if not (pattern.search(text) or pattern.search(unicodedata.normalize("NFKD", replace_surrogates(text)))):
        return text
    parts = [decomposed(character) for character in text]
    starts = {match.start() for match in pattern.finditer("".join(parts))}
    pieces: list[str] = []
    place = 0
    for character, part in zip(text, parts, strict=True):
        broken = [place + offset in starts for offset in range(len(part))]
        if any(broken[:-1]):  # one character that stands for several, such as `⑴`
            pieces += (one + mark * is_start for one, is_start in zip(part, broken, strict=True))
        else:
            pieces.append(character + mark * any(broken))
        place += len(part)
    return "".join(pieces)


@lru_cache(maxsize=64)
def delimiter_pattern(delimiters: tuple[str, ...]) -> re.Pattern[str]:
    """Return the pattern of delimiters for `break_matches`.

    A blank in a delimiter stands for any blanks, also several, since normalisers replace and join them; a line break
    only for itself, so that a heading is not found within a line.
    """
    # Linear in the length of a text: no two repeated classes follow each other.
    alternatives = []
    for delimiter in delimiters:
        text = "".join(map(decomposed, delimiter))
        pattern, after_blank = f"{re.escape(text[0])}(?=", False
        for character in text[1:]:
            if character.isspace() and len(f"x{character}x".splitlines()) == 1:
                pattern += "" if after_blank else f"[{BLANK}]+"
                after_blank = True
            else:
                pattern += ("" if after_blank else f"[{INVISIBLE}]*") + re.escape(character)
                after_blank = False
        alternatives.append(pattern + ")")
    return re.compile("|".join(alternatives) or "(?!)")


def neutralise(text: str, delimiters: Sequence[str]) -> str:
    """Break up every delimiter inside judged text by a backslash after its first character.

    What a tokenizer's normaliser would make a delimiter of is one, too. The rest of a delimiter is
    matched by a lookahead, so that `###` in `####` is broken up at both places.
    """
    return break_matches(text, delimiter_pattern(tuple(delimiters)), "\\")


def check_delimiters(delimiters: Sequence[str], render: Callable[[str], str], location: str) -> None:
    """Check that no judged text forms a delimiter together with the template's own characters next to it.

    Args:
        delimiters: of the wording.
        render: the wording with this text, already neutralised, in the place of every judged text.
        location: of the template, for the error.

    Raises:
        ConfigError: a part of a delimiter, as a judged text, would complete it.
    """

    def count(delimiter: str, text: str) -> int:
        return len(re.findall(f"(?={re.escape(delimiter)})", render(neutralise(text, delimiters))))

    for delimiter in delimiters:
        expected = count(delimiter, "x")
        for part in [p for at in range(1, len(delimiter)) for p in (delimiter[:at], delimiter[at:])]:
            if count(delimiter, part) != expected:
                problem = f"the judged text {part!r} would complete the delimiter {delimiter!r}"
                hint = "put every delimiter on a separate line, and let it begin and end in brackets"
                raise ConfigError(problem, location=location, hint=hint)


def template_delimiters(template: jinja2.Template, sample: dict[str, Any], location: str) -> tuple[str, ...]:
    """Return the variable `delimiters` that a template sets.

    Args:
        template: the template.
        sample: values of its other variables.
        location: of the template, for the error.

    Raises:
        ConfigError: there are none, or they are not strings of two characters or more without a backslash.
    """
    value = getattr(template.make_module(sample), "delimiters", None)
    listed = value if isinstance(value, list | tuple) else ()
    if not listed or not all(isinstance(t, str) and len(t) > 1 and "\\" not in t for t in listed):
        hint = 'write {% set delimiters = ["[Message]", "[Reply]", "[End]"] %} at the top'
        problem = "delimiters are not strings of two characters or more without a backslash"
        raise ConfigError(problem, location=location, hint=hint)
    return tuple(listed)


@contextmanager
def open_template(path: str | Path, *, example: str, key: str) -> Iterator[jinja2.Template]:
    """Yield the template of a file, and explain its errors, also those of rendering it inside the `with` block.

    Args:
        path: the file.
        example: a file to compare with, for the hint.
        key: what names the file, for the hint.

    Raises:
        ConfigError: the file is missing, or is not a template.
    """
    try:
        yield SANDBOX.from_string(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"the prompt file cannot be read: {error.strerror}"
        raise ConfigError(problem, location=str(path), hint=f"check {key}") from None
    except (jinja2.TemplateError, UnicodeDecodeError) as error:
        problem = f"invalid template: {first_line(error)}"
        raise ConfigError(problem, location=str(path), hint=f"compare with {example}") from None
