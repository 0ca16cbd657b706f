"""A metric of lighteval: P(the answer is better than the gold answer), or a rating where there is none; and a task that uses it.

lighteval accelerate "model_name=…" "judged|0" --custom-tasks examples/integrations/lighteval_judge.py
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from judge_client import judge
from lighteval.metrics.metrics_sample import SampleLevelComputation
from lighteval.metrics.utils.metric_utils import SampleLevelMetric
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc, SamplingMethod


class Judged(SampleLevelComputation):
    """The score of a row's first answer by a running `reasongenrm serve`."""

    def compute(self, model_response: ModelResponse, doc: Doc, **_: Any) -> float:
        """Return the score in [0, 1]."""
        golds = doc.get_golds()
        value, _ = judge(doc.query, model_response.final_text[0], golds[0] if golds else None)
        return value


METRIC = SampleLevelMetric(
    metric_name="judge",
    higher_is_better=True,
    category=SamplingMethod.GENERATIVE,
    sample_level_fn=Judged(),
    corpus_level_fn=np.mean,
)


def prompt(line: dict[str, Any], task_name: str = "") -> Doc:
    """Return a row of `prompt` and `reference`."""
    return Doc(task_name=task_name, query=line["prompt"], choices=[line.get("reference") or ""], gold_index=0)


TASKS_TABLE = [
    LightevalTaskConfig(
        name="judged",
        prompt_function=prompt,
        hf_repo=os.environ.get("JUDGED_PROMPTS", "prompts"),  # a folder with prompts.jsonl, or a hub id
        hf_subset="default",
        hf_avail_splits=["train"],
        evaluation_splits=["train"],
        metrics=[METRIC],
        generation_size=256,
    )
]
