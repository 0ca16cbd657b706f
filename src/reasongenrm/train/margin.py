"""Verdict margin: a hinge loss that pushes the right letter of a verdict above every other one by `gamma` logits.

After CompassJudger-2 (Zhang et al., 2025, https://arxiv.org/abs/2507.09104), which adds a margin at the verdict's token to the
loss of SFT, over the ten highest logits there; here it is over the other letters of the grammar. TRL's SFTTrainer builds no
logits: they are computed here for the letters alone, at the places of the verdicts, from the hidden states of the same forward
pass.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from reasongenrm.chat.encoder import ChatEncoder, judge_encoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.chat.verdict import VerdictTokens
from reasongenrm.config.recipe import LISTWISE, Recipe, TrainStep
from reasongenrm.config.steps import MarginConfig
from reasongenrm.errors import ConfigError

_LOGIT_FACTORS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)
"""Keys of a model's config by which its logits are more than a product with the LM head."""


@dataclass(frozen=True, slots=True)
class VerdictPattern:
    """Token ids of a verdict turn that a judge ended.

    Attributes:
        before: ids between the reason and the letter; under a verdict-only template, ids of the verdict before the letter.
        letters: ids of the letters, in the order of the grammar.
        after: ids from the letter to the end of the turn, with its marker.
    """

    before: tuple[int, ...]
    letters: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def from_tokens(cls, encoder: ChatEncoder, tokens: VerdictTokens) -> VerdictPattern:
        """Return the pattern of the records that an encoder writes."""
        header = tokens.header if encoder.reasons_first else ()
        return cls((*header, *tokens.opening), tokens.letters, (*tokens.closing, tokens.end))


def verdict_pattern(recipe: Recipe, step: TrainStep, tokenizer: Any) -> VerdictPattern:
    """Return the pattern of a step's records; those of lists have eight letters.

    Raises:
        ConfigError: the verdicts do not differ in one token of the tokenizer.
    """
    template = recipe.judges[step.judge].template
    encoder = judge_encoder(recipe, template, tokenizer)
    verdicts = PromptFile.load(recipe.prompts).list_verdicts() if template in LISTWISE else None
    return VerdictPattern.from_tokens(encoder, VerdictTokens.from_encoder(encoder, verdicts))


def find_verdicts(ids: Any, labels: Any, pattern: VerdictPattern) -> tuple[Any, Any, Any]:
    """Find the verdicts among the learned tokens.

    Judged text cannot contain the marker that ends a turn, and prompts are not learned, so a verdict that is quoted anywhere is not
    found. It does not matter whether records are packed, and records of general data have none.

    Args:
        ids: token ids (rows, tokens).
        labels: the same ids where they are learned, and -100 elsewhere (rows, tokens).
        pattern: of the verdicts.

    Returns:
        Row and place of each verdict's letter, and the index of the letter in the grammar, each of shape (verdicts,).
    """
    before, size = len(pattern.before), len(pattern.before) + 1 + len(pattern.after)
    if ids.shape[1] < size:
        none = ids.new_zeros(0)
        return none, none, none
    windows, fixed = ids.unfold(1, size, 1), ids.new_tensor([*pattern.before, 0, *pattern.after])
    matches = windows == fixed
    matches[..., before] = True
    is_letter = windows[..., before].unsqueeze(-1) == ids.new_tensor(pattern.letters)
    found = matches.all(-1) & is_letter.any(-1) & (labels.unfold(1, size, 1) != -100).all(-1)
    rows, starts = found.nonzero(as_tuple=True)
    return rows, starts + before, is_letter[found].int().argmax(-1)


def verdict_gaps(logits: Any, right: Any) -> Any:
    """Return the logits by which right letters exceed the highest wrong one (verdicts,); a negative one is a wrong verdict.

    Args:
        logits: of the grammar's letters, at the letters' places (verdicts, letters).
        right: index of the right letter (verdicts,).
    """
    own = right.unsqueeze(-1)
    wrong = logits.scatter(-1, own, float("-inf")).amax(-1)
    return logits.gather(-1, own).squeeze(-1) - wrong


def hinge(gaps: Any, gamma: float) -> Any:
    """Return max(0, gamma - gap) of each gap."""
    return (gamma - gaps).clamp(min=0)


def check_logits(config: Any) -> None:
    """Check that a model's logits are a plain product with its LM head.

    Args:
        config: the model's text config.

    Raises:
        ConfigError: the model scales or caps its logits.
    """
    for key in _LOGIT_FACTORS:
        if getattr(config, key, None) not in (None, 1.0):
            raise ConfigError(
                f"the model changes its logits ({key} in its config.json)",
                location="train.margin",
                hint="set it to null, or take another model",
            )


