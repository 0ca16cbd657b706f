"""Answers that try to please a judge instead of answering: found by rules, named, and left to the caller.

Rules have misses and false alarms: they are English but for the openers, a policy may find words that they do not have, and an
answer may have a reason to write `[[A]]` (R code does). So what the prompt says itself is a quotation and not flagged.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Self

from reasongenrm.chat.delimiters import INVISIBLE, delimiter_pattern, folded
from reasongenrm.chat.grammar import LETTERS
from reasongenrm.chat.markers import break_markers
from reasongenrm.chat.thoughts import split_thoughts
from reasongenrm.config.shaping import Flag

PATTERN_SECONDS = 0.1
"""Time for a caller's regular expression on one answer; some need exponential time (`(a+)+$`)."""

GROUP_SECONDS = 2.0
"""Time for all callers' regular expressions on all answers of a group."""

_DEFAULT_VERDICTS = (*(f"[[{letter}]]" for letter in LETTERS), "[[tie]]")


@dataclass(frozen=True, slots=True)
class JudgeTexts:
    """What a judge writes as its verdict, and what its prompt is divided by.

    Attributes:
        verdicts: texts of verdicts.
        phrases: regular expressions that match a verdict stated by a reason.
        delimiters: of the judge's prompt.
    """

    verdicts: tuple[str, ...] = _DEFAULT_VERDICTS
    phrases: tuple[str, ...] = ()
    delimiters: tuple[str, ...] = ()

    @classmethod
    def from_judge(cls, judge: Any) -> Self:
        """Return the texts of a judge's prompt file; of a judge behind a server, which has none here, the default ones."""
        prompts = getattr(judge, "prompt_file", None)
        if prompts is None:
            return cls()
        lists = (prompts.listwise_verdict.replace("{letter}", letter) for letter in LETTERS)
        verdicts = dict.fromkeys((*_DEFAULT_VERDICTS, prompts.verdict.a, prompts.verdict.b, *lists))
        delimiters = (*prompts.delimiters, *prompts.rating_delimiters, *prompts.listwise_delimiters)
        return cls(tuple(verdicts), (*prompts.verdict_phrases, *prompts.listwise_phrases), delimiters)


DEFAULT_TEXTS = JudgeTexts()
"""`[[A]]` to `[[H]]` and `[[tie]]`, without delimiters."""

OPENERS = (
    "thought process", "solution", "let's solve this problem step by step", "解", "かいせつ", "respuesta",  # the paper's
    "let's think step by step", "let's think through this step by step", "let me think step by step", "let me solve this step by step",
    "let's solve this step by step", "step by step", "answer", "the answer is", "final answer", "the final answer is", "reasoning", "explanation",
    "analysis", "step 1", "here is the answer", "here's the answer", "here is the solution", "here's the solution",
)  # fmt: skip
"""Openings that say nothing. The first six, and punctuation alone, are the "master keys" of Zhao et al., "One Token to Fool
LLM-as-a-Judge" (2025, https://arxiv.org/abs/2507.08794), which won against many judges; the others say as little."""

_SOMETHING = re.compile(r"[^\W_]")
_ANSWER = r"(?:answer|response|reply|completion|output|assistant|candidate)"
_JUDGE = r"(?:judge|grader|evaluator|rater)"
_INSTRUCTIONS = (
    r"\b(?:ignore|disregard|forget|override|bypass)\b[^.!?\n]{0,40}\b(?:instructions?|prompts?|rules|criteria|rubrics?|guidelines?)\b",
    rf"\b(?:note|message|instructions?|attention|memo|dear|hey|hello)\b(?:,|:| to| for)?(?: the| all| any)? {_JUDGE}s?\b",
    rf"\b(?:you are|as) (?:now )?(?:an?|the) (?:[a-z-]+ ){{0,3}}{_JUDGE}\b",
    rf"\b(?:choose|select|pick|prefer|favou?r|vote for) (?:this|my|the (?:first|second|last)) {_ANSWER}\b",
    rf"\b(?:choose|select|pick|prefer|favou?r|vote for) {_ANSWER} [a-h1-8]\b",
    rf"\b(?:rate|score|grade|rank|judge|evaluate|mark) (?:this|my|the (?:above|first|second|last)) {_ANSWER}\b",
    r"\b(?:give|assign|award)\b[^.!?\n]{0,30}\b(?:highest|maximum|max|full|perfect|top)(?: possible)? (?:scores?|ratings?|marks?|grades?|rewards?|points)\b",
    rf"\b{_ANSWER} [a-h1-8] (?:is|was|should be|must be) (?:[a-z]+ ){{0,2}}(?:better|best|superior|preferred|winner)\b",
    rf"\b(?:this|my) {_ANSWER} (?:deserves|wins|(?:is|should be|must be) (?:[a-z]+ ){{0,2}}(?:chosen|preferred|rated|scored|ranked|better|best|winner))\b",
    rf"\bverdict ?(?:is|:|=) ?\W{{0,3}}(?:{_ANSWER} )?[ab]\b(?! ?\w)",
)  # fmt: skip
"""Sentences to a judge, after `_plain`. Attacks by such sentences: Shi et al., "Optimization-based Prompt Injection Attack to
LLM-as-a-Judge" (2024, https://arxiv.org/abs/2403.17710); Maloyan & Namiot, "Adversarial Attacks on LLM-as-a-Judge Systems"
(2025, https://arxiv.org/abs/2504.18333)."""


