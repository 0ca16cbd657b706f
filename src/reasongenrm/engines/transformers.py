"""Plain transformers as an engine: `generate` with a seeded generator per request; needs no vLLM.

For a few hundred answers on any machine that runs torch. It has no continuous batching, so vLLM is several times as fast on many.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from reasongenrm.checkpoints import load_checkpoint
from reasongenrm.config.engines import ModelConfig, check_model
from reasongenrm.config.scalar import TransformersConfig
from reasongenrm.engines.base import Engine, Request
from reasongenrm.errors import EngineError, first_line
from reasongenrm.records import Completion


class TransformersEngine(Engine):
    """Completions of prompts by `generate`; a causal language model on a GPU if there is one, else on the CPU.

    A request is sampled from its own generator, seeded by `Request.seed`: with a batch of one, its completion is a function of
    the request alone. In larger batches the padding changes the probabilities by rounding (about 1e-6 in float32), so that
    few samples differ.

    Requests have no `allowed` or `logprob_token_ids`, and no adapter is served: an `AnswerModel` needs neither.

    Args:
        model: hub id or folder, its type of weights.
        config: batch size and context.

    Attributes:
        block: requests of one batch.

    Raises:
        EngineError: the model cannot be loaded.
    """

    def __init__(self, model: ModelConfig, config: TransformersConfig) -> None:
        check_model(model.path, key="model.path")
        import torch
        from transformers import GenerationConfig

        options: dict[str, Any] = dict(
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            permission="model.trust_remote_code",
        )
        try:
            self._tokenizer = load_checkpoint("AutoTokenizer", model.path, **options)
            self._model = load_checkpoint(
                "AutoModelForCausalLM", model.path, dtype=getattr(torch, model.dtype), **options
            )
        except EngineError:
            raise
        except Exception as error:  # transformers, safetensors and torch raise their own kinds
            raise EngineError(
                f"transformers cannot load {model.path}: {first_line(error)}",
                location="model",
                hint="check model.path, model.revision and the network",
            ) from error
        self._model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        ends = self._model.generation_config.eos_token_id
        self._ends = {*(ends if isinstance(ends, list) else [ends]), self._tokenizer.eos_token_id} - {None}
        # Recommended samplers, such as a repetition penalty, are not those of the request.
        self._model.generation_config = GenerationConfig()
        self.max_model_len = config.max_model_len
        self.block: int = config.batch_size

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield completions batch by batch, in the order of the requests."""
        assert adapter is None
        source = iter(requests)
        while batch := list(islice(source, self.block)):
            yield from self._complete_batch(batch)

    def _complete_batch(self, requests: Sequence[Request]) -> list[Completion]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        assert not any(one.allowed or one.logprob_token_ids or one.ignore_eos for one in requests)
        width = max(len(one.prompt_ids) for one in requests)
        pad = min(self._ends, default=0)  # hidden by the mask
        padded = [[pad] * (width - len(one.prompt_ids)) + [*one.prompt_ids] for one in requests]
        mask = [[0] * (width - len(one.prompt_ids)) + [1] * len(one.prompt_ids) for one in requests]
        device = self._model.device
        rows = [_Row(one, self._ends, self._tokenizer) for one in requests]
        settings = GenerationConfig(
            do_sample=False,  # `_sampler` adds the noise
            max_new_tokens=max(one.max_tokens for one in requests),
            pad_token_id=pad,
        )
        with torch.inference_mode():
            ids = self._model.generate(
                torch.tensor(padded, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([_sampler(requests)]),
                stopping_criteria=StoppingCriteriaList([_stopper(rows, width)]),
            )
        return [row.completion(new) for row, new in zip(rows, ids[:, width:].tolist(), strict=True)]

    def close(self) -> None:
        """Free the model."""
        import torch

        del self._model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@dataclass
class _Row:
    """A request in a batch, and when it ends.

    Attributes:
        request: the request.
        ends: token ids of the model that end a completion.
        tokenizer: decodes the text.
        length: tokens of the completion; None while it is growing.
        reason: why it ended.
    """

    request: Request
    ends: set[int]
    tokenizer: Any
    length: int | None = None
    reason: str = "length"

    def finished(self, tokens: Sequence[int]) -> bool:
        """Return whether the completion ends with the last of these tokens, or did before."""
        if self.length is None:
            if tokens[-1] in self.ends or tokens[-1] in self.request.stop_ids or self._stops(tokens):
                self.length, self.reason = len(tokens), "stop"
            elif len(tokens) >= self.request.max_tokens:
                self.length = len(tokens)
        return self.length is not None

    def _stops(self, tokens: Sequence[int]) -> bool:
        if not self.request.stop:
            return False
        text = self.tokenizer.decode(tokens)
        return any(stop in text for stop in self.request.stop)

    def completion(self, tokens: Sequence[int]) -> Completion:
        """Return the completion; what follows its end is padding."""
        own = tuple(tokens[: self.length])
        size = len(self.request.prompt_ids)
        return Completion(self.request.id, self.tokenizer.decode(own), self.reason, own, prompt_tokens=size)


def _sampler(requests: Sequence[Request]) -> Any:
    """Return a logits processor whose highest value per row is a sample of the request's distribution.

    Gumbel-max: argmax(log p + g) with g = -log(-log u) is a sample of p (E. J. Gumbel, "Statistical Theory of Extreme Values",
    1954; C. J. Maddison et al., arXiv:1411.0030). u comes from the row's own generator, on the CPU, so that devices agree.
    """
    import torch
    from transformers import LogitsProcessor, TopPLogitsWarper

    generators = [torch.Generator().manual_seed(one.seed or 0) for one in requests]

    class Sampler(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            scores = scores.float()
            rows = []
            for request, generator, row in zip(requests, generators, scores, strict=True):
                if request.temperature > 0:
                    row = row / request.temperature
                    if request.top_p < 1:
                        row = TopPLogitsWarper(request.top_p)(None, row[None])[0]
                    uniform = torch.rand(row.shape, generator=generator, dtype=torch.float64)
                    noise = -(-uniform.clamp_min(1e-300).log()).log()
                    row = row.double() + noise.to(row.device)
                rows.append(row.double())
            return torch.stack(rows)

    return Sampler()


def _stopper(rows: Sequence[_Row], width: int) -> Any:
    """Return a stopping criterion that asks each row.

    Args:
        rows: of the batch.
        width: of the prompts, padded.
    """
    import torch
    from transformers import StoppingCriteria

    class Stopper(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            new = input_ids[:, width:].tolist()
            done = [row.finished(tokens) for row, tokens in zip(rows, new, strict=True)]
            return torch.tensor(done, device=input_ids.device)

    return Stopper()
