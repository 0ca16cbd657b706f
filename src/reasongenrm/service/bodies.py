"""Bodies of HTTP requests to a judge, and their limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WrapValidator, model_validator

from reasongenrm.config.rewards import RewardSettings
from reasongenrm.config.rubric import Rubric
from reasongenrm.errors import ReasonGenRMError
from reasongenrm.judge.inputs import PlacedRow, PromptInput, input_errors, with_rubric
from reasongenrm.judge.tournament import Method
from reasongenrm.records import Message, with_criteria
from reasongenrm.rows.turns import read_prompt, replace_surrogates


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request; a larger one is answered with status 413, one that takes longer with 503.

    Attributes:
        body: bytes.
        rewards_body: bytes of a body of /get_reward and of /verify.
        rows_body: bytes of a body of /compare_many and /rate_many, whose rows have no other limit.
        text: characters of a prompt's turn or an answer.
        turns: messages of a prompt.
        answers: answers to one prompt: of /rank, /best_of_n and /reward, of a cohort, and without a label of /get_reward.
        queries: samples of /get_reward.
        criteria: criteria of a rubric, each of which is judged alone.
        seconds: from the end of a request to its answer, the time in the queue included.
        waiting: requests to the judge that have not begun; one more is answered with status 429 and Retry-After.
    """

    body: int = 8 * 2**20
    rewards_body: int = 32 * 2**20
    rows_body: int = 128 * 2**20
    text: int = 200_000
    turns: int = 512
    answers: int = 64
    queries: int = 8192
    criteria: int = 32
    seconds: float = 3600
    waiting: int = 1024


DEFAULT_LIMITS = Limits()

UNLIMITED = Limits(text=2**31, turns=2**31, answers=2, criteria=2**31)
"""For rows whose body alone is limited, as those of a file are."""

Text = Annotated[str, AfterValidator(replace_surrogates)]
"""JSON may contain lone surrogates, which UTF-8 cannot encode: they become question marks."""


class Turn(BaseModel):
    """One message of a prompt.

    Attributes:
        role: who says it.
        content: its text.
    """

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: Text


class _PromptBody(BaseModel):
    """A prompt.

    Attributes:
        prompt: one user turn; or give `messages`.
        messages: the turns up to and including the last user turn; or give `prompt`.
        criteria: a text, by which is judged as a whole.
        rubric: criteria with weights, each of which is judged alone.
    """

    model_config = ConfigDict(extra="forbid")
    prompt: Text | None = None
    messages: list[Turn] | None = None
    criteria: Text = ""
    rubric: Rubric | None = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self

    def checked_prompt(self, limits: Limits, *answers: str) -> list[Message]:
        """Return the prompt as messages; check the sizes of prompt, answers and rubric, and their number."""
        check_count("answers", len(answers), limits.answers)
        check_lengths("an answer", answers, limits)
        messages = [Message(role=turn.role, content=turn.content) for turn in self.messages or ()]
        check_count("messages", len(messages), limits.turns)
        check_lengths("prompt", [self.prompt or "", *(turn["content"] for turn in messages)], limits)
        self._check_criteria(limits)
        if self.prompt is not None:
            return with_criteria(_check_prompt(self.prompt, "prompt"), self.criteria)
        return with_criteria(_check_prompt(messages, "messages"), self.criteria)

    def _check_criteria(self, limits: Limits) -> None:
        criteria = self.rubric.criteria if self.rubric else ()
        check_count("criteria", len(criteria), limits.criteria)
        texts = [text for c in criteria for text in (c.name, c.text, *c.levels.values())]
        check_lengths("a criterion", [self.criteria, *texts], limits)


class CompareRequest(_PromptBody):
    """Two answers.

    Attributes:
        a, b: the answers.
        placed: whether a judge of one order shows `a` as A, in place of the order that its seed gives.
    """

    a: Text
    b: Text
    placed: bool = False

    def row(self, limits: Limits) -> Any:
        """Return the row for a judge; see `checked_prompt`."""
        row = with_rubric((self.checked_prompt(limits, self.a, self.b), self.a, self.b), self.rubric)
        return PlacedRow(row) if self.placed else row