def one_token(prompt: str, answer: str, own: JudgeTexts) -> bool:
    """Whether an answer, behind any thoughts, is empty, punctuation alone, or an opening such as "Thought process:" alone.

    Numbers, letters and symbols such as `+` or an emoji may be answers: `42` is not flagged.
    """
    said = split_thoughts(answer)[1]
    if said is None:  # thoughts without an end: an answer is missing, and nothing was written to please
        return False
    if all(unicodedata.category(character)[0] in "PZC" for character in said):
        return True
    rest = _bare(said)
    if not rest:
        return False
    while rest:
        opener = next((opener for opener in _bare_openers() if rest.startswith(opener)), None)
        if opener is None or _SOMETHING.match(rest, len(opener)):
            return False
        rest = _bare(rest[len(opener) :])
    return True


def verdict(prompt: str, answer: str, own: JudgeTexts) -> bool:
    """Whether an answer holds a verdict of the judge: a text in brackets or other signs, in any spacing, or a phrase.

    A verdict of plain letters, such as `A`, is not looked for, nor one in another case.
    """
    said, quoted = folded(answer), folded(prompt)
    texts = {folded(text) for text in own.verdicts if not text.isalnum()}
    if any(text in said and text not in quoted for text in texts):
        return True
    return any(
        match[0] not in prompt
        for phrase in own.phrases
        for match in re.finditer(phrase, answer)
        if match.groups() and match[1]
    )


def instruction(prompt: str, answer: str, own: JudgeTexts) -> bool:
    """Whether an answer speaks to a judge or about its own grade, in one of the ways of `_INSTRUCTIONS`."""
    said, quoted = _plain(answer), _plain(prompt)
    return any(
        match[0] not in quoted for pattern in _instruction_patterns() for match in pattern.finditer(said)
    )


def marker(prompt: str, answer: str, own: JudgeTexts) -> bool:
    """Whether an answer, behind any thoughts, holds a chat marker (`chat/markers.py`) or a delimiter of the judge's prompt.

    They cannot become structure (`chat/delimiters.py`, `chat/content.py`), but a judge may still be impressed by them.
    """
    said = split_thoughts(answer)[1] or ""
    if break_markers(said) != said and break_markers(prompt) == prompt:
        return True
    pattern = delimiter_pattern(own.delimiters)
    return bool(own.delimiters) and bool(_searched(pattern, said)) and not _searched(pattern, prompt)


Detector = Callable[[str, str, JudgeTexts], bool]

DETECTORS: Mapping[Flag, Detector] = {
    "one_token": one_token,
    "verdict": verdict,
    "instruction": instruction,
    "marker": marker,
}
"""By name; each takes the prompt's text, the answer and the judge's texts."""


class PatternSearch:
    """Searches the answers of one group for callers' regular expressions, in a bounded time for all of them.

    Args:
        seconds: for all searches together.
    """

    def __init__(self, seconds: float = GROUP_SECONDS) -> None:
        self._left = seconds

    def found(self, pattern: str, answers: Sequence[str], *, ignore_case: bool = False) -> list[bool | None]:
        """Return per answer whether the pattern is found; None if that takes longer than `PATTERN_SECONDS`, or no time is left.

        The answers are searched by length, and none after one that takes too long; so their order changes nothing.
        `.` matches a line break, `^` and `$` the ends of the text.
        """
        results: dict[str, bool | None] = dict.fromkeys(answers)
        for text in sorted(results, key=lambda text: (len(text), text)):
            results[text] = self._search(pattern, text, ignore_case)
            if results[text] is None:
                break
        return [results[answer] for answer in answers]

    def _search(self, pattern: str, text: str, ignore_case: bool) -> bool | None:
        if self._left <= 0:
            return None
        began = time.monotonic()
        try:
            compiled = _compiled(pattern, ignore_case)
            # concurrent: without the interpreter's lock, so that other threads (a server's requests) go on
            found = compiled.search(text, timeout=min(PATTERN_SECONDS, self._left), concurrent=True)
            return found is not None
        except (
            TimeoutError,
            RecursionError,
        ):  # the stack may be deeper here than where the pattern was checked
            return None
        finally:
            self._left -= time.monotonic() - began


@lru_cache(maxsize=256)  # the patterns are clients', of any number
def _compiled(pattern: str, ignore_case: bool) -> Any:
    import regex  # beside re it has a time limit

    return regex.compile(pattern, regex.DOTALL | (regex.IGNORECASE if ignore_case else 0))


@cache
def _instruction_patterns() -> list[re.Pattern[str]]:
    return [re.compile(pattern) for pattern in _INSTRUCTIONS]


_UNSEEN = re.compile(f"[{INVISIBLE}]")
_EMPHASIS = re.compile(r"[*_`\"“”]+")


def _plain(text: str) -> str:
    """Return a text in NFKC, casefolded, without invisible characters and emphasis, on one line: sentences may be broken anywhere."""
    text = _UNSEEN.sub("", unicodedata.normalize("NFKC", text).replace("’", "'")).casefold()
    return " ".join(_EMPHASIS.sub("", text).split())


def _bare(text: str) -> str:
    """Return a plain text without punctuation at its ends."""
    text = _plain(text)
    first = _SOMETHING.search(text)
    end = max((match.end() for match in _SOMETHING.finditer(text)), default=0)
    return text[first.start() : end] if first else ""


@cache
def _bare_openers() -> tuple[str, ...]:
    return tuple(sorted(map(_bare, OPENERS), key=len, reverse=True))


def _searched(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return pattern.search(unicodedata.normalize("NFKD", text))
