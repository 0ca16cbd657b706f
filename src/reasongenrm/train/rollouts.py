"""Sample completions of a judge in two turns: the reason, then the header, which is not sampled, and the letter of the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.verdict import VerdictTokens
from reasongenrm.records import Completion, unit_hash


@dataclass(frozen=True)
class TwoTurns:
    """The ids of a judge's completion, and which of them it writes itself.

    Attributes:
        tokens: of the judge's verdict.
        max_tokens: limit of a reason.
    """

    tokens: VerdictTokens
    max_tokens: int

    @classmethod
    def from_encoder(cls, encoder: ChatEncoder, max_tokens: int) -> TwoTurns:
        """Find the ids in an encoder's tokenizer."""
        return cls(VerdictTokens.from_encoder(encoder), max_tokens)

    @cached_property
    def before(self) -> tuple[int, ...]:
        """Ids between the end of a reason and the letter."""
        return (*self.tokens.header[len(self.tokens.reason_end) :], *self.tokens.opening)

    @cached_property
    def after(self) -> tuple[int, ...]:
        """Ids after the letter."""
        return (*self.tokens.closing, self.tokens.end)

    @cached_property
    def stops(self) -> tuple[int, ...]:
        """Ids at which the first turn ends."""
        return tuple(dict.fromkeys((self.tokens.reason_end[-1], self.tokens.end)))

    @property
    def longest(self) -> int:
        """Tokens of the longest completion."""
        return self.max_tokens + len(self.before) + 1 + len(self.after)

    def ends_reason(self, ids: Sequence[int]) -> bool:
        """Whether a first turn ended as a reason does, so that a verdict follows."""
        return tuple(ids[-len(self.tokens.reason_end) :]) == self.tokens.reason_end

    def join(
        self, key: str, reason: Sequence[int], letter: int | None, logprobs: dict[int, float]
    ) -> Rollout:
        """Return both turns as one completion.

        Args:
            key: the completion's id.
            reason: ids of the first turn.
            letter: the id sampled for the verdict; None where no reason ended.
            logprobs: log-probabilities of both letters there.
        """
        if letter is None:
            finish = "stop" if reason[-1] in self.stops else "length"
            return Rollout(Completion(key, "", finish, tuple(reason)), (1,) * len(reason))
        # What was sampled for the letter may be no letter: then nothing follows it.
        after = self.after if letter in self.tokens.letters else ()
        ids = (*reason, *self.before, letter, *after)
        written = (1,) * len(reason) + (0,) * len(self.before) + (1,) + (0,) * len(after)
        place = len(reason) + len(self.before)
        return Rollout(Completion(key, "", "stop", ids, {place: logprobs}), written)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A sampled completion.

    Attributes:
        completion: its ids, and the log-probabilities of both letters at the verdict's letter.
        written: 1 for an id that the judge sampled, 0 for one of the template.
        logprobs: of every id, as the sampler computed them; None where the trainer computes them itself.
    """

    completion: Completion
    written: tuple[int, ...]
    logprobs: tuple[float, ...] | None = None


class Sampler(Protocol):
    """Samples completions from the weights that are trained."""

    def sample(self, trainer: Any, prompts: Sequence[Sequence[int]], keys: Sequence[str]) -> list[Rollout]:
        """Return one completion per prompt.

        Args:
            trainer: TRL's.
            prompts: ids of each; equal ones follow each other.
            keys: of the noise: equal keys and weights give equal samples.
        """
        ...


class GenerateSampler:
    """Samples with transformers, on any device.

    A sample depends on the weights, its prompt and its key, and not on the other rows of a batch or the number of processes:
    each token is drawn with a uniform number of its own, where it falls in the cumulative distribution.

    Args:
        turns: of the judge.
        temperature: of sampling; 0 is greedy.
    """

    def __init__(self, turns: TwoTurns, temperature: float) -> None:
        self.turns, self.temperature = turns, temperature

    def sample(self, trainer: Any, prompts: Sequence[Sequence[int]], keys: Sequence[str]) -> list[Rollout]:
        """Return one completion per prompt (see `Sampler`)."""
        from trl.models import unwrap_model_for_generation

        args = trainer.args
        with unwrap_model_for_generation(
            trainer.model_wrapped, trainer.accelerator, gather_deepspeed3_params=args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
        ) as model:  # fmt: skip
            return self.complete(model, prompts, keys, pad=trainer.processing_class.pad_token_id)

    def complete(
        self, model: Any, prompts: Sequence[Sequence[int]], keys: Sequence[str], *, pad: int
    ) -> list[Rollout]:
        """Return one completion of a peft model per prompt.

        Args:
            model: the policy.
            prompts, keys: see `Sampler`.
            pad: id with which prompts are padded.
        """
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        device, training = model.device, model.training
        # An id that is never sampled: None would be replaced by the model's own, which ends the reason's turn, too.
        never = model.config.get_text_config().vocab_size
        config = GenerationConfig(
            max_new_tokens=self.turns.longest, do_sample=False, pad_token_id=pad, eos_token_id=never, disable_compile=True
        )  # fmt: skip
        noise = torch.stack([_uniforms(key, self.turns.max_tokens + 1) for key in keys]).to(device)
        state = _Decoding(self.turns, self.temperature, noise, pad)
        model.eval()
        try:
            with merged_weights(model), torch.inference_mode():
                ids, mask, cache = _prefill(model, prompts, pad)
                model.generate(
                    input_ids=ids, attention_mask=mask, past_key_values=cache, generation_config=config,
                    logits_processor=LogitsProcessorList([state]), stopping_criteria=StoppingCriteriaList([state.stop]),
                )  # fmt: skip
        finally:
            model.train(training)
        return [
            self.turns.join(key, reason, letter, logprobs)
            for key, (reason, letter, logprobs) in zip(keys, state.results(), strict=True)
        ]


def _uniforms(key: str, count: int) -> Any:
    """Return `count` numbers in [0, 1) that depend on the key alone."""
    import torch

    generator = torch.Generator().manual_seed(int(unit_hash(key) * 2**53))
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _prefill(model: Any, prompts: Sequence[Sequence[int]], pad: int) -> tuple[Any, Any, Any]:
    """Return left-padded ids, mask and cache of prompts; the cache of equal prompts is computed once."""
    import torch
    from transformers import DynamicCache

    distinct: list[Sequence[int]] = []
    numbers = []
    for prompt in prompts:
        if not distinct or prompt != distinct[-1]:
            distinct.append(prompt)
        numbers.append(len(distinct) - 1)
    width = max(map(len, distinct))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in distinct])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in distinct])
    ids, mask = ids.to(model.device), mask.to(model.device)
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, :-1]
    # All but the last token, which `generate` needs for its first step.
    model(
        input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions, past_key_values=cache,
        use_cache=True, logits_to_keep=1,
    )  # fmt: skip
    rows = torch.tensor(numbers, device=model.device)
    cache.batch_select_indices(rows)
    return ids[rows], mask[rows], cache


class _Decoding:
    """The state of a batch while it is decoded: chooses every token, for `generate` to take as the likeliest.

    A row writes its reason, is given the ids between reason and verdict one by one, and writes the letter.
    """

    def __init__(self, turns: TwoTurns, temperature: float, noise: Any, pad: int) -> None:
        import torch

        self._turns, self._temperature, self._noise, self._pad = turns, temperature, noise, pad
        rows, device = len(noise), noise.device
        self._before = torch.tensor(turns.before, device=device)
        self._stops = torch.tensor(turns.stops, device=device)
        self._end = torch.tensor(turns.tokens.reason_end, device=device)
        self._letters = torch.tensor(turns.tokens.letters, device=device)
        self._given = torch.full(
            (rows,), -1, device=device
        )  # ids given so far; -1 while the reason is written
        self._lengths = torch.zeros(rows, dtype=torch.long, device=device)  # of the reasons
        self._done = torch.zeros(rows, dtype=torch.bool, device=device)
        self._letter = torch.full((rows,), -1, device=device)
        self._logprobs = torch.zeros(rows, len(turns.tokens.letters), device=device)
        self._chosen: list[Any] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return scores with one finite value per row, that of the chosen id."""
        import torch

        scores = scores.float()
        writing = self._given < 0
        at_letter = ~self._done & (self._given == len(self._before))
        uniform = self._noise.gather(1, torch.where(writing, self._lengths, self._turns.max_tokens)[:, None])
        chosen = _draw(scores, uniform, self._temperature)
        given = self._before[self._given.clamp(0, len(self._before) - 1)]
        chosen = torch.where(writing | at_letter, chosen, given)
        chosen = torch.where(self._done, self._pad, chosen)
        if bool(at_letter.any()):
            self._letter = torch.where(at_letter, chosen, self._letter)
            values = torch.log_softmax(scores, -1)[:, self._letters]
            self._logprobs = torch.where(at_letter[:, None], values, self._logprobs)
        self._chosen.append(chosen)
        self._advance(writing, at_letter, chosen)
        forced = torch.full_like(scores, -torch.inf)
        return forced.scatter_(1, chosen[:, None], 0.0)

    def _advance(self, writing: Any, at_letter: Any, chosen: Any) -> None:
        """Move every row on by its chosen id."""
        import torch

        self._given = torch.where(writing | self._done, self._given, self._given + 1)
        writing = writing & ~self._done
        self._lengths = self._lengths + writing
        stopped = writing & torch.isin(chosen, self._stops)
        if bool(stopped.any()):
            recent = torch.stack(self._chosen[-len(self._end) :], 1)
            whole = self._lengths >= len(self._end)
            ended = (
                stopped & whole & (recent == self._end).all(1)
                if recent.shape[1] == len(self._end)
                else stopped & False
            )
            self._given = torch.where(ended, 0, self._given)
            self._done = self._done | (stopped & ~ended)
        still = writing & (self._given < 0)
        self._done = self._done | at_letter | (still & (self._lengths >= self._turns.max_tokens))

    def stop(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Return which rows are done (a stopping criterion of transformers)."""
        return self._done

    def results(self) -> Iterator[tuple[list[int], int | None, dict[int, float]]]:
        """Yield the reason's ids, the letter and both letters' log-probabilities of every row."""
        import torch

        chosen = torch.stack(self._chosen, 1).tolist()
        for ids, length, letter, logprobs in zip(
            chosen, self._lengths.tolist(), self._letter.tolist(), self._logprobs.tolist(), strict=True
        ):
            named = dict(zip(self._turns.tokens.letters, logprobs, strict=True))
            yield ids[:length], (None if letter < 0 else letter), named


def _draw(scores: Any, uniform: Any, temperature: float) -> Any:
    """Return for every row the id at which the cumulative probability exceeds a uniform number.

    Args:
        scores: logits (rows, vocabulary).
        uniform: (rows, 1), in [0, 1).
        temperature: 0 is greedy.
    """
    import torch

    if not temperature:
        return scores.argmax(-1)
    cumulative = torch.softmax(scores.double() / temperature, -1).cumsum(-1)
    # Rounding may leave the last value below 1: the number is scaled to it.
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0].clamp(
        max=scores.shape[1] - 1
    )


@contextmanager
def merged_weights(model: Any) -> Iterator[None]:
    """Compute with W + BA in place of W and BA apart, which is faster; the weights are exactly restored afterwards.

    Only where the sum is exact enough, in float32: in bfloat16 it would lose small changes. Quantised weights, and those
    that ZeRO-3 has divided, are left alone, too.
    """
    import torch
    from peft.tuners.lora import Linear

    layers = [module for module in model.modules() if isinstance(module, Linear)]
    weights = [layer.get_base_layer().weight for layer in layers]
    if not layers or any(w.dtype != torch.float32 or hasattr(w, "ds_id") for w in weights):
        yield
        return
    saved = [weight.data for weight in weights]
    try:
        with torch.no_grad():
            for layer, weight in zip(layers, weights, strict=True):
                weight.data = weight.data + sum(
                    layer.get_delta_weight(name) for name in layer.active_adapters
                )
        with model.disable_adapter():
            yield
    finally:
        for weight, data in zip(weights, saved, strict=True):
            weight.data = data
