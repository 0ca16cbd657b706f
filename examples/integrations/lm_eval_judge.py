"""A metric of lm-eval: a task's YAML calls it by `process_results: !function lm_eval_judge.judged`.

The row's column `reference`, if there is one, is compared with; otherwise the answer is rated alone. See judged.yaml.
"""

from __future__ import annotations

from typing import Any

from judge_client import judge


def judged(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return the score of one answer, called `judge`."""
    value, _ = judge(doc["prompt"], results[0], doc.get("reference"))
    return {"judge": value}
