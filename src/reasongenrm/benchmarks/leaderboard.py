"""Results in the JSON layout of allenai's leaderboard (datasets reward-bench-results, reward-bench-2-results)."""

from __future__ import annotations

from reasongenrm.benchmarks.rewardbench import PRIOR_SECTION
from reasongenrm.errors import DataError
from reasongenrm.metrics.scores import BenchmarkScore


def leaderboard_files(
    score: BenchmarkScore,
    model: str,
    *,
    model_type: str = "Generative RM",
    chat_template: str | None = None,
) -> dict[str, dict[str, str | float | None]]:
    """Return the summaries that upstream writes, folder -> content of `<folder>/<model>.json`.

    `eval-set` has the benchmark's own subsets, `pref-sets` the prior sets (only if they were judged):
    `{model, model_type, chat_template, <subset>: accuracy, …}`, keys sorted, as upstream's `scripts/run_rm.py`,
    `run_generative.py` and `run_v2.py` pass them to `save_to_hub`. Upstream's `eval-set-scores` (every row with
    its texts and scores) is a different file.

    Args:
        score: of RewardBench or RewardBench 2.
        model: organisation and name, as `org/name`.
        model_type: upstream's value: `Generative RM`, `Seq. Classifier`, `Custom Classifier` or `DPO`.
        chat_template: upstream's value: `tokenizer` if the tokenizer's own is used; null for generative judges.

    Raises:
        DataError: a toy benchmark, which has no leaderboard.
    """
    if score.toy:
        raise DataError("a toy benchmark has no leaderboard", hint="judge RewardBench itself")
    header = {"model": model, "model_type": model_type, "chat_template": chat_template}
    files: dict[str, dict[str, str | float | None]] = {"eval-set": {**header}}
    for name, subset in score.subsets.items():
        folder = "pref-sets" if subset.section == PRIOR_SECTION else "eval-set"
        files.setdefault(folder, {**header})[name] = subset.accuracy
    return {folder: dict(sorted(content.items())) for folder, content in files.items()}
