"""Settings of `reasongenrm rubric draft`: who proposes criteria, who judges by them, and which are kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from reasongenrm.config.engines import APIConfig, Seed, Strict
from reasongenrm.config.evaluate import JudgingConfig, OtherJudge
from reasongenrm.config.own_judge import OwnJudge


class DraftShares(Strict):
    """Shares of the rows, by prompt; the rest selects the criteria.

    Attributes:
        propose: rows that the writer of criteria sees.
        test: rows that measure the criteria which are kept; neither the writer nor the selection sees them.
    """

    propose: float = Field(0.3, gt=0, lt=1)
    test: float = Field(0.3, gt=0, lt=1)

    @model_validator(mode="after")
    def _something_left(self) -> DraftShares:
        if self.propose + self.test >= 1:
            raise ValueError("propose and test leave no rows to select criteria on")
        return self


class ProposalConfig(Strict):
    """Requests for criteria.

    Attributes:
        requests: number of requests, each with other rows.
        rows: pairs that one request shows.
        criteria: most criteria that one request asks for.
        temperature: of sampling.
        max_tokens: limit of an answer, thoughts included.
        prompt: Jinja2 file with the wording.
    """

    requests: int = Field(12, ge=1)
    rows: int = Field(4, ge=1)
    criteria: int = Field(5, ge=1)
    temperature: float = Field(0.7, ge=0, le=2)
    max_tokens: int = Field(4096, ge=1)
    prompt: str = "configs/rubric/proposals.jinja"


class KeepConfig(Strict):
    """Which criteria are kept.

    Attributes:
        candidates: criteria that are judged at most; those that were proposed most often.
        same_text: cosine similarity of the character n-grams of two texts from which they are one criterion.
        accuracy: the 95% interval of a criterion's accuracy must lie above this.
        coverage: least share of rows that it decides.
        same_verdicts: share of rows with the same verdict from which the less accurate of two criteria is left out.
    """

    candidates: int = Field(24, ge=1)
    same_text: float = Field(0.75, gt=0, le=1)
    accuracy: float = Field(0.5, ge=0, lt=1)
    coverage: float = Field(0.1, ge=0, le=1)
    same_verdicts: float = Field(0.95, gt=0, le=1)


class RubricDraft(Strict):
    """Settings of a draft: exactly one of `judge` and `own_judge`.

    Attributes:
        seed: of the split, the pairs of each request, and sampling.
        format: of the rows: `pairs` (columns prompt, chosen, rejected), or a source of stage 1, `skywork` or `ranked`.
        limit: use only the first N rows.
        judge: a judge on a server.
        own_judge: a judge trained by this suite, or `base`, on vLLM.
        writer: the server that proposes criteria; null: that of `judge`, or the base of the recipe of `own_judge`.
        prompts: the wording of a judge on a server; it must show criteria. Our own judge has that of its recipe.
        judging: orders, sampling and votes of a judge on a server. Our own judge has those of its recipe.
        shares: of the rows.
        proposals: requests for criteria.
        keep: which criteria are kept.
    """

    seed: Seed = 17
    format: Literal["pairs", "skywork", "ranked"] = "pairs"
    limit: int | None = Field(None, ge=1)
    judge: OtherJudge | None = None
    own_judge: OwnJudge | None = None
    writer: APIConfig | None = None
    prompts: str = "configs/prompts/judge.yaml"
    judging: JudgingConfig | None = None
    shares: DraftShares = DraftShares()
    proposals: ProposalConfig = ProposalConfig()
    keep: KeepConfig = KeepConfig()

    @model_validator(mode="after")
    def _one_judge(self) -> RubricDraft:
        if (self.judge is None) == (self.own_judge is None):
            raise ValueError("give judge or own_judge, one of the two")
        if self.own_judge is not None and self.judging is not None:
            raise ValueError(
                "own_judge has the judging of its recipe: use own_judge.overrides, such as evaluate.votes=3"
            )
        writer = self.writer or (self.judge.server if self.judge else None)
        if writer is not None and writer.kind == "openai" and writer.api != "chat":
            raise ValueError("criteria are proposed over a chat API: set api: chat, or give another writer")
        return self
