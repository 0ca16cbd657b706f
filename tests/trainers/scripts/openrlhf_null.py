"""OpenRLHF 0.11.2: what its generator of samples makes of a reward that is null."""

from __future__ import annotations

import json

from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

generator = object.__new__(SamplesGenerator)
response = {"observation_tokens": [1, 2, 3], "action_ranges": [(1, 3)], "rollout_log_probs": None}
response |= {"prompt": "p", "label": None, "scores": [None], "extra_logs": {"judge_unread": 1.0}}
found = {}
for name, reward in {"number": [0.5], "null": [None]}.items():
    try:
        made = generator._process_response_into_experience(response | {"reward": reward, "scores": reward})
        found[name] = made.rewards.flatten().tolist()
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
