"""NeMo-Gym: a resources server whose rewards come from `reasongenrm serve --cohort N`; see docs/reward.md.

Gym starts the resources servers of its configs itself, so this one hands each rollout on to the judge's server, which gathers the
rollouts of a prompt. Written against nemo-gym 0.4.0.
"""

import os

from fastapi.responses import JSONResponse
from nemo_gym.base_resources_server import BaseResourcesServerConfig, BaseVerifyRequest, SimpleResourcesServer
from nemo_gym.server_utils import get_response_json, raise_for_status, request
from pydantic import ConfigDict


class JudgeConfig(BaseResourcesServerConfig):
    """The judge's server; the environment variable REASONGENRM_API_KEY has its key, if it needs one."""

    judge_url: str


class JudgeVerifyRequest(BaseVerifyRequest):
    """A rollout with the columns of its row, such as `reference`, and the number of the rollout in its group."""

    model_config = ConfigDict(extra="allow")


class JudgeResourcesServer(SimpleResourcesServer):
    """Rewards of a judge."""

    config: JudgeConfig

    async def verify(self, body: JudgeVerifyRequest) -> JSONResponse:
        """Return the reward, which comes when the rollout's group has been judged."""
        key = os.environ.get("REASONGENRM_API_KEY")
        answer = await request(
            "POST",
            f"{self.config.judge_url}/verify",
            json=body.model_dump(),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )
        await raise_for_status(answer)
        return JSONResponse(await get_response_json(answer))


if __name__ == "__main__":
    JudgeResourcesServer.run_webserver()
