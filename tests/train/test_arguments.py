"""Keys that pass through to TRL and peft: a value that no trainer can use is named before any work."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.loading import load_recipe
from reasongenrm.errors import ConfigError
from reasongenrm.train.arguments import DPO_LOSSES, GRPO_LOSSES, INITS
from reasongenrm.train.process import check_training

pytestmark = pytest.mark.unit

DEMO = "configs/demo-rl.yaml"
RECIPES = [DEMO, "configs/demo.yaml", *map(str, sorted(Path("configs").glob("qwen2.5-7b*.yaml")))]


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("train.args.per_device_train_batch_size=0", "whole number"),
        ("train.args.per_device_train_batch_size=2.5", "whole number"),
        ("train.dpo.args.per_device_train_batch_size=-1", "whole number"),
        ("train.args.max_steps=0", "or -1"),
        ("train.args.max_steps=[1]", "number"),
        ("train.grpo.args.beta=[1]", "number"),
        ("train.grpo.args.vllm_gpu_memory_utilization=true", "number"),
        ("train.dpo.args.loss_type=[]", "sigmoid"),
        ("train.args.num_train_epochs=0", "above 0"),
        ("train.args.learning_rate=-1", "from 0 on"),
        ("train.args.save_steps=0", "number of steps"),
        ("train.args.save_steps=1.5", "number of steps"),
        ("train.args.save_strategy=no", "quotes"),
        ("train.args.save_strategy=best", "epoch"),
        ("train.args.eval_strategy=steps", "one of no"),
        ("train.args.load_best_model_at_end=true", "held-out"),
        ("train.args.push_to_hub=true", "upload"),
        ("train.args.assistant_only_loss=true", "remove it"),
        ("train.args.lr_scheduler_type=cosin", "cosine"),
        ("train.args.optim=adam8", "adamw_torch"),
        ("train.args.loss_type=foo", "nll"),
        ("judges.reasongenrm.args.max_steps=0", "or -1"),
        ("train.round.args.max_steps=-2", "or -1"),
        ("train.dpo.args.loss_type=sigmod", "sigmoid"),
        ("train.dpo.args.loss_type=[ipo, foo]", "sigmoid"),
        ("train.grpo.args.loss_type=foo", "dapo"),
        ("train.grpo.args.scale_rewards=foo", "group"),
        ("train.grpo.args.num_iterations=-1", "whole number"),
        ("train.lora.r=0", "whole number"),
        ("train.lora.r=8.5", "whole number"),
        ("train.lora.lora_dropout=5", "below 1"),
        ("train.lora.inference_mode=true", "false"),
        ("train.lora.task_type=SEQ_CLS", "causal_lm"),
        ("train.lora.init_lora_weights=pissa", "gaussian"),
        ("train.lora.init_lora_weights=1", "gaussian"),
        ("train.lora.use_dora=true", "train every weight"),
        ("train.lora.modules_to_save=[lm_head]", "train every weight"),
        ("train.lora.bias=all", "none"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(override: str, hint: str) -> None:
    recipe = load_recipe(DEMO, [override])
    with pytest.raises(ConfigError) as caught:
        check_training(recipe)
    assert caught.value.location == override.partition("=")[0] and hint in caught.value.hint, caught.value


@pytest.mark.parametrize(
    "override",
    [
        "train.args.save_total_limit=null",
        "train.args.save_steps=0.5",
        "train.args.max_steps=-1",
        'train.args.save_strategy="no"',
        "train.dpo.args.loss_type=ipo",
        "train.dpo.args.loss_type=[sigmoid, sft]",
        "train.grpo.args.loss_type=cispo",
        "train.grpo.args.scale_rewards=false",
        "train.lora.use_dora=false",
        "train.lora.target_modules=null",
        "train.lora.init_lora_weights=orthogonal",
        "train.lora.use_rslora=true",
    ],
)
def test_a_value_of_the_libraries_passes(override: str) -> None:
    check_training(load_recipe(DEMO, [override]))


@pytest.mark.parametrize("path", RECIPES)
def test_the_arguments_of_every_recipe_pass(path: str) -> None:
    check_training(load_recipe(path))


def test_the_losses_are_those_of_trl() -> None:
    from trl import DPOTrainer, GRPOTrainer

    for trainer, losses in ((DPOTrainer, DPO_LOSSES), (GRPOTrainer, GRPO_LOSSES)):
        source = inspect.getsource(trainer)
        assert [loss for loss in losses if f'"{loss}"' not in source and f"'{loss}'" not in source] == []
        assert "Unknown loss type" in source, "TRL refuses others in the first step alone"


@pytest.mark.parametrize("init", [*INITS, "pissa", "olora"])
def test_an_adapter_belongs_to_the_base_on_the_disk(init: Any) -> None:
    """The values that pass leave the base's weights as they are, and the others change them."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(17)
    model = torch.nn.Sequential(torch.nn.Linear(16, 16, bias=False))
    before = model[0].weight.detach().clone()
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["0"], init_lora_weights=init))
    after = tuned.base_model.model[0].base_layer.weight
    assert torch.equal(before, after) == (init in INITS)
