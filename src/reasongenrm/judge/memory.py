"""Ask a judge, and keep its completions in memory: `ask_in_memory`, and `MemoryCalls` for who reads them as they come."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Generic

from reasongenrm.engines.base import Engine, PartialCompletion, Request
from reasongenrm.judge.ask import RESCUE, J, JudgeTask, P
from reasongenrm.records import Completion


class MemoryCalls(Generic[P, J]):
    """All requests of some prompts to one judge, then all rescues; nothing is stored.

    A prompt that occurs twice is asked once.

    Args:
        prompts: in the order of the results.
        task: the requests, and how completions are read.

    Attributes:
        prompt_by_request_id: of every request, without rescues.
        votes: id of each request that is done -> what was read of it, with its rescue once that is done.
    """

    def __init__(self, prompts: Sequence[P], task: JudgeTask[P, J]) -> None:
        self._prompts, self._task = prompts, task
        self._distinct = {prompt.id: prompt for prompt in prompts}
        self.prompt_by_request_id = {
            name: prompt for prompt in self._distinct.values() for name in task.request_ids(prompt)
        }
        self._completions: dict[str, Completion] = {}
        self.votes: dict[str, J] = {}

    def requests(self) -> Iterator[Request]:
        """Yield a request per vote; complete them by `JudgeTask.engine(…)`."""
        return self._task.requests([*self._distinct.values()])

    def read(self, completion: Completion) -> Request | None:
        """Read a completion; return the request for the rescue that it needs."""
        self._completions[completion.id] = completion
        name = completion.id.removesuffix(RESCUE)
        prompt = self.prompt_by_request_id[name]
        if name != completion.id:
            self.votes[name] = self._task.read_rescue(prompt, self.votes[name], completion)
            return None
        self.votes[name] = self._task.read(prompt, completion)
        return self._task.rescue(prompt, completion) if self._task.needs_rescue(self.votes[name]) else None

    def run(
        self, engine: Engine, *, adapter: str | None = None, stream: bool = False
    ) -> Generator[Completion, None, None]:
        """Send everything; yield completions as they are done, rescues under the id of their request.

        With `stream`, partial ones too, of all but rescues. Closing the generator ends the requests in progress.

        Args:
            engine: the engine that holds the base model.
            adapter: the trained LoRA folder, None for the untouched base.
            stream: whether to yield partial completions.
        """
        both_turns = self._task.engine(engine)
        send = both_turns.stream if stream else both_turns.complete
        rescues: dict[str, Request] = {}
        for completion in send(self.requests(), adapter=adapter):
            if not isinstance(completion, PartialCompletion) and (rescue := self.read(completion)):
                rescues[completion.id] = rescue
            yield completion
        if rescues:
            ordered = [rescues[name] for name in self.prompt_by_request_id if name in rescues]
            for completion in engine.complete(ordered, adapter=adapter):
                self.read(completion)
                yield completion

    def results(self) -> list[tuple[J, list[Completion]]]:
        """Return per prompt the judgement of all its votes, and the completions of its votes and rescues.

        Call it when all completions are read.
        """
        task = self._task

        def read_from(prompt: P) -> list[Completion]:
            names = [name + suffix for name in task.request_ids(prompt) for suffix in ("", RESCUE)]
            return [self._completions[name] for name in names if name in self._completions]

        combined = task.combine_all(
            (prompt, [self.votes[name] for name in task.request_ids(prompt)])
            for prompt in self._distinct.values()
        )
        results = {
            prompt.id: (judgement, read_from(prompt))
            for prompt, judgement in zip(self._distinct.values(), combined, strict=True)
        }
        return [results[prompt.id] for prompt in self._prompts]


def ask_in_memory(
    prompts: Sequence[P], engine: Engine, task: JudgeTask[P, J], *, adapter: str | None = None
) -> list[tuple[J, list[Completion]]]:
    """Send all requests of `MemoryCalls`, and return their results.

    Args:
        prompts: in the order of the results.
        engine: the engine that holds the base model.
        task: the requests, and how completions are read.
        adapter: the trained LoRA folder, None for the untouched base.
    """
    calls = MemoryCalls(prompts, task)
    for _ in calls.run(engine, adapter=adapter):
        pass
    return calls.results()
