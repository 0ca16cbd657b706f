"""All benchmarks by kind, and the one of a recipe's settings; their hub ids are in `config.evaluate.HUB_IDS`."""

from __future__ import annotations

from reasongenrm.benchmarks import (
    contextualjudgebench,
    helpsteer3,
    ifrewardbench,
    judgebench,
    llmbar,
    mrewardbench,
    pairs,
    ppe,
    rewardbench,
    rewardbench2,
    rmb,
    rmbench,
    rubricbench,
)
from reasongenrm.benchmarks.base import Benchmark
from reasongenrm.config.evaluate import BenchmarkConfig

BENCHMARKS: dict[str, Benchmark] = {
    "rewardbench": rewardbench.RewardBench(),
    "rewardbench2": rewardbench2.RewardBench2(),
    "rmbench": rmbench.RMBench(),
    "judgebench": judgebench.JudgeBench(),
    "llmbar": llmbar.LLMBar(),
    "ppe": ppe.PPE(),
    "rmb": rmb.RMB(),
    "mrewardbench": mrewardbench.MRewardBench(),
    "contextualjudgebench": contextualjudgebench.ContextualJudgeBench(),
    "ifrewardbench": ifrewardbench.IFRewardBench(),
    "rubricbench": rubricbench.RubricBench(),
    "helpsteer3": helpsteer3.HelpSteer3(),
    "pairs": pairs.Pairs(),
}
"""Kind -> benchmark with its default settings."""


def configured_benchmark(config: BenchmarkConfig) -> Benchmark:
    """Return the benchmark of a recipe's settings."""
    if config.kind == "rewardbench":
        default = rewardbench.RewardBench()
        return rewardbench.RewardBench(
            prior_sets=config.prior_sets,
            prior_path=config.prior_path or default.prior_path,
            max_messages=config.max_messages,
        )
    if config.kind == "rmbench":
        return rmbench.RMBench(safety=config.safety)
    return BENCHMARKS[config.kind]


def named_benchmark(kind: str, name: str, subsets: set[str]) -> Benchmark:
    """Return the benchmark that gave a score, from what a run's files tell.

    Args:
        kind: a key of `BENCHMARKS`.
        name: the score's name.
        subsets: of its rows.
    """
    if kind == "rewardbench" and subsets & rewardbench.PRIOR_SETS.keys():
        return rewardbench.RewardBench(prior_sets=True)
    if kind == "rmbench" and name == rmbench.HALVES:
        return rmbench.RMBench(safety="halves")
    return BENCHMARKS[kind]
