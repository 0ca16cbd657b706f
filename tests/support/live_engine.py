"""An engine of a few slots that takes requests from a live source while it is held, and whose answers are a hash of the prompt."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager

from reasongenrm.engines.base import Engine, LiveRequest, Request, Withdrawal
from reasongenrm.records import Completion


class LiveEngine(Engine):
    """Completes one request per step, in their order; a server of messages, so that judges need no tokenizer.

    A prompt with the word `dead` ends the call with an error.

    Attributes:
        go_on: completes nothing while it is not set, and takes requests all the same.
        taken, done, withdrawn: ids of requests.
        resets: how often the prefix cache was emptied; the number of requests taken before, each time.
    """

    max_model_len, block = 4096, None

    def __init__(self, slots: int = 1000) -> None:
        self.slots, self.go_on = slots, threading.Event()
        self.go_on.set()
        self.taken: list[str] = []
        self.done: list[str] = []
        self.withdrawn: set[str] = set()
        self.resets: list[int] = []

    def complete_live(
        self, requests: Iterable[LiveRequest], *, adapter: str | None = None
    ) -> Generator[Completion, None, None]:
        source, running = iter(requests), dict[str, Request]()
        while True:
            while len(running) < self.slots and (item := next(source, None)):
                if isinstance(item, Withdrawal):
                    self.withdrawn |= item.ids
                    running = {name: one for name, one in running.items() if name not in item.ids}
                    continue
                assert item.id not in running, "an engine has each id once"
                running[item.id] = item
                self.taken.append(item.id)
            if not running:
                return
            if not self.go_on.wait(0.002):
                continue
            name = next(iter(running))
            request = running.pop(name)
            if "dead" in request.messages[-1]["content"]:
                raise RuntimeError("the engine died")
            self.done.append(name)
            yield answer(request)

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        yield from self.complete_live(requests)

    def reset_prefix_cache(self) -> None:
        self.resets.append(len(self.taken))


@contextmanager
def held(engine: LiveEngine) -> Iterator[None]:
    """Keep an engine from completing what it takes."""
    engine.go_on.clear()
    try:
        yield
    finally:
        engine.go_on.set()


def answer(request: Request) -> Completion:
    """A reason, and a letter that depends on the prompt; prompts with the word `vague` need a rescue."""
    text = request.messages[0]["content"]
    digest = hashlib.sha256(text.encode()).hexdigest()
    closing = f"[[{'AB'[int(digest, 16) % 2]}]]"
    if "[[10]]" in text:
        closing = f"[[{int(digest, 16) % 10 + 1}]]"
    if "vague" in text and not request.id.endswith("#rescue"):
        closing = "neither"
    return Completion(request.id, f"{digest}. {closing}", "stop", prompt_tokens=7)