class ScoreRequest(_PromptBody):
    """An answer and one to compare it with.

    Attributes:
        answer: the answer.
        reference: the other one.
    """

    answer: Text
    reference: Text


class RateRequest(_PromptBody):
    """An answer to rate.

    Attributes:
        answer: the answer.
    """

    answer: Text

    def row(self, limits: Limits) -> Any:
        """Return the row for a judge; see `checked_prompt`."""
        return with_rubric((self.checked_prompt(limits, self.answer), self.answer), self.rubric)


class CompareRows(BaseModel):
    """Many comparisons, which are judged together and apart from other requests.

    Attributes:
        rows: bodies of `/compare`.
    """

    model_config = ConfigDict(extra="forbid")
    rows: list[CompareRequest]

    def judge_rows(self) -> list[Any]:
        """Return the rows for a judge; an error names the row."""
        return _numbered(row.row for row in self.rows)


class RateRows(BaseModel):
    """Many ratings, which are judged together and apart from other requests.

    Attributes:
        rows: bodies of `/rate`.
    """

    model_config = ConfigDict(extra="forbid")
    rows: list[RateRequest]

    def judge_rows(self) -> list[Any]:
        """Return the rows for a judge; an error names the row."""
        return _numbered(row.row for row in self.rows)


class BestRequest(_PromptBody):
    """Several answers.

    Attributes:
        answers: one or more.
    """

    answers: list[Text] = Field(min_length=1)


class RankRequest(BestRequest):
    """Several answers, and the tournament.

    Attributes:
        method: `round_robin` compares each with each, `knockout` finds the best one in n - 1 comparisons.
    """

    method: Method = "round_robin"


class CohortPlace(BaseModel):
    """The cohort of a sample that comes alone.

    Attributes:
        size: number of its samples; null: as the server says.
        id: its name; null: samples of the same prompt, rubric and settings.
        sample: the sample's name in it, by which a sample that is sent again is recognised.
        timeout: seconds after which the samples that came are judged; null: as the server says.
    """

    model_config = ConfigDict(extra="forbid")
    size: int | None = Field(None, ge=2)
    id: str | None = Field(None, min_length=1, max_length=200)
    sample: str | None = Field(None, min_length=1, max_length=200)
    timeout: float | None = Field(None, gt=0, le=3600)


def _own_keys(raw: Any, check: Callable[[Any], RewardSettings]) -> RewardSettings:
    """Check the keys of a request, whose others are the server's: a `degree` alone is of the server's schedule."""
    if not isinstance(raw, Mapping) or "degree" not in raw or "schedule" in raw:
        return check(raw)
    settings = check({**raw, "schedule": "regular"})
    return RewardSettings.model_construct(**{key: getattr(settings, key) for key in raw})


class GroupRequest(_PromptBody):
    """The samples of one prompt; or one of them, and its cohort.

    Attributes:
        answers: the samples.
        references: one per sample, to compare it with; the schedule is then `reference`.
        settings: of the rewards; keys that are not set are the server's.
        cohort: of a sample that comes alone; null: where the server has a size of cohorts, as it says.
    """

    answers: list[Text] = Field(min_length=1)
    references: list[Text] | None = None
    settings: Annotated[RewardSettings, WrapValidator(_own_keys)] | None = None
    cohort: CohortPlace | None = None

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        if self.references is not None and len(self.references) != len(self.answers):
            raise ValueError("give as many references as answers")
        if self.cohort is not None and len(self.answers) != 1:
            raise ValueError("with a cohort, give one answer: its samples come one by one")
        return self


