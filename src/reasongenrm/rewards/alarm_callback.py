"""`alarm_callback`: a trainer's callback that samples answers to held-out prompts and passes them to a `HackingWatch`.

trainer.add_callback(alarm_callback(watch, trainer, every=20))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from reasongenrm.errors import ConfigError
from reasongenrm.judge.inputs import PromptInput
from reasongenrm.records import unit_hash
from reasongenrm.rewards.alarm import HackingWatch


def alarm_callback(
    watch: HackingWatch,
    trainer: Any,
    *,
    every: int,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    batch_size: int = 32,
    seed: int = 0,
) -> Any:
    """Return a callback for any trainer of TRL or transformers whose model generates.

    It checks before the first step, after every `every` steps, and at the end. The samples depend on the seed and the step alone,
    and torch's generators are put back: a training that is watched samples and learns the same as one that is not. With several
    processes each samples a part of the prompts, and the first one judges and writes. Under ZeRO-3 all processes sample as often, as
    they share the weights: gathered, or one layer after the other where the trainer's `ds3_gather_for_generation` is false.

    Args:
        watch: over the held-out prompts.
        trainer: that the callback will be added to; its model, tokenizer and processes are used.
        every: steps between two checks.
        max_new_tokens: of an answer.
        temperature: of sampling; 0 takes the likeliest token.
        batch_size: prompts per call of the model.
        seed: of the samples.

    Raises:
        ConfigError: `every` is not a positive whole number, `watch` or `trainer` is of another kind, or the trainer uses FSDP.
    """
    from accelerate.utils import broadcast_object_list
    from transformers import TrainerCallback

    _check_arguments(watch, trainer, every)
    sampling: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": temperature > 0}
    if temperature > 0:
        sampling |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}

    class AlarmCallback(TrainerCallback):
        """Checks of a `HackingWatch` during a training."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch.start()
            checked = any(0 < check.step <= state.global_step for check in watch.checks)
            # Only the first process has the checks of an earlier start, and those of an earlier training in this one.
            if not broadcast_object_list([checked])[0]:
                self.check(state)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % every == 0:
                self.check(state)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % every:
                self.check(state)

        def check(self, state: Any) -> None:
            step = state.global_step
            answers = _gathered(trainer, watch.prompts, sampling, batch_size, ("alarm", seed, step))
            if trainer.accelerator.is_main_process:
                last = max(watch.reward_steps(step), default=-1)
                # The history is part of a checkpoint: nothing is lost by a kill.
                logged = [(row["step"], row["reward"]) for row in state.log_history if "reward" in row]
                watch.check(step, answers, rewards=[row for row in logged if row[0] > last])

    return AlarmCallback()


def _check_arguments(watch: Any, trainer: Any, every: Any) -> None:
    """Raise ConfigError for what `alarm_callback` cannot use."""
    if not isinstance(watch, HackingWatch):
        raise ConfigError(
            f"not a HackingWatch, but {type(watch).__name__}", location="watch", hint="make one first"
        )
    if not all(hasattr(trainer, name) for name in ("accelerator", "model", "processing_class")):
        hint = "give the trainer of TRL or transformers that the callback will be added to"
        raise ConfigError(f"not a trainer, but {type(trainer).__name__}", location="trainer", hint=hint)
    if getattr(trainer, "is_fsdp_enabled", False):
        hint = "use DeepSpeed, or sample with a copy of the model and call watch.check yourself"
        raise ConfigError("the alarm cannot sample under FSDP", location="trainer", hint=hint)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        problem = f"{every!r} steps between two checks"
        raise ConfigError(problem, location="every", hint="give a whole number from 1 on")


def _gathered(
    trainer: Any,
    prompts: Sequence[PromptInput],
    sampling: dict[str, Any],
    batch_size: int,
    key: tuple[Any, ...],
) -> list[str]:
    """Return one answer per prompt, in every process."""
    from accelerate.utils import gather_object

    accelerator = trainer.accelerator
    count, first = accelerator.num_processes, accelerator.process_index
    # As many in every process, so that ZeRO-3 can sample all batches in step: the last ones may be prompts of the others.
    own = [i % len(prompts) for i in range(first, -(-len(prompts) // count) * count, count)]
    with _seeded(trainer.model, (*key, first)):
        answers = _sampled(trainer, [prompts[i] for i in own], sampling, batch_size)
    if count == 1:
        return answers
    gathered: list[tuple[int, str]] = gather_object(list(zip(own, answers, strict=True)))
    by_prompt = dict(reversed(gathered))  # the first answer of each
    return [by_prompt[i] for i in range(len(prompts))]


def _sampled(
    trainer: Any, prompts: Sequence[PromptInput], sampling: dict[str, Any], batch_size: int
) -> list[str]:
    import torch
    from trl.models import unwrap_model_for_generation

    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    ids = [_prompt_ids(tokenizer, prompt) for prompt in prompts]
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id or tokenizer.eos_token_id}  # fmt: skip
    answers: list[str] = []
    gather = getattr(trainer.args, "ds3_gather_for_generation", True)
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped, trainer.accelerator, gather_deepspeed3_params=gather
        ) as model,
        torch.no_grad(),
    ):
        training = model.training
        model.eval()
        for start in range(0, len(ids), batch_size):
            batch = ids[start : start + batch_size]
            width = max(map(len, batch))
            padded = [[ends["pad_token_id"]] * (width - len(one)) + one for one in batch]
            mask = [[0] * (width - len(one)) + [1] * len(one) for one in batch]
            rows = model.generate(
                input_ids=torch.tensor(padded, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                **sampling,
                **ends,
            )
            answers += tokenizer.batch_decode(rows[:, width:], skip_special_tokens=True)
        model.train(training)
    return answers


def _prompt_ids(tokenizer: Any, prompt: PromptInput) -> list[int]:
    """Return the ids of a prompt as TRL makes them: messages in the chat template, and a text as it is."""
    if isinstance(prompt, str):
        ids: list[int] = tokenizer(prompt)["input_ids"]
        return ids
    text = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=False)
    chat_ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return chat_ids


@contextmanager
def _seeded(model: Any, key: tuple[Any, ...]) -> Iterator[None]:
    """Seed torch's generators from the key, and put them back at the end."""
    import torch

    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(unit_hash(*key) * 2**62))
        yield
