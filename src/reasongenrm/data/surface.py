"""The surface of an answer: what can be seen without understanding it (lengths, marks, openings, chat markers)."""

from __future__ import annotations

import re

LONGEST = 4000
"""Characters of an answer that are looked at; longer ones are measured by their first and last halves of it. Lengths
in characters are those of the whole answer."""

MEASURES = (
    *(
        "characters",
        "white space",
        "lines",
        "leading white space",
        "trailing white space",
        "ends with a line end",
    ),
    *("ends in a letter or digit", "ends with . ! or ?", "headings", "bullets", "numbered items", "bold"),
    *("code fences", "tables", "share of digits", "share of capitals", "share of bytes not ASCII", "emoji"),
    *("question marks", "exclamation marks", "opens with a refusal", "speaks as an AI"),
)
"""The names of what `measures` returns, in its order."""

# A marker looks like a tag or an instruction mark: <|im_start|>, <im_start>, </s>, [INST], [[A]], <<SYS>>.
_MARKER = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<<?/?[A-Za-z_][\w.-]{0,30}>>?|\[/?[A-Z_]{2,20}\]|\[\[[^\[\]\s]{1,20}\]\]"
)
_ROLES = ("\nHuman:", "\nAssistant:", "\nUser:", "\nSystem:", "### Instruction", "### Response")
_EMOJI = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff]")
_REFUSAL = re.compile(
    r"\W*(?:i['’]?m (?:so |very |really )?sorry|sorry|i apologi[sz]e|i (?:can(?:['’]t|not| not)|won['’]t|will not)|"
    r"i['’]?m (?:not able|unable)|i am (?:not able|unable|sorry)|as an ai|unfortunately,? i)\b"
)
_AS_AI = ("as an ai", "as a language model", "as a large language model")
_NUMBERED = ("\n1.", "\n2.", "\n3.", "\n4.")
# Each byte of UTF-8 as its kind: white space, digit, capital, other ASCII (- or itself), not ASCII.
_KINDS = bytes(
    ord(" ") if chr(byte).isspace() and byte < 128
    else ord("0") if ord("0") <= byte <= ord("9")
    else ord("A") if ord("A") <= byte <= ord("Z")
    else ord("x") if byte >= 128
    else byte if chr(byte) in "?!"
    else ord("-")
    for byte in range(256)
)  # fmt: skip
_MOST_NAMES = 64


def measures(text: str) -> tuple[float, ...]:
    """Return the MEASURES of an answer: counts, shares in [0, 1], and yes (1) or no (0)."""
    seen = shortened(text)
    kinds = seen.encode("utf-8", "replace").translate(_KINDS)
    size = len(kinds) or 1
    # Of each line its beginning: to look for the marks there is a tenth of the work of looking in the text.
    heads = "\n".join(["", *[line.lstrip()[:3] for line in seen.split("\n")]])
    last = seen[-1:]
    end = seen[-40:].rstrip()[-1:]
    opening = seen[:200].lower()
    return (
        len(text),
        kinds.count(b" "),
        heads.count("\n") - 1,
        seen[:1].isspace(),
        last.isspace(),
        last == "\n",
        end.isalnum(),
        end in (".", "!", "?"),
        heads.count("\n#"),
        heads.count("\n- ") + heads.count("\n* ") + heads.count("\n• "),
        sum([heads.count(mark) for mark in _NUMBERED]),
        seen.count("**"),
        seen.count("```"),
        heads.count("\n|"),
        kinds.count(b"0") / size,
        kinds.count(b"A") / size,
        kinds.count(b"x") / size,
        0 if seen.isascii() else len(_EMOJI.findall(seen)),
        kinds.count(b"?"),
        kinds.count(b"!"),
        _REFUSAL.match(opening) is not None,
        "as a" in opening and any(phrase in opening for phrase in _AS_AI),
    )


def marks(text: str) -> set[str]:
    """Return the names of what an answer holds or not: its chat markers and tags, its first and last words."""
    seen = shortened(text)
    found: set[str] = set()
    if "<" in seen or "[" in seen:
        found = {f"marker {mark}" for mark in sorted(set(_MARKER.findall(seen)))[:_MOST_NAMES]}
    found.update(f"marker {role.strip()}" for role in _ROLES if role in seen)
    first = seen[:80].lower().split(None, 2)[:2]
    if first:
        found.add(f"first word {first[0]}")
        found.add(f"first words {' '.join(first)}")
        found.add(f"last words {' '.join(seen[-40:].lower().split()[-2:])}")
    return found


def shortened(text: str) -> str:
    """Return the first and the last half of LONGEST characters, or the whole text if it has no more."""
    if len(text) <= LONGEST:
        return text
    return text[: LONGEST // 2] + text[-LONGEST // 2 :]
