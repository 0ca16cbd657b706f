"""Answers of servers that are not trusted: a limit of their size, and no redirects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from reasongenrm.errors import first_line

MAX_BYTES = 16 * 2**20
"""Largest answer, decompressed: a completion of 32,768 tokens with their ids and text has less than 1 MiB."""


LONGEST_TEXT = 300
"""Characters of a server's message that are kept."""


def one_line(text: str, limit: int = LONGEST_TEXT) -> str:
    """Return the first line of a server's message, shortened, without control characters."""
    line = (text.strip().splitlines() or ["no message"])[0][:limit]
    return "".join(character if character.isprintable() else "?" for character in line)


class AnswerTooLarge(ValueError):
    """An answer is larger than the limit; the rest of it is not read."""


class BrokenStream(ValueError):
    """A streamed answer has an error, or ends too early."""


async def read_body(response: Any, limit: int = MAX_BYTES) -> bytes:
    """Read the body of an httpx response that is not read yet, decompressed.

    Raises:
        AnswerTooLarge: it has more bytes than the limit, or was compressed more than once: one piece of it may then
            have any size.
    """
    return b"".join([part async for part in _limited_parts(response, limit)])


async def read_events(response: Any, limit: int = MAX_BYTES) -> AsyncIterator[bytes]:
    """Yield the data of every server-sent event of an httpx response that is not read yet, each of one line, as JSON has it.

    Raises:
        AnswerTooLarge: see `read_body`.
        BrokenStream: the connection ended.
    """
    line = b""
    try:
        async for part in _limited_parts(response, limit):
            *lines, line = (line + part).split(b"\n")
            for whole in lines:
                if whole.startswith(b"data:"):
                    yield whole.removeprefix(b"data:").strip()
    except AnswerTooLarge:
        raise
    except Exception as error:  # of the SDK's HTTP library, whichever it is
        raise BrokenStream(f"the connection ended: {first_line(error)}") from None


async def _limited_parts(response: Any, limit: int) -> AsyncIterator[bytes]:
    if "," in response.headers.get("content-encoding", ""):
        raise AnswerTooLarge("the answer is compressed more than once")
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > limit:
            raise AnswerTooLarge(f"the answer has more than {limit >> 20} MiB")
        yield part


class LimitedClient:
    """Mixin for an SDK's asynchronous HTTP client: `read_body` reads its answers, those with an error status too.

    A streamed answer is not limited: who reads it counts. Create it with `follow_redirects=False`.
    """

    async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """Send a request, and return the answer."""
        response = await super().send(request, stream=True, **options)  # type: ignore[misc]
        if stream and response.is_success:
            return response
        try:
            body = await read_body(response)
        finally:
            await response.aclose()
        encoded = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in encoded]
        return type(response)(response.status_code, headers=headers, content=body, request=request)


def redirect_text(response: Any) -> str:
    """Return where a redirect leads, for an error: judged text and keys are sent nowhere but to the recipe's address."""
    target = response.headers.get("location", "nowhere")[:200]
    return f"HTTP {response.status_code}: it redirects to {target!r}, which is not followed"
