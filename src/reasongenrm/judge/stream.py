"""Stream one comparison: the reasons in both orders as they are written, then the result."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace

from reasongenrm.config.rubric import Rubric
from reasongenrm.engines.base import PartialCompletion
from reasongenrm.judge.api import Judge
from reasongenrm.judge.ask import RESCUE
from reasongenrm.judge.inputs import PromptInput, with_rubric
from reasongenrm.judge.memory import MemoryCalls
from reasongenrm.judge.sharing import PairwiseJudge, SharedJudge
from reasongenrm.records import Comparison, Order, Verdict


@dataclass(frozen=True, slots=True)
class StreamedText:
    """One request of a comparison while it is answered.

    Attributes:
        order: `AB` where the caller's first answer is shown as A.
        vote: its number, from 1.
        criterion: the criterion that is judged alone; empty without a rubric.
        text: the reason so far; empty before the first token, and of a judge that writes none.
        verdict: what was read of the whole answer, with its letters in this order; None while it is written. It may change
            once: an answer that cannot be read (`outcome` unparsed or truncated) gets the verdict of its rescue.
    """

    order: Order
    vote: int
    criterion: str = ""
    text: str = ""
    verdict: Verdict | None = None


StreamedTexts = tuple[StreamedText, ...]
"""All requests of a comparison at one moment: by criterion, then order AB before BA, then by vote."""


def stream_comparison(
    judge: PairwiseJudge, prompt: PromptInput, a: str, b: str, *, rubric: Rubric | None = None
) -> Generator[StreamedTexts | Comparison, None, None]:
    """Yield the state of all requests whenever one of them has more text, and last the comparison.

    The comparison is that of `Judge.compare`: it sends the same requests and rescues, with the same seeds. The first state
    is empty, so that a page has its columns at once. Closing the generator ends the requests in progress.

    Partial texts come from vLLM in this process, OpenAI-compatible servers, and Anthropic's single calls. Batches and workers
    give whole answers. A `RemoteJudge` or a `SharedJudge`, whose engine is in other hands, gives the comparison alone.

    for state in stream_comparison(judge, "What is 2 + 2?", "4", "5"):
        if isinstance(state, Comparison): print(state.winner)
        else: print(*(f"{text.order}: {text.text}" for text in state), sep="\\n")

    Raises:
        ConfigError, DataError: see `Judge.compare`.
        EngineError: the engine or its servers fail.
    """
    row = with_rubric((prompt, a, b), rubric)
    if not isinstance(judge, Judge) or isinstance(judge, SharedJudge):
        yield next(judge.compare_many([row]))
        return
    batch = judge.comparison_batch([(0, row)])
    calls = MemoryCalls(batch.prompts, judge.task)
    texts = {
        name: StreamedText(prompt.pair_order, vote, criterion)
        for prompt, criterion in sorted(
            zip(batch.prompts, batch.criteria, strict=True),
            key=lambda pair: (batch.criteria.index(pair[1]), pair[0].pair_order),
        )
        for vote, name in enumerate(judge.task.request_ids(prompt), 1)
    }
    yield (state := tuple(texts.values()))
    with closing(calls.run(judge.engine, adapter=judge.adapter, stream=True)) as completions:
        for completion in completions:
            name = completion.id.removesuffix(RESCUE)
            if isinstance(completion, PartialCompletion):
                # Read like a whole answer that ran out of tokens: the same text that the verdict has in the end.
                partial = judge.task.read(calls.prompt_by_request_id[name], completion)
                whole = partial.reason.rstrip(
                    "\ufffd"
                )  # without a character whose last bytes are not there yet
                texts[name] = replace(texts[name], text=whole)
            else:
                verdict = calls.votes[name]
                texts[name] = replace(texts[name], text=verdict.reason, verdict=verdict)
            if (new := tuple(texts.values())) != state:
                yield (state := new)
    yield next(batch.comparisons(calls.results()))
