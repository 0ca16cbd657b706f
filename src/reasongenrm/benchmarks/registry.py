"""All benchmarks by kind; their hub ids are in `config.evaluate.HUB_IDS`."""

from __future__ import annotations

from reasongenrm.benchmarks import judgebench, llmbar, pairs, ppe, rewardbench, rewardbench2, rmb, rmbench
from reasongenrm.benchmarks.base import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    "rewardbench": rewardbench.RewardBench(),
    "rewardbench2": rewardbench2.RewardBench2(),
    "rmbench": rmbench.RMBench(),
    "judgebench": judgebench.JudgeBench(),
    "llmbar": llmbar.LLMBar(),
    "ppe": ppe.PPE(),
    "rmb": rmb.RMB(),
    "pairs": pairs.Pairs(),
}
"""Kind -> benchmark."""
