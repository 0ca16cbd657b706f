"""One step of GRPO whose completions vLLM samples in this process; prints the log as JSON.

The adapter has no effect before the step, so that the weights that vLLM has loaded are the policy's. Its CPU build cannot take
other ones: that, and the check that refuses it, are left out.
"""

from __future__ import annotations

import json
from pathlib import Path

ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""What the process needs."""


def main(recipe_file: str, work: str) -> None:
    """Train a step.

    Args:
        recipe_file: the resolved recipe.
        work: the work folder of the judge's step `grpo`.
    """
    from reasongenrm.config.loading import load_recipe
    from reasongenrm.train import grpo

    recipe = load_recipe(recipe_file, [])
    grpo.check_rollouts = lambda settings: None
    trainer = grpo.build_trainer(recipe, recipe.trained["judge@grpo"], Path(work))
    trainer.vllm_generation.sync_weights = lambda: None
    trainer.train()
    [entry] = [entry for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps(entry))
