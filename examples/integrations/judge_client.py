"""Client of `reasongenrm serve` for evaluation tools: one answer's score, by comparison with a reference or by a rating.

It needs httpx alone, so that it runs in the tool's own environment. The address is in the environment variable REASONGENRM_URL
(default http://127.0.0.1:8080), the key, if the server wants one, in REASONGENRM_KEY.
"""

from __future__ import annotations

import os
from typing import Any

import httpx

SECONDS = 3600
"""The server answers within an hour; a judge that reasons may have a long queue."""


class NoVerdict(RuntimeError):
    """The judge's answer cannot be read, or it failed: no score, which is not a bad score."""


def request(
    prompt: str | list[dict[str, str]], answer: str, reference: str | None
) -> tuple[str, dict[str, Any]]:
    """Return the path and the body: `/score` against a reference, else `/rate`.

    Args:
        prompt: a text, or messages up to the last user turn.
        answer: the answer to judge.
        reference: an answer to compare it with; None or empty: rate the answer alone.
    """
    body: dict[str, Any] = {"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}
    body["answer"] = answer
    if not reference:
        return "/rate", body
    return "/score", body | {"reference": reference}


def score(response: httpx.Response) -> tuple[float, str]:
    """Return the score in [0, 1] and the judge's reason; 0.5 against a reference means equal.

    Raises:
        NoVerdict: there is none.
        httpx.HTTPStatusError: the server refused the request.
    """
    response.raise_for_status()
    result = response.json()
    if result["outcome"] not in ("ok", "tie") or result["score"] is None:
        raise NoVerdict(f"no verdict: {result['outcome']} ({result['problem'] or 'no problem named'})")
    return float(result["score"]), result["reason"] or ""


def _options() -> dict[str, Any]:
    key = os.environ.get("REASONGENRM_KEY")
    return {
        "base_url": os.environ.get("REASONGENRM_URL", "http://127.0.0.1:8080"),
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "timeout": SECONDS,
        "trust_env": False,  # no proxy between us and the judge
    }


def judge(prompt: str | list[dict[str, str]], answer: str, reference: str | None = None) -> tuple[float, str]:
    """Return score and reason; see `request` and `score`."""
    path, body = request(prompt, answer, reference)
    with httpx.Client(**_options()) as client:
        return score(client.post(path, json=body))


async def judge_async(
    prompt: str | list[dict[str, str]], answer: str, reference: str | None = None
) -> tuple[float, str]:
    """The same for tools that judge many answers at once: the server puts their requests into batches."""
    path, body = request(prompt, answer, reference)
    async with httpx.AsyncClient(**_options()) as client:
        return score(await client.post(path, json=body))
