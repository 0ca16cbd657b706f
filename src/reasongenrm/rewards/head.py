"""A scalar head as a reward function for reinforcement learning: `GRPOTrainer(..., reward_funcs=HeadReward(head))`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasongenrm.rewards.completions import completion_text, prompt_input
from reasongenrm.scalar.model import ScalarRewardModel


class HeadReward:
    """A reward function for TRL's GRPOTrainer, RLOOTrainer and OnlineDPOTrainer: the head's score of each sample.

    The score is not scaled. GRPO's advantage does not depend on the scale unless `scale_rewards` is off; a penalty for length
    or a KL term does.

    Args:
        head: the head; it stays on its device.
        batch_size: samples per forward pass of the head.
    """

    def __init__(self, head: ScalarRewardModel, *, batch_size: int = 32) -> None:
        self._head, self._batch_size = head, batch_size
        self.__name__ = "head"  # TRL logs it as rewards/head/mean

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Return a reward per completion.

        Args:
            prompts: texts, or lists of messages; one per completion.
            completions: texts, or lists of messages, of which the last assistant turn counts.
            columns: other columns of the data set, and arguments of TRL; not used.

        Raises:
            DataError: a completion has no assistant turn, or something is not a text.
            EngineError: a score is not finite.
        """
        responses = [completion_text(one, f"completions[{i}]") for i, one in enumerate(completions)]
        contexts = [prompt_input(prompt) for prompt in prompts]
        return self._head.score_batch(contexts=contexts, responses=responses, batch_size=self._batch_size)
