"""All benchmarks by kind; their hub ids are in `config.evaluate.HUB_IDS`."""

from __future__ import annotations

from reasongenrm.benchmarks.base import Benchmark
from reasongenrm.benchmarks.judgebench import JudgeBench
from reasongenrm.benchmarks.llmbar import LLMBar
from reasongenrm.benchmarks.pairs import Pairs
from reasongenrm.benchmarks.ppe import PPE
from reasongenrm.benchmarks.rewardbench import RewardBench
from reasongenrm.benchmarks.rewardbench2 import RewardBench2
from reasongenrm.benchmarks.rmb import RMB
from reasongenrm.benchmarks.rmbench import RMBench

BENCHMARKS: dict[str, Benchmark] = {
    "rewardbench": RewardBench(),
    "rewardbench2": RewardBench2(),
    "rmbench": RMBench(),
    "judgebench": JudgeBench(),
    "llmbar": LLMBar(),
    "ppe": PPE(),
    "rmb": RMB(),
    "pairs": Pairs(),
}
"""Kind -> benchmark."""
