"""Check the keys of a recipe that pass through to TRL and peft, before any work."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Any, NamedTuple

from reasongenrm.errors import ConfigError
from reasongenrm.train.batches import PER_DEVICE

RESERVED_BY_ALL = dict.fromkeys(
    ("output_dir", "seed", "data_seed", "max_length", "resume_from_checkpoint", "model_init_kwargs"),
    "remove it here",
) | {"trust_remote_code": "set model.trust_remote_code", "report_to": "set train.report_to"}
"""Keys of every trainer that the suite sets itself, each with a hint."""

BREAKS_RESUME = {"save_total_limit": 1, "save_only_model": True}
"""Values with which a kill may leave no checkpoint to resume from: the trainer removes the older checkpoint before the
newer is marked, or saves no optimizer."""

UNSUPPORTED = {"push_to_hub": "upload the judge's folder when it is trained"} | dict.fromkeys(
    ("load_best_model_at_end", "do_eval", "do_predict", "eval_on_start"),
    "training has no held-out rows: stage 3 measures each step",
)
"""Keys that may not be switched on in the training of a judge, each with a hint."""

EXTRA_WEIGHTS = ("use_dora", "use_bdlora", "use_qalora", "lora_bias", "modules_to_save", "target_parameters",
                 "trainable_token_indices", "layer_replication", "alora_invocation_tokens", "kasa_config", "velora_config")  # fmt: skip
"""Keys of an adapter's configuration that add weights, which neither vLLM's adapters nor a merge compute."""

INITS = (True, False, "gaussian", "orthogonal")
"""Values of `init_lora_weights` that leave the base as it is. The others change its weights in memory, or need data: the saved
adapter would belong to a base that no other step has."""

DPO_LOSSES = ("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
              "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm")  # fmt: skip
GRPO_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")
"""Values of `loss_type` that TRL's trainers compute; they find another one only in the first step."""


class Rule(NamedTuple):
    """Values of a key.

    Attributes:
        text: what is allowed.
        allows: whether a value is.
    """

    text: str
    allows: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def one_of(values: tuple[Any, ...]) -> Rule:
    """Return the rule of a key that has one of some values."""
    return Rule(
        "one of " + ", ".join(str(value).lower() for value in values),
        lambda value: any(value == one and type(value) is type(one) for one in values),
    )


def _are_among(value: Any, names: tuple[str, ...]) -> bool:
    return bool(value) and all(one in names for one in (value if isinstance(value, list) else [value]))


