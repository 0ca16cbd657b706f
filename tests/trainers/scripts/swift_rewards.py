"""ms-swift 4.6.0: a plugin file is imported as its command line does it, and its own function calls the reward functions."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
from swift.rewards import orms
from swift.rl_core.data import GRPOSample
from swift.rl_core.grpo_algorithm import compute_rewards_per_func
from swift.utils import import_external_file


def main(work: dict[str, Any]) -> list[list[float]]:
    import_external_file(work["plugin"])
    reward = orms[work["reward"]]()
    samples = [
        GRPOSample.from_row(
            {
                "messages": [
                    {"role": "user", "content": group["prompt"]},
                    {"role": "assistant", "content": answer},
                ],
                "gold": gold,
            }
        )
        for group in work["groups"]
        for answer, gold in zip(group["answers"], group["references"], strict=True)
    ]
    [column] = compute_rewards_per_func(samples, [reward], [None], torch.device("cpu")).T.tolist()
    rewards = iter(column)
    return [[next(rewards) for _ in group["answers"]] for group in work["groups"]]


if __name__ == "__main__":
    given = json.load(sys.stdin)
    os.environ |= {
        "REASONGENRM_URL": given["url"],
        "REASONGENRM_REWARDS": json.dumps(given["settings"]),
        "REASONGENRM_REFERENCE": "gold",
    }
    print(json.dumps(main(given)))
