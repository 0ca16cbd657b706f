"""Real HTTP servers with faults: they speak OpenAI's protocol or Anthropic's batches, and record their requests.

As a script, `servers.py SECONDS` serves completions, prints its URL, and takes so long for each.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]
"""An HTTP status, a body (JSON, bytes, or an iterator of parts that are sent one by one) and further headers; None closes
the connection without an answer, and a `content-length` above the body's closes it in the middle."""


@dataclass
class ReceivedRequest:
    """A request that a server received."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class HTTPServer(ThreadingHTTPServer):
    """Answers every request by `reply(received)`, each in its own thread."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, reply: Callable[[ReceivedRequest], Reply | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.received: list[ReceivedRequest] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.lock = threading.Lock()
        self.now = self.most = 0
        """Open requests, and their maximum so far."""
        self.hung_up = 0
        """Clients that closed their connection while parts were sent."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that closes the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: else each answer waits for a delayed acknowledgement
    server: HTTPServer

    def _serve(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        raw = self.rfile.read(length)
        received = ReceivedRequest(
            self.command,
            self.path,
            {k.lower(): v for k, v in self.headers.items()},
            json.loads(raw) if raw else None,
        )
        server = self.server
        with server.lock:
            server.received.append(received)
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            reply = server.reply(received)
        finally:
            with server.lock:
                server.now -= 1
        if reply is None:
            self._hang_up()
            return
        status, body, *more = reply
        if isinstance(body, Iterator):
            self._send_parts(status, body, more[0] if more else {})
            return
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", "content-length": str(len(data))}
        headers |= more[0] if more else {}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        if int(headers["content-length"]) > len(data):
            self.wfile.flush()
            self._hang_up()

    def _send_parts(self, status: int, parts: Iterator[bytes], headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("connection", "close")
        self.end_headers()
        try:
            for part in parts:
                self.wfile.write(part)
                self.wfile.flush()
        except OSError:
            with self.server.lock:
                self.server.hung_up += 1

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = _serve

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(reply: Callable[[ReceivedRequest], Reply | None]) -> Iterator[HTTPServer]:
    """Run a server on a free port."""
    server = HTTPServer(reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(received: ReceivedRequest) -> Reply:
    """Return a completion that repeats the request: its text has the prompt's token ids or the last turn."""
    body = received.body
    if "messages" in body:
        message = {"role": "assistant", "content": "re: " + body["messages"][-1]["content"]}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        if body.get("logprobs"):
            choice["logprobs"] = {
                "content": [{"token": "re:", "logprob": -0.5}, {"token": "x", "logprob": -1.0}]
            }
    else:
        ids = body["prompt"]
        choice = {"index": 0, "text": f"re: {ids}", "finish_reason": "length", "token_ids": ids}
        choice["logprobs"] = {"token_logprobs": [-0.25] * len(ids), "top_logprobs": [{} for _ in ids]}
    return 200, {"id": "c", "object": "x", "created": 1, "model": body["model"], "choices": [choice]}


def event_stream(events: Iterable[dict[str, Any]], *, done: bool = True) -> Reply:
    """Return server-sent events, one by one; OpenAI's protocol has a mark after them, Anthropic's names each by its type."""

    def parts() -> Iterator[bytes]:
        for event in events:
            name = f"event: {event['type']}\n" if "type" in event else ""
            yield f"{name}data: {json.dumps(event)}\n\n".encode()
        if done:
            yield b"data: [DONE]\n\n"

    return 200, parts(), {"content-type": "text/event-stream"}


def failing(status: int, message: str = "out of order") -> Reply:
    """Return an error in the format of both APIs."""
    return status, {"type": "error", "error": {"type": "some_error", "message": message}}


@dataclass
class Batches:
    """Anthropic's Message Batches in memory, with the part of the API that an engine uses.

    `judge(params)` returns a request's result; a batch ends at its `polls`-th poll.
    """

    judge: Callable[[dict[str, Any]], dict[str, Any]]
    polls: int = 2
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)
    url: str = ""

    def add(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """Create a batch."""
        assert len({r["custom_id"] for r in requests}) == len(requests)
        name = f"msgbatch_{len(self.batches) + 1}"
        self.batches[name] = {"requests": requests, "results": [self.judge(r["params"]) for r in requests]}
        self.looks[name] = 0
        return self.public_view(name)

    def public_view(self, name: str) -> dict[str, Any]:
        """Return the API's view of a batch."""
        batch = self.batches[name]
        ended = self.looks[name] >= self.polls
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        for result in batch["results"]:
            counts[result["type"] if ended else "processing"] += 1
        moment = "2026-01-01T00:00:00Z"
        return {
            "id": name,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts,
            "created_at": moment,
            "expires_at": moment,
            "ended_at": moment if ended else None,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": f"{self.url}/v1/messages/batches/{name}/results" if ended else None,
        }

    def __call__(self, received: ReceivedRequest) -> Reply:
        """Serve one request."""
        path, _, query = received.path.removeprefix("/v1/messages/batches").partition("?")
        parts = path.strip("/").split("/")
        if received.method == "POST":
            return 200, self.add(received.body["requests"])
        if parts == [""]:
            options = dict(item.split("=") for item in query.split("&"))
            names = list(reversed(self.batches))
            if "after_id" in options:
                names = names[names.index(options["after_id"]) + 1 :]
            page = names[: int(options["limit"])]
            more = len(page) < len(names)
            first, last = (page[0], page[-1]) if page else (None, None)
            data = [self.public_view(name) for name in page]
            return 200, {"data": data, "has_more": more, "first_id": first, "last_id": last}
        if parts[0] not in self.batches:
            return failing(404, "no such batch")
        if parts[1:] == ["results"]:
            batch = self.batches[parts[0]]
            rows = [
                {"custom_id": request["custom_id"], "result": result}
                for request, result in zip(batch["requests"], batch["results"], strict=True)
            ]
            return 200, b"".join(json.dumps(row).encode() + b"\n" for row in reversed(rows))
        self.looks[parts[0]] += 1
        return 200, self.public_view(parts[0])


def message(text: str, stop: str = "end_turn", usage: dict[str, int] | None = None) -> dict[str, Any]:
    """Return a message of Anthropic's API."""
    return {
        "id": "msg",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": text}] if text else [],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage or {"input_tokens": 1, "output_tokens": 2},
    }


def succeeded(text: str, stop: str = "end_turn", usage: dict[str, int] | None = None) -> dict[str, Any]:
    """Return a batch's result: a message."""
    return {"type": "succeeded", "message": message(text, stop, usage)}


def errored(kind: str, message: str) -> dict[str, Any]:
    """Return a batch's result: an error."""
    error = {"type": "error", "error": {"type": kind, "message": message}, "request_id": None}
    return {"type": "errored", "error": error}


def chat_reply(text: str, model: str = "m") -> Reply:
    """Return the answer of OpenAI's chat API with one choice."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    body = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [choice],
        "usage": usage,
    }
    return 200, body


if __name__ == "__main__":
    seconds = float(sys.argv[1])

    def slow(received: ReceivedRequest) -> Reply:
        time.sleep(seconds)
        return answer(received)

    with serving(slow) as running:
        print(running.url, flush=True)
        sys.stdin.read()  # until the parent closes it
