"""Terms added to a judge's reward, each a pure function with values in [-1, 0], and the flags of `rewards/flags.py`.

A reward is `judge + Σ weight · term`, and minus `flag_penalty` for a flagged answer. Terms "against the group" compare an answer with the
others to the same prompt, so that a long or formatted answer costs nothing where the prompt asks for one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from reasongenrm.config.shaping import ShapingSettings
from reasongenrm.data.ngrams import words
from reasongenrm.errors import ConfigError
from reasongenrm.rewards.flags import DEFAULT_TEXTS, DETECTORS, JudgeTexts, PatternSearch

Style = tuple[int, int, int]
"""Number of headers, list items and bold texts of an answer."""

_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_STYLE = (
    re.compile(r"^#{1,6}[ \t]", re.MULTILINE),
    re.compile(r"^[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]", re.MULTILINE),
    re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
)


@dataclass(frozen=True, slots=True)
class ShapedGroup:
    """The rewards of a group, and what they are made of.

    Attributes:
        rewards: one per answer; None for one without a readable judgement, unless `flag_value` replaces it.
        terms: per answer: `judge`, and each term's share of the reward, weight included; they add up to the reward, but for rounding.
        flags: per answer, the names of its flags: detectors, `phrase`, and `slow_pattern` where a caller's expression took too long.
    """

    rewards: tuple[float | None, ...]
    terms: tuple[dict[str, float], ...]
    flags: tuple[tuple[str, ...], ...]


def shape_group(
    prompt: str,
    answers: Sequence[str],
    rewards: Sequence[float | None],
    settings: ShapingSettings,
    *,
    lengths: Sequence[int] | None = None,
    own: JudgeTexts = DEFAULT_TEXTS,
) -> ShapedGroup:
    """Add the terms to the judge's rewards of a group.

    Args:
        prompt: text of all its turns.
        answers: of the group, not empty.
        rewards: the judge's, one per answer.
        settings: weights; of all terms 0 and without flags, the rewards are returned as they are.
        lengths: tokens of each answer, for `length_unit: tokens`.
        own: the judge's verdicts and delimiters.

    Raises:
        ConfigError: the settings need lengths in tokens, and there are none.
    """
    search = PatternSearch()
    columns = term_columns(answers, settings, lengths)
    searches = dict[str, list[bool | None]]()
    if settings.format_pattern:
        searches[""] = search.found(settings.format_pattern, answers)
        columns["format"] = [settings.format * value for value in format(searches[""])]
    searches |= {phrase: search.found(phrase, answers, ignore_case=True) for phrase in settings.phrases}
    flags = [
        _flags_of(prompt, answer, settings, own, {name: found[i] for name, found in searches.items()})
        for i, answer in enumerate(answers)
    ]
    terms, shaped = [], []
    for i, reward in enumerate(rewards):
        own_terms = {} if reward is None else {"judge": reward}
        own_terms |= {name: values[i] for name, values in columns.items()}
        flagged = any(flag != "slow_pattern" for flag in flags[i])
        if flagged and settings.flag_penalty is not None:
            own_terms["flag"] = -settings.flag_penalty
        value = None if reward is None else math.fsum(own_terms.values())
        if flagged and settings.flag_value is not None:
            own_terms["flag"] = settings.flag_value - math.fsum(own_terms.values())
            value = settings.flag_value
        terms.append(own_terms)
        shaped.append(value)
    return ShapedGroup(tuple(shaped), tuple(terms), tuple(map(tuple, flags)))


def shaping_metrics(
    terms: Sequence[Mapping[str, float]], flags: Sequence[Sequence[str]], settings: ShapingSettings | None
) -> dict[str, float]:
    """Return what a trainer logs of shaped samples: `reward_terms/<term>`, the mean share of the reward of those that have it, and
    `reward_flags/<flag>`, the share of samples with the flag; nothing without shaping.
    """
    if settings is None or not flags:
        return {}
    names = list(dict.fromkeys(name for one in terms for name in one))
    means = {
        f"reward_terms/{name}": fmean(one[name] for one in terms if name in one)
        for name in names
        if name != "flag"
    }
    wanted = [*settings.flags, *(["phrase"] if settings.phrases else [])]
    wanted += [flag for one in flags for flag in one]
    return means | {
        f"reward_flags/{flag}": sum(flag in one for one in flags) / len(flags)
        for flag in dict.fromkeys(wanted)
    }


def term_columns(
    answers: Sequence[str], settings: ShapingSettings, lengths: Sequence[int] | None = None
) -> dict[str, list[float]]:
    """Return weight · value of each term that has a weight, one per answer, but for `format`; see `shape_group`."""
    columns: dict[str, list[float]] = {}
    if settings.length or settings.overlong:
        sizes = _sizes(answers, settings, lengths)
        columns["length"] = length(sizes, settings.length_free)
        limit, cache = settings.overlong_limit or 1, settings.overlong_cache or 1
        columns["overlong"] = [overlong(size, limit, cache) for size in sizes]
    if settings.style:
        columns["style"] = style([style_counts(answer) for answer in answers])
    if settings.repetition:
        columns["repetition"] = [repetition(answer, settings.repetition_n) for answer in answers]
    weights = {name: float(getattr(settings, name)) for name in columns}
    return {
        name: [weights[name] * value for value in values] for name, values in columns.items() if weights[name]
    }


def length(lengths: Sequence[int], free: float = 0.0) -> list[float]:
    """Return -min(1, max(0, l / m - 1 - free)) for each length l, where m is the median of the group (at least 1).

    So an answer of twice the median costs all of the weight. Judges prefer length (Dubois et al., "Length-Controlled AlpacaEval", 2024,
    https://arxiv.org/abs/2404.04475); Kimi k1.5 (2025, https://arxiv.org/abs/2501.12599, section 2.3.3) compares lengths within the group,
    too, but with its shortest and longest answer, of which one alone changes all rewards; a median does not, and short answers earn nothing.
    """
    middle = max(1.0, median(lengths))
    return [-min(1.0, max(0.0, size / middle - 1 - free)) for size in lengths]


def overlong(size: int, limit: int, cache: int) -> float:
    """Return DAPO's soft overlong punishment (Yu et al., 2025, https://arxiv.org/abs/2503.14476, equation 13).

    It is 0 up to `limit - cache`, falls to -1 at `limit`, and stays there.
    """
    return -min(1.0, max(0.0, (size - (limit - cache)) / cache))


def style_counts(answer: str) -> Style:
    """Count headers, list items and bold texts in Markdown, outside of fenced code."""
    text = _CODE.sub("", answer)
    headers, items, bold = (len(pattern.findall(text)) for pattern in _STYLE)
    return headers, items, bold


def style(counts: Sequence[Style]) -> list[float]:
    """Return minus the mean over the three counts of max(0, (c - m) / (c + m + 1)), where m is the group's median of the count.

    The three features and the normalised difference are those of Chatbot Arena's style control (Li, Angelopoulos & Chiang, "Does Style
    Matter?", 2024, https://lmsys.org/blog/2024-08-28-style-control/); its fourth is the length, a term of its own here. The 1 lets a single
    header in a group without any cost half of what many do.
    """
    middles = [median(column) for column in zip(*counts, strict=True)]
    return [
        -fmean(max(0.0, (c - m) / (c + m + 1)) for c, m in zip(one, middles, strict=True)) for one in counts
    ]


def repetition(answer: str, n: int = 4) -> float:
    """Return minus the share of n-grams of words that occurred before in the answer; 0 for fewer than n words.

    It is `seq-rep-n` of Welleck et al., "Neural Text Generation with Unlikelihood Training" (2019, https://arxiv.org/abs/1908.04319):
    1 - different n-grams / n-grams. Words are those of `data/ngrams.py`; each character of Chinese or Japanese is one.
    """
    spelled = words(answer)
    count = len(spelled) - n + 1
    if count < 1:
        return 0.0
    different = len(set(zip(*(spelled[at : at + count] for at in range(n)), strict=True)))
    return -(1 - different / count)


def format(found: Sequence[bool | None]) -> list[float]:
    """Return 0 for an answer in which the pattern is found, else -1; also where the search took too long (None)."""
    return [0.0 if one else -1.0 for one in found]


def _flags_of(
    prompt: str, answer: str, settings: ShapingSettings, own: JudgeTexts, searches: Mapping[str, bool | None]
) -> list[str]:
    """Return the flags of one answer, in the order of the settings.

    Args:
        searches: per phrase and for `format_pattern`, under the key `""`, whether it was found; None: it took too long.
    """
    found: list[str] = [flag for flag in settings.flags if DETECTORS[flag](prompt, answer, own)]
    found += ["phrase"] * any(searches[phrase] for phrase in settings.phrases)
    found += ["slow_pattern"] * (None in searches.values())
    return found


def _sizes(answers: Sequence[str], settings: ShapingSettings, lengths: Sequence[int] | None) -> Sequence[int]:
    if settings.length_unit == "characters":
        return [len(answer) for answer in answers]
    if lengths is None:
        hint = "pass the tokens of each answer (Group.lengths), or set length_unit: characters"
        raise ConfigError(
            "the lengths of the answers in tokens are not known", location="shaping.length_unit", hint=hint
        )
    return lengths
