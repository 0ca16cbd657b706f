"""One step of GRPO whose completions vLLM samples in this process: `python vllm_step.py RECIPE WORK`; prints the log as JSON.

The adapter has no effect before the step, so that the weights that vLLM has loaded are the policy's. Its CPU build cannot take
other ones: that, and the check that refuses it, are left out.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def main() -> None:
    from reasongenrm.config.loading import load_recipe
    from reasongenrm.train import grpo

    recipe = load_recipe(sys.argv[1], [])
    grpo._check_rollouts = lambda settings: None
    trainer = grpo.build_trainer(recipe, recipe.trained["judge@grpo"], Path(sys.argv[2]))
    trainer.vllm_generation.sync_weights = lambda: None
    trainer.train()
    [entry] = [entry for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps(entry))


if __name__ == "__main__":
    main()