WHOLE = Rule("a whole number from 1 on", _is_whole)
INTERVAL = Rule(
    "a number of steps from 1 on, or a share of all steps between 0 and 1",
    lambda value: _is_number(value) and value > 0 and (value < 1 or value == int(value)),
)
POSITIVE = Rule("a number above 0", lambda value: _is_number(value) and value > 0)
NOT_NEGATIVE = Rule("a number from 0 on", lambda value: _is_number(value) and value >= 0)
SHARE = Rule("a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)

RULES: dict[str, Rule] = {
    PER_DEVICE: WHOLE,
    "num_iterations": WHOLE,
    "logging_steps": INTERVAL,
    "save_steps": INTERVAL,
    "save_total_limit": Rule(
        "2 or more, or null for all", lambda value: value in (None, 0) or _is_whole(value)
    ),
    "save_strategy": one_of(("steps", "epoch", "no")),
    "eval_strategy": one_of(("no",)),
    "max_steps": Rule("a whole number from 1 on, or -1", lambda value: _is_whole(value) or value == -1),
    "num_train_epochs": POSITIVE,
    "learning_rate": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "max_grad_norm": NOT_NEGATIVE,
    "scale_rewards": one_of(("group", "batch", "none", True, False)),
}
"""Of the keys of trainers: values that their libraries refuse only when a step has begun, or take without an effect."""

LORA_RULES: dict[str, Rule] = {
    "r": WHOLE,
    "lora_alpha": POSITIVE,
    "lora_dropout": SHARE,
    "init_lora_weights": one_of(INITS),
    "bias": one_of(("none",)),
    "inference_mode": one_of((False,)),
    "peft_type": one_of(("LORA",)),
    "task_type": one_of(("CAUSAL_LM",)),
}
"""Of the keys of a judge's adapter."""

ANY_BIAS = one_of(("none", "all", "lora_only"))
"""Values of an adapter's `bias` that a head may have, as vLLM does not serve its adapter."""


def check_args(
    config: type,
    args: Mapping[str, Any],
    *,
    location: str,
    reserved: Mapping[str, str] | None = None,
    rules: Mapping[str, Rule] = RULES,
) -> None:
    """Check that a config dataclass has the user's keys, and that their values can be used.

    Args:
        config: a dataclass, such as `trl.SFTConfig` or `peft.LoraConfig`.
        args: the user's keys.
        location: dotted key of `args` in the recipe.
        reserved: keys that the suite sets itself, each with a hint.
        rules: values of some keys.

    Raises:
        ConfigError: an unknown key (the closest valid one is named), or a value that cannot be used, or would break a resume.
    """
    valid = {field.name: field for field in fields(config) if field.init}
    for key, value in args.items():
        if reserved and key in reserved:
            problem, hint = f"{key} is set by the suite", reserved[key]
        elif key not in valid:
            close = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)[0]
            problem, hint = f"{config.__name__} has no key {key!r}", f"did you mean {close!r}?"
        elif valid[key].type in (float, "float", int, "int") and not _is_number(value):
            shown = (
                f"{value!r} is text,"
                if isinstance(value, str)
                else "null is"
                if value is None
                else f"{value!r} is"
            )
            problem = f"{shown} not a number"
            hint = "in YAML a number with an exponent needs a dot: 5.0e-5"
        elif (key, value) in BREAKS_RESUME.items():
            problem = f"with {key}={value} a killed run may have no checkpoint to resume from"
            hint = "remove it here; the default is safe"
        elif rule := _broken_rule(valid[key], value, rules):
            problem, hint = f"{value!r} cannot be used", f"give {rule.text}"
            if value is False and rule.allows("no"):
                hint += "; YAML reads a plain no as false: write it in quotes"
        else:
            continue
        raise ConfigError(problem, location=f"{location}.{key}", hint=hint)


def _broken_rule(field: Field[Any], value: Any, rules: Mapping[str, Rule]) -> Rule | None:
    """Return the rule that a value breaks, if there is one: ours, or the choices that the library names."""
    choices = field.metadata.get("choices")
    rule = one_of(tuple(choices)) if choices else rules.get(field.name)
    return rule if rule and not rule.allows(value) else None


def check_judge_args(
    config: type,
    args: Mapping[str, Any],
    *,
    location: str,
    reserved: Mapping[str, str],
    losses: tuple[str, ...] = (),
) -> None:
    """Check the keys of a judge's trainer; see `check_args`.

    Args:
        config, args, location, reserved: see `check_args`.
        losses: values of `loss_type`, of which DPO takes several; empty where the library names them.
    """
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    names = {"lr_scheduler_type": SchedulerType, "optim": OptimizerNames}
    rules = RULES | {key: one_of(tuple(one.value for one in kind)) for key, kind in names.items()}
    if losses:
        rules["loss_type"] = Rule(one_of(losses).text, lambda value: _are_among(value, losses))
    check_args(config, args, location=location, reserved=reserved, rules=rules)
    for key in UNSUPPORTED:
        if args.get(key):
            raise ConfigError(f"{key} cannot be used", location=f"{location}.{key}", hint=UNSUPPORTED[key])


def check_adapter_args(config: type, args: Mapping[str, Any], *, location: str) -> None:
    """Check the keys of a judge's adapter: it has to be one that vLLM serves, on the base as it is on the disk.

    Args:
        config: `peft.LoraConfig`.
        args, location: see `check_args`.

    Raises:
        ConfigError: see `check_args`; or an adapter with more weights than those of LoRA.
    """
    check_args(config, args, location=location, rules=LORA_RULES)
    for key in EXTRA_WEIGHTS:
        if args.get(key):
            problem = f"{key} adds weights to an adapter, which vLLM does not serve"
            hint = "remove it; or train every weight: train.parameters=all 'train.lora={}'"
            raise ConfigError(problem, location=f"{location}.{key}", hint=hint)