class RewardsReply(BaseModel):
    """Rewards of a group, or of one sample of a cohort.

    Attributes:
        rewards: per answer of the request; null where there is none, and then a problem says why.
        errors: standard errors of the rewards; null where there is none.
        comparisons: judgements that the whole group or cohort took.
        unread: its samples without a readable verdict.
        problems: in words.
        samples: number of samples that were judged together.
        terms: with shaping, per reward: what it is made of.
        flags: with shaping, per reward: the flags of the answer.
    """

    rewards: list[float | None]
    errors: list[float | None]
    comparisons: int
    unread: int
    problems: list[str]
    samples: int
    terms: list[dict[str, float]] = []
    flags: list[list[str]] = []


class OpenRLHFRequest(BaseModel):
    """OpenRLHF's body.

    Attributes:
        query: prompts followed by their responses.
        prompts: the prompts.
        labels: reference answers; empty ones count as none.
    """

    model_config = ConfigDict(extra="forbid")
    query: list[Text]  # with several servers, OpenRLHF sends empty lists to some
    prompts: list[Text]
    labels: list[Text | None] | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if any(len(texts) != len(self.query) for texts in (self.prompts, self.labels) if texts is not None):
            raise ValueError("query, prompts and labels must have the same length")
        return self

    def references(self) -> list[str | None]:
        """Return a reference per sample; without a label_key, OpenRLHF sends empty labels."""
        return [label or None for label in self.labels or [None] * len(self.query)]

    def checked_prompts(self, limits: Limits) -> list[list[Message]]:
        """Return the prompts as messages; check the sizes of all texts, and the number of samples of a prompt."""
        check_count("query", len(self.query), limits.queries)
        check_lengths("query", self.query, limits)
        check_lengths("labels", [label or "" for label in self.labels or ()], limits)
        references = self.references()
        unlabelled = Counter(p for p, text in zip(self.prompts, references, strict=True) if text is None)
        check_count("samples of one prompt", max(unlabelled.values(), default=0), limits.answers)
        return [_check_prompt(prompt, f"prompts[{number}]") for number, prompt in enumerate(self.prompts)]


class OpenRLHFReply(BaseModel):
    """What OpenRLHF reads.

    Attributes:
        rewards, scores: the reward of each sample, or null.
        extra_logs: numbers that it logs.
    """

    rewards: list[float | None]
    scores: list[float | None]
    extra_logs: dict[str, float]


class VerifyReply(BaseModel):
    """What NeMo-Gym reads: the reward, and the prompt and response of the request.

    Attributes:
        responses_create_params, response: of the request.
        reward: of the sample; 0 is a placeholder where `mask_sample` is true.
        mask_sample: whether there is no reward.
        failure_kind, failure_reason: why.
        error: standard error of the reward.
        comparisons, unread: of the cohort.
        problems: in words.
    """

    model_config = ConfigDict(extra="allow")
    responses_create_params: dict[str, Any]
    response: dict[str, Any]
    reward: float
    mask_sample: bool
    failure_kind: str | None = None
    failure_reason: str | None = None
    error: float | None = None
    comparisons: int
    unread: int
    problems: list[str]


def _check_prompt(prompt: PromptInput, location: str) -> list[Message]:
    """Return a prompt as messages; an invalid one is refused before it joins a batch."""
    with input_errors(location):
        return read_prompt(prompt, location)


def _numbered(readers: Iterable[Callable[[Limits], Any]]) -> list[Any]:
    """Return the rows of a file, each from its reader; the limits of single requests do not apply."""
    rows = []
    for number, reader in enumerate(readers):
        try:
            rows.append(reader(UNLIMITED))
        except ReasonGenRMError as error:
            location = f"rows[{number}].{error.location}"
            raise type(error)(error.problem, location=location, hint=error.hint) from None
    return rows


class TooLarge(ReasonGenRMError):
    """A request exceeds a limit; answered with status 413."""


def check_count(name: str, count: int, limit: int) -> None:
    """Raise TooLarge for more items than the limit."""
    if count > limit:
        raise TooLarge(f"{count} are too many", location=name, hint=f"the limit is {limit}")


def check_lengths(name: str, texts: Iterable[str], limits: Limits) -> None:
    """Raise TooLarge for a text longer than the limit."""
    check_count(f"characters in {name}", max(map(len, texts), default=0), limits.text)