class VerdictHead:
    """Logits of the letters at the verdicts of each training pass, beside TRL's fused LM head.

    They are computed inside the model's forward: there ZeRO-3 can gather the weights of the LM head.

    Args:
        model: a causal language model of transformers, without the adapter's wrapper; its `forward` is replaced.
        pattern: of the verdicts.

    Attributes:
        logits: of the last pass (verdicts, letters), float32.
        right: index of each verdict's right letter (verdicts,).

    Raises:
        ConfigError: see `check_logits`.
    """

    def __init__(self, model: Any, pattern: VerdictPattern) -> None:
        check_logits(model.config.get_text_config())
        self.logits: Any = None
        self.right: Any = None
        self._model, self._pattern, self._hidden = model, pattern, None
        model.base_model.register_forward_hook(self._keep_hidden)
        fused = model.forward

        @functools.wraps(fused)
        def forward(*args: Any, **inputs: Any) -> Any:
            outputs = fused(*args, **inputs)
            hidden, self._hidden = self._hidden, None
            if model.training and inputs.get("labels") is not None:
                self._compute(hidden, inputs["input_ids"], inputs["labels"])
            return outputs

        model.forward = forward

    def _keep_hidden(self, backbone: Any, inputs: Any, output: Any) -> None:
        self._hidden = output.last_hidden_state

    def _compute(self, hidden: Any, ids: Any, labels: Any) -> None:
        from torch.nn.functional import linear
        from trl.trainer.utils import maybe_gather_lm_head_ctx

        rows, places, self.right = find_verdicts(ids, labels, self._pattern)
        head, letters = self._model.get_output_embeddings(), ids.new_tensor(self._pattern.letters)
        # Also of a pass without verdicts: under ZeRO-3 all processes gather together.
        with maybe_gather_lm_head_ctx(head.weight, head.bias):
            weight = head.weight[letters].float()
            bias = None if head.bias is None else head.bias[letters].float()
        # The token before a letter predicts it.
        self.logits = linear(hidden[rows, places - 1].float(), weight, bias)


def margin_trainer(trainer_class: type, config: MarginConfig, pattern: VerdictPattern) -> Any:
    """Return a subclass of an SFTTrainer that adds the mean hinge of the verdicts of a step, times its weight, to the loss.

    The mean is over the verdicts of all passes and processes of the step, as TRL's loss is one over their learned tokens: on any
    number of processes it is the same. The log gets `margin`, the mean gap in logits, and `margin_loss`, the mean hinge.

    Args:
        trainer_class: `trl.SFTTrainer`, or a subclass.
        config: gamma and weight.
        pattern: of the verdicts.

    Raises:
        ConfigError: when a trainer is made: no record has a verdict, or see `check_logits`.
    """
    import torch

    class MarginTrainer(trainer_class):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            if not any(map(self._has_verdict, self.train_dataset)):
                raise ConfigError(
                    "no record ends in a verdict",
                    location="train.margin",
                    hint="compare the column `response` of the records with `verdict` in the prompt file",
                )
            base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
            self._head, self._verdicts, self._passes = VerdictHead(base, pattern), 0, 1

        @staticmethod
        def _has_verdict(row: dict[str, Any]) -> bool:
            ids, labels = (torch.tensor([row[name]]) for name in ("input_ids", "labels"))
            return len(find_verdicts(ids, labels, pattern)[0]) > 0

        def get_batch_samples(
            self, epoch_iterator: Any, num_batches: int, device: Any
        ) -> tuple[list[Any], Any]:
            samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
            found = (find_verdicts(one["input_ids"], one["labels"], pattern)[0] for one in samples)
            verdicts = torch.tensor(sum(map(len, found)), device=device)
            self._verdicts = int(self.accelerator.reduce(verdicts, "sum"))
            self._passes = len(samples)
            return samples, items

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if return_outputs or not self.model.training:
                return result
            gaps = verdict_gaps(self._head.logits, self._head.right)
            cost = hinge(gaps, config.gamma).sum()
            if self._verdicts:
                self._log_margin(torch.stack([gaps.sum(), cost]).detach())
            # DDP and ZeRO average the gradients of the processes.
            return result + config.weight * cost * self.accelerator.num_processes / max(1, self._verdicts)

        def _log_margin(self, sums: Any) -> None:
            """Log the sums of a pass so that the mean over the passes of a step is the mean over its verdicts."""
            shares = self.accelerator.reduce(sums, "sum") * self._passes / self._verdicts
            for name, value in zip(("margin", "margin_loss"), shares.tolist(), strict=True):
                self._metrics["train"][name].append(value)

    return MarginTrainer
