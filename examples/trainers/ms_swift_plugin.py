"""ms-swift: `swift rlhf --rlhf_type grpo --external_plugins ms_swift_plugin.py --reward_funcs reasongenrm …`; see docs/reward.md."""

from reasongenrm.rewards.swift import register

register()
