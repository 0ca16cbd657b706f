"""Wait for the results of a shared judge while the client of a request is connected."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import Future
from typing import Any, TypeVar

from reasongenrm.judge.sharing import JudgeBusy

T = TypeVar("T")


async def result(request: Any, future: Future[T], seconds: float | None) -> T:
    """Return the result of a future; cancel it if the client disconnects or the time is over.

    Args:
        request: Starlette's, whose body is read.
        future: of the judge.
        seconds: the limit; None: there is none.

    Raises:
        JudgeBusy: no result in time.
        HTTPException: the client has disconnected (499).
    """
    return await while_connected(request, asyncio.wrap_future(future), seconds)


async def while_connected(request: Any, work: Awaitable[T], seconds: float | None) -> T:
    """Return the result of something that is awaited; see `result`."""
    from starlette.exceptions import HTTPException

    answer = asyncio.ensure_future(work)
    disconnect = asyncio.create_task(_disconnect(request))
    either: set[asyncio.Future[Any]] = {answer, disconnect}
    try:
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        if disconnect.done():
            raise HTTPException(499, "the client has disconnected")
        raise JudgeBusy.after(seconds or 0)
    finally:
        disconnect.cancel()
        answer.cancel()  # nothing happens to one that is done


async def _disconnect(request: Any) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
