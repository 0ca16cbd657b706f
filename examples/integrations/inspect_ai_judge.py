"""A scorer of inspect_ai: P(the model's answer is better than the target), or a rating where a sample has no target.

inspect eval my_task.py          # with scorer=reasongenrm_judge() in the task
"""

from __future__ import annotations

from inspect_ai.scorer import Score, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState
from judge_client import judge_async


@scorer(metrics=[mean(), stderr()])
def reasongenrm_judge(compare: bool = True):  # type: ignore[no-untyped-def]  # inspect_ai reads the annotations of `score`
    """Score answers by a running `reasongenrm serve`.

    Args:
        compare: compare with the sample's target where it has one; otherwise rate every answer alone.
    """

    async def score(state: TaskState, target: Target) -> Score:
        messages = [
            {"role": message.role, "content": message.text}
            for message in state.messages
            if message.role in ("system", "user", "assistant")
        ]
        if messages and messages[-1]["role"] == "assistant":
            messages.pop()  # the answer itself
        answer = state.output.completion
        value, reason = await judge_async(messages, answer, target.text if compare else None)
        return Score(value=value, answer=answer, explanation=reason)

    return score
