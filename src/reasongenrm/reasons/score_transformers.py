"""The student on transformers, as a scorer: a prompt is computed once for all of its reasons."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.config.engines import ModelConfig, check_model
from reasongenrm.engines.vllm import keep_freed_memory
from reasongenrm.errors import EngineError, first_line
from reasongenrm.reasons import forward as score_forward
from reasongenrm.reasons import forward as score_shared
from reasongenrm.reasons.score import Group, scored_reason
from reasongenrm.records import ScoredReason

log = logging.getLogger(__name__)


class Student:
    """The untouched student, loaded with transformers, as a scorer.

    A batch is computed in the fastest of three ways that gives this model's own log-probabilities, which is tried out
    on a few tokens when the model is loaded:

    - `shared`: one packed sequence in which each prompt stands once (`score_shared.py`), and only the scored
      positions meet the vocabulary. For full attention, and for sliding windows that no row outgrows.
    - `padded`: one padded row per reason; again only the scored positions meet the vocabulary. For every
      architecture whose logits are a linear map of its last hidden states.
    - `single`: one row at a time through the whole model. For what is left: capped or scaled logits, and rotary
      embeddings that change with the longest row beside them.

    In float32 the ways agree to 1e-5 nats per token whatever the batch; in bfloat16 a token's log-probability moves
    by some hundredths with the shapes of the matrices, as that of any other implementation does.

    Args:
        model: the student.
        encoder: tokenizer and chat template of the reasoning judge.

    Attributes:
        encoder: as given.
        way: `shared`, `padded` or `single`.
        reach: tokens of prompt and reason up to which `shared` is exact (inf but for sliding windows).

    Raises:
        EngineError: the model cannot be loaded.
    """

    def __init__(self, model: ModelConfig, encoder: ChatEncoder) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        check_model(model.path, key="model.path")
        try:
            self._model = AutoModelForCausalLM.from_pretrained(
                model.path,
                revision=model.revision,
                dtype=getattr(torch, model.dtype),
                trust_remote_code=model.trust_remote_code,
                use_safetensors=True,
            )
        except (OSError, ValueError) as error:
            raise EngineError(
                f"cannot load {model.path}: {first_line(error)}", location="model.path"
            ) from None
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if self._device == "cpu":
            keep_freed_memory()
        self._model.to(self._device).eval()
        self.encoder = encoder
        config = self._model.config.get_text_config()
        windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
        self.reach = min((window for window in windows if window), default=math.inf)
        score_shared.register()
        self.way = self._fastest_right_way()

    def score(self, groups: Sequence[Group]) -> list[ScoredReason]:
        """Return mean log-probabilities (nats per token) of reason and verdict for one batch, in its order."""
        rows = [(group, line) for group in groups for line in group.lines]
        if not rows:
            return []
        trees = [
            (group.asked, [(line.ids, line.scored) for line in group.lines])
            for group in groups
            if group.lines
        ]
        way = self.way
        if way == "shared" and max(len(group.asked) + len(line.ids) for group, line in rows) > self.reach:
            way = "padded"
        logprobs = self._logprobs(way, trees)
        return [scored_reason(group, line, part) for (group, line), part in zip(rows, logprobs, strict=True)]

    def _logprobs(self, way: str, trees: Sequence[score_forward.Tree]) -> list[list[float]]:
        import torch

        with torch.inference_mode():
            if way == "shared":
                with self._shared_attention():
                    return score_forward.shared(self._model, trees)
            return {"padded": score_forward.padded, "single": score_forward.single}[way](self._model, trees)

    @contextmanager
    def _shared_attention(self) -> Iterator[None]:
        usual = self._model.config._attn_implementation
        self._model.set_attn_implementation(score_shared.NAME)
        try:
            yield
        finally:
            self._model.set_attn_implementation(usual)

    def _fastest_right_way(self) -> str:
        """Try the ways out on some tokens, against the model as it is."""
        import torch

        rope = getattr(self._model.config.get_text_config(), "rope_parameters", None) or {}
        if any(kind in str(rope) for kind in ("dynamic", "longrope")):
            return "single"
        generator = torch.Generator().manual_seed(0)
        sizes = (13, 6, 9, 7, 3)
        vocabulary = self._model.get_input_embeddings().num_embeddings
        first, *said, alone = (
            torch.randint(3, min(vocabulary, 500), (n,), generator=generator).tolist() for n in sizes
        )
        trees = [
            (first, [(ids, list(range(len(ids)))) for ids in said]),
            (alone, [(said[0], list(range(len(said[0]))))]),
        ]
        expected = [value for row in self._logprobs("single", trees) for value in row]
        close = 1e-4 if self._model.dtype == torch.float32 else 0.1
        for way in ("shared", "padded"):
            try:
                found = [value for row in self._logprobs(way, trees) for value in row]
            except Exception as error:  # whatever a model's own code may raise: the next way asks less of it
                log.info("scoring the %s way does not work: %s", way, first_line(error))
                continue
            if sum(abs(a - b) for a, b in zip(found, expected, strict=True)) / len(found) < close:
                return way
        return "single"
