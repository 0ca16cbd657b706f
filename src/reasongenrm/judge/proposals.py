"""Criteria that a model proposes from preference pairs: requests, reading the JSON answers, and near-equal texts as one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.proposal_prompt import ProposalPrompt
from reasongenrm.chat.thoughts import split_thoughts
from reasongenrm.config.draft import ProposalConfig
from reasongenrm.engines.base import Request, request_seed
from reasongenrm.records import Completion, PreferencePair, unit_hash
from reasongenrm.rows.turns import replace_surrogates

AnswerOutcome = Literal["ok", "refused", "unreadable", "truncated", "error"]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "criteria": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "text": {"type": "string"}},
                "required": ["name", "text"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["criteria"],
    "additionalProperties": False,
}
"""Of an answer, for servers that know schemas."""


class ProposedCriterion(BaseModel):
    """One proposed criterion; other keys are ignored."""

    model_config = ConfigDict(str_strip_whitespace=True, frozen=True)
    name: str = Field(min_length=1, max_length=60)
    text: str = Field(min_length=1, max_length=600)


@dataclass(frozen=True, slots=True)
class ProposalAnswer:
    """What one answer proposes.

    Attributes:
        outcome: `ok`, `refused`, `unreadable`, `truncated` or `error`.
        criteria: those that can be read.
        problems: why the answer, or one of its criteria, cannot be used.
    """

    outcome: AnswerOutcome
    criteria: tuple[ProposedCriterion, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A criterion that may be judged.

    Attributes:
        name: unique among the candidates.
        text: of the first proposal.
        proposed: number of proposals with this or a near-equal text.
    """

    name: str
    text: str
    proposed: int


def proposal_requests(
    pairs: Sequence[PreferencePair],
    prompt: ProposalPrompt,
    config: ProposalConfig,
    *,
    encoder: ChatEncoder | None,
    seed: int,
) -> Iterator[Request]:
    """Yield requests for criteria, `proposal-1`, `proposal-2`, …; each draws its own pairs by the seed.

    Args:
        pairs: those that the writer may see.
        prompt: the wording.
        config: numbers and sampling.
        encoder: tokenizer and chat template of a writer on vLLM; None for a server that takes messages.
        seed: of the draws and the sampling.
    """
    stop = (encoder.tokenizer.eos_token,) if encoder else ()
    for number in range(1, config.requests + 1):
        name = f"proposal-{number}"
        drawn = sorted(pairs, key=lambda pair: unit_hash("propose", seed, name, pair.id))[: config.rows]
        messages = prompt.messages(drawn, most=config.criteria, seed=seed)
        yield Request(
            name,
            tuple(encoder.encode(messages, generation=True)) if encoder else (),
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            seed=request_seed(seed, name),
            stop=stop,
            messages=messages,
            thoughts=True,
            schema=SCHEMA,
        )


def read_proposals(completion: Completion, *, end: str = "") -> ProposalAnswer:
    """Read one answer: the first JSON object behind the model's thoughts, with a list `criteria`.

    Args:
        completion: of the writer.
        end: text that ends the model's turn.
    """
    if completion.finish_reason == "error":
        outcome: AnswerOutcome = "refused" if completion.refused else "error"
        return ProposalAnswer(outcome, problems=(completion.error or "no message",))
    text = split_thoughts(completion.text.strip().removesuffix(end))[1] or ""
    start = text.find("{")
    try:
        raw = json.JSONDecoder().raw_decode(text, start)[0]["criteria"] if start >= 0 else None
        items = raw if isinstance(raw, list) else None
    except (ValueError, KeyError, RecursionError):
        items = None
    if items is None:
        if completion.finish_reason == "length":
            problem = f"the answer ends after {completion.tokens} tokens: raise proposals.max_tokens"
            return ProposalAnswer("truncated", problems=(problem,))
        return ProposalAnswer("unreadable", problems=("no JSON object with a list `criteria`",))
    criteria, problems = [], []
    for item in items:
        try:
            criteria.append(ProposedCriterion.model_validate(replace_surrogates(item)))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "criterion"
            problems.append(f"{place}: {first['msg']}")
    return ProposalAnswer("ok", tuple(criteria), tuple(problems))


def merged_candidates(proposals: Sequence[ProposedCriterion], *, same_text: float) -> list[Candidate]:
    """Return different criteria, those proposed most often first.

    Two texts (name and explanation) are near-equal where the cosine of their tf-idf vectors of character n-grams (2 to 4 inside
    words) is at least `same_text`; a text joins the first one that it is near-equal to.
    """
    if not proposals:
        return []
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [f"{one.name}: {one.text}" for one in proposals]
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit_transform(texts)
    cosines = (vectors @ vectors.T).toarray()  # rows have length 1
    firsts: list[int] = []
    counts: Counter[int] = Counter()
    for place, text in enumerate(texts):
        same = next((f for f in firsts if texts[f] == text or cosines[f, place] >= same_text), None)
        if same is None:
            firsts.append(place)
        counts[place if same is None else same] += 1
    names: Counter[str] = Counter()
    candidates = []
    for first in sorted(firsts, key=lambda first: -counts[first]):  # stable
        name = proposals[first].name
        names[name] += 1
        unique = name if names[name] == 1 else f"{name} ({names[name]})"
        candidates.append(Candidate(unique, proposals[first].text, counts[first]))
    return candidates
