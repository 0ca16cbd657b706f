"""`alarm_callback`: a trainer's callback that samples answers to held-out prompts and passes them to a `HackingWatch`.

trainer.add_callback(alarm_callback(watch, trainer, every=20))
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from reasongenrm import errors
from reasongenrm.errors import ConfigError, ReasonGenRMError, first_line
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
    and the generators of Python, numpy and torch are put back: a training that is watched samples and learns the same as one that is
    not, and one that was killed has the same checks in the end. With several processes each samples a part of the prompts, and the
    first one judges and writes; if that fails, all of them raise its error. Under ZeRO-3 all processes sample as often, as they share
    the weights: gathered, or one layer after the other where the trainer's `ds3_gather_for_generation` is false.

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

        last_step = -1

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch.start()
            step = state.global_step
            # A checkpoint between two checks needs none of its own; where the last one is missing, the alarm is new.
            checked = step > 0 and any(step - step % every <= check.step <= step for check in watch.checks)
            # Only the first process has the checks of an earlier start, and those of an earlier training in this one.
            if not broadcast_object_list([checked])[0]:
                self.check(state)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # The last step, too, before its checkpoint: a training that continues from there trains a step more (transformers).
            if state.global_step % every == 0 or state.global_step >= state.max_steps:
                self.check(state)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step != self.last_step:  # it was stopped earlier
                self.check(state)

        def check(self, state: Any) -> None:
            step = state.global_step
            with _seeded(trainer.model, ("alarm", seed, step, trainer.accelerator.process_index)):
                answers = _gathered(trainer, watch.prompts, sampling, batch_size)
                failure: Exception | None = None
                if trainer.accelerator.is_main_process:
                    try:
                        self.judge(state, answers)
                    except Exception as error:
                        failure = error
                # The others would wait for the first process at the next step, until the launcher ends them.
                [fields] = broadcast_object_list([failure and _fields(failure)])
            if failure is not None:
                raise failure
            if fields is not None:
                kind, texts = fields
                raise getattr(errors, kind)(**texts)
            self.last_step = step

        def judge(self, state: Any, answers: Sequence[str]) -> None:
            last = max(watch.reward_steps(state.global_step), default=-1)
            # The history is part of a checkpoint: nothing is lost by a kill.
            logged = [(row["step"], row["reward"]) for row in state.log_history if "reward" in row]
            watch.check(state.global_step, answers, rewards=[row for row in logged if row[0] > last])

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


def _fields(error: Exception) -> tuple[str, dict[str, str]]:
    """Return an error as what another process can raise: the name of its class in `errors`, and its arguments."""
    if isinstance(error, ReasonGenRMError):
        kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__]
        return kinds[0], {name: getattr(error, name) for name in ("problem", "location", "hint")}
    problem = f"the first process failed in a check: {type(error).__name__}: {first_line(error)}"
    return "EngineError", {"problem": problem, "location": "alarm", "hint": "see its log"}


def _gathered(
    trainer: Any, prompts: Sequence[PromptInput], sampling: dict[str, Any], batch_size: int
) -> list[str]:
    """Return one answer per prompt, in every process."""
    from accelerate.utils import gather_object

    accelerator = trainer.accelerator
    count, first = accelerator.num_processes, accelerator.process_index
    # As many in every process, so that ZeRO-3 can sample all batches in step: the last ones may be prompts of the others.
    own = [i % len(prompts) for i in range(first, -(-len(prompts) // count) * count, count)]
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
    """Seed the generators of Python, numpy and torch from the key, and put them back at the end."""
    import numpy as np
    import torch

    device = next(model.parameters()).device
    seed = int(unit_hash(*key) * 2**62)
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
