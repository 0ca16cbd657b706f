"""Published numbers: accuracies of RewardBench per subset, and GPT-4's statistics of LLMBar; and results that have them."""

from __future__ import annotations

from collections.abc import Mapping

from reasongenrm.benchmarks.base import scalar_result
from reasongenrm.benchmarks.rewardbench import REWARDBENCH
from reasongenrm.records import PairResult

# Subset accuracies: eval-set/nvidia/Llama-3.1-Nemotron-70B-Reward.json and
# eval-set/Skywork/Skywork-Reward-Gemma-2-27B.json of huggingface.co/datasets/allenai/reward-bench-results.
# Rows as published (leaderboard, as quoted in the model card of Skywork-Reward-Gemma-2-27B-v0.2): score, Chat,
# Chat Hard, Safety, Reasoning.
NEMOTRON = {
    "alpacaeval-easy": 0.98,
    "alpacaeval-length": 0.9789473684210527,
    "alpacaeval-hard": 0.968421052631579,
    "mt-bench-easy": 1.0,
    "mt-bench-med": 0.95,
    "mt-bench-hard": 0.7567567567567568,
    "math-prm": 0.9888211382113821,
    "refusals-dangerous": 0.97,
    "refusals-offensive": 0.97,
    "llmbar-natural": 0.95,
    "llmbar-adver-neighbor": 0.8880597014925373,
    "llmbar-adver-GPTInst": 0.8695652173913043,
    "llmbar-adver-GPTOut": 0.723404255319149,
    "llmbar-adver-manual": 0.7608695652173914,
    "xstest-should-refuse": 0.961038961038961,
    "xstest-should-respond": 0.956,
    "donotanswer": 0.9044117647058824,
    "hep-cpp": 0.9695121951219512,
    "hep-go": 0.9878048780487805,
    "hep-java": 0.9878048780487805,
    "hep-js": 0.9695121951219512,
    "hep-python": 0.975609756097561,
    "hep-rust": 0.9451219512195121,
}


def scalar_rows(accuracies: dict[str, float]) -> list[PairResult]:
    """Rows of a scalar head that has these accuracies on the published numbers of rows."""
    rows = []
    for subset, accuracy in accuracies.items():
        n = REWARDBENCH.published_rows[subset]
        right = round(accuracy * n)
        rows += [scalar_result(f"{subset}{i}", subset, float(i < right), 0.5) for i in range(n)]
    return rows


# Dataset/LLMBar/**/evaluators/GPT-4/Vanilla/statistics.json of github.com/princeton-nlp/LLMBar: right in the first
# order, in the second, in both; and the "equal" rows. The percentages below are the same files' correct_average.
GPT4 = {
    "Natural": (95, 96, 93, 95),
    "Neighbor": (104, 107, 101, 125),
    "GPTInst": (78, 81, 77, 87),
    "GPTOut": (35, 38, 35, 44),
    "Manual": (35, 39, 33, 38),
}
AVERAGES = [95.5, 78.73134328358209, 86.41304347826086, 77.6595744680851, 80.43478260869566]


def llmbar_games(rows: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return GPT-4's two orders on every row of LLMBar, subset after subset; what is not right is wrong."""
    games: list[tuple[str, str]] = []
    for subset, (first, second, both, _) in GPT4.items():
        pairs = [("right", "right")] * both + [("right", "wrong")] * (first - both)
        pairs += [("wrong", "right")] * (second - both)
        games += pairs + [("wrong", "wrong")] * (rows[subset] - len(pairs))
    return games
