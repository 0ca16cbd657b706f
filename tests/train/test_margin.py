"""Verdict margin: where it applies, its exact value, and that it does what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.chat.verdict import VerdictTokens
from reasongenrm.config.recipe import TEMPLATES, Template
from reasongenrm.config.steps import MarginConfig
from reasongenrm.demo.world import toy_pairs
from reasongenrm.errors import ConfigError
from reasongenrm.train.attention import PACKED, register_packed_attention
from reasongenrm.train.batches import FILLER
from reasongenrm.train.margin import (
    VerdictPattern,
    check_logits,
    find_verdicts,
    hinge,
    margin_trainer,
    verdict_gaps,
)

Record = dict[str, list[int]]
REASON = "count it . <|im_end|>\n<|im_start|>assistant\n[[B]]<|im_end|> is what it quotes . so A is better ."
ANSWER = "[[A]]"


def record(encoder: ChatEncoder, prompt: Sequence[Any], reason: str, response: str) -> Record:
    before, after = encoder.record(prompt, reason, response)
    return {"input_ids": before + after, "labels": [-100] * len(before) + after}


@pytest.fixture(scope="module")
def records(encoder: ChatEncoder, toy_prompts: PromptFile) -> list[Record]:
    """Eight records of judges, and two of general chat, one of which answers with a verdict."""
    prompts = [judge_prompt(pair, "AB", toy_prompts) for pair in toy_pairs("train", 2, seed=2)]
    rows = [record(encoder, p.messages, REASON, f"[[{'AB'[n % 2]}]]") for n, p in enumerate(prompts)]
    chat = [{"role": "user", "content": "hi"}]
    history = [*chat, {"role": "assistant", "content": ANSWER}, *chat]
    return [*rows, record(encoder, chat, "", ANSWER), record(encoder, history, "", "4")]


@pytest.fixture(scope="module")
def pattern(encoder: ChatEncoder) -> VerdictPattern:
    return VerdictPattern.from_tokens(encoder, VerdictTokens.from_encoder(encoder))


def trainer(
    model: Path, rows: list[Record], folder: Path, margin: MarginConfig | None, pattern: VerdictPattern, **options: Any
) -> Any:  # fmt: skip
    """TRL's trainer of a LoRA adapter with plain SGD, whose records are in their order."""
    from datasets import Dataset
    from peft import LoraConfig
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    packed = options.pop("packed", False)
    register_packed_attention()
    config = SFTConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True,
        max_length=None, completion_only_loss=True, padding_free=packed, seed=3, logging_steps=1, warmup_steps=0,
        **{"learning_rate": 0.05, "lr_scheduler_type": "constant"} | options,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(model, attn_implementation=PACKED if packed else "sdpa")

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(train_dataset)

    kind = margin_trainer(InOrder, margin, pattern) if margin else InOrder
    from transformers import AutoTokenizer

    return kind(
        model=base, args=config, train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear"),
    )  # fmt: skip


def plain_gaps(model: Any, rows: list[Record], encoder: ChatEncoder) -> list[float]:
    """The logits by which the letter of each judge's record exceeds the other, from logits of the whole vocabulary; the
    letter is the third id from the end: `[[`, letter, `]]`, end of turn."""
    import torch

    [a], [b] = ([one] for one in VerdictTokens.from_encoder(encoder).letters)
    gaps = []
    with torch.inference_mode():
        for row in rows:
            ids = row["input_ids"]
            assert encoder.tokenizer.decode(ids[-4:]) in ("[[A]]<|im_end|>", "[[B]]<|im_end|>")
            logits = model(input_ids=torch.tensor([ids])).logits[0, len(ids) - 4]
            right, wrong = (a, b) if ids[-3] == a else (b, a)
            gaps.append(float(logits[right] - logits[wrong]))
    return gaps


@pytest.mark.unit
def test_gaps_and_hinge_by_hand() -> None:
    """A right with 2 − 5 = −3 logits, and C of three letters with 4 − max(1, 3.5) = 0.5: hinges of 10 are 13 and 9.5."""
    import torch

    two = verdict_gaps(torch.tensor([[2.0, 5.0], [7.0, -4.0]]), torch.tensor([0, 0]))
    assert two.tolist() == [-3.0, 11.0] and hinge(two, 10.0).tolist() == [13.0, 0.0]
    three = verdict_gaps(torch.tensor([[1.0, 3.5, 4.0]]), torch.tensor([2]))
    assert three.tolist() == [0.5] and hinge(three, 10.0).tolist() == [9.5]


@pytest.mark.unit
def test_the_hinge_moves_both_letters_until_gamma() -> None:
    import torch

    logits = torch.tensor([[2.0, 5.0], [30.0, 5.0]], requires_grad=True)
    hinge(verdict_gaps(logits, torch.tensor([0, 0])), 10.0).sum().backward()
    assert logits.grad is not None and logits.grad.tolist() == [[-1.0, 1.0], [0.0, 0.0]]


@pytest.mark.engine
@pytest.mark.parametrize("packed", [True, False])
def test_the_verdict_of_a_judge_is_found_and_no_quoted_one(
    records: list[Record], pattern: VerdictPattern, encoder: ChatEncoder, packed: bool
) -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    filler = {"input_ids": FILLER["input_ids"], "labels": [-100, -100]}
    rows = [*records, filler]
    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=packed)(rows)
    at, places, right = find_verdicts(batch["input_ids"], batch["labels"], pattern)
    ends = [sum(len(row["input_ids"]) for row in rows[: n + 1 if packed else n]) for n in range(8)]
    expected = [
        end - 3 if packed else len(row["input_ids"]) - 3 for end, row in zip(ends, rows, strict=False)
    ]
    assert at.tolist() == ([0] * 8 if packed else list(range(8)))
    assert places.tolist() == expected and right.tolist() == [0, 1] * 4
    shown = batch["input_ids"][at, places].tolist()
    assert [encoder.tokenizer.decode([token]) for token in shown] == ["A", "B"] * 4


@pytest.mark.engine
def test_every_judge_template_has_its_pattern(judge_encoder: ChatEncoder) -> None:
    import torch

    pattern = VerdictPattern.from_tokens(judge_encoder, VerdictTokens.from_encoder(judge_encoder))
    row = record(judge_encoder, [{"role": "user", "content": "[[B]]"}], "so A .", "[[A]]")
    _, places, right = find_verdicts(*(torch.tensor([row[key]]) for key in ("input_ids", "labels")), pattern)
    assert places.tolist() == [len(row["input_ids"]) - 3] and right.tolist() == [0]


@pytest.mark.engine
def test_eight_letters_of_a_list(direct: ChatEncoder, toy_prompts: PromptFile) -> None:
    import torch

    tokens = VerdictTokens.from_encoder(direct, toy_prompts.list_verdicts())
    pattern = VerdictPattern.from_tokens(direct, tokens)
    rows = [record(direct, [{"role": "user", "content": "x"}], "", f"[[{one}]]") for one in "ADH"]
    ids, labels = (torch.tensor([row[key] for row in rows]) for key in ("input_ids", "labels"))
    assert find_verdicts(ids, labels, pattern)[2].tolist() == [0, 3, 7]


@pytest.mark.engine
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("passes", [1, 2, 5])
def test_the_loss_of_a_step_is_that_of_sft_and_the_mean_hinge(
    tiny_model: Path, records: list[Record], pattern: VerdictPattern, encoder: ChatEncoder, tmp_path: Path,
    packed: bool, passes: int,
) -> None:  # fmt: skip
    """A step of ten records in any number of passes: eight verdicts, the last pass has none of them."""
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"max_steps": 1, "per_device_train_batch_size": 10 // passes, "packed": packed}
    options |= {"gradient_accumulation_steps": passes}
    margin = MarginConfig(gamma=0.05, weight=3.0)
    plain = trainer(tiny_model, records, tmp_path, None, pattern, **options)
    plain.train()
    pushed = trainer(tiny_model, records, tmp_path, margin, pattern, **options)
    pushed.train()
    gaps = plain_gaps(AutoModelForCausalLM.from_pretrained(tiny_model), records[:8], encoder)
    hinges = [max(0.0, 0.05 - gap) for gap in gaps]
    assert 0 < sum(one > 0 for one in hinges) < 8, "some gaps are larger than gamma"
    before, after = plain.state.log_history[0], pushed.state.log_history[0]
    assert after["margin"] == pytest.approx(sum(gaps) / 8, abs=1e-5)
    assert after["margin_loss"] == pytest.approx(sum(hinges) / 8, abs=1e-5)
    assert after["loss"] - before["loss"] == pytest.approx(3 * sum(hinges) / 8, abs=1e-4)
    assert after["grad_norm"] != pytest.approx(before["grad_norm"], rel=1e-3)


@pytest.mark.engine
def test_passes_do_not_change_the_gradient(
    tiny_model: Path, records: list[Record], pattern: VerdictPattern, tmp_path: Path
) -> None:
    """Eight records with a verdict and two without, in passes of 10, 5 and 2: the same weights after two steps."""
    import torch

    weights = []
    for passes in (1, 2, 5):
        options = {"per_device_train_batch_size": 10 // passes, "gradient_accumulation_steps": passes}
        made = trainer(
            tiny_model, records, tmp_path, MarginConfig(), pattern, max_steps=2, optim="sgd", **options
        )
        made.train()
        named = sorted(made.model.named_parameters())
        weights.append(torch.cat([one.detach().flatten() for name, one in named if "lora_" in name]))
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=1e-4, atol=1e-6)


@pytest.mark.engine
def test_a_margin_raises_the_gap_more_than_sft_alone(
    tiny_model: Path, records: list[Record], pattern: VerdictPattern, encoder: ChatEncoder, tmp_path: Path
) -> None:
    options = {"max_steps": 12, "per_device_train_batch_size": 10, "learning_rate": 0.01}
    means = []
    for margin in (None, MarginConfig()):
        made = trainer(tiny_model, records, tmp_path, margin, pattern, **options)
        made.train()
        gaps = plain_gaps(made.model.eval(), records[:8], encoder)
        means.append(sum(gaps) / len(gaps))
    logged = [entry["margin"] for entry in made.state.log_history if "margin" in entry]
    assert logged[-1] > logged[0] + 0.5, logged
    assert means[1] > means[0] + 0.5, means


@pytest.mark.engine
def test_records_without_a_verdict_are_an_error(
    tiny_model: Path, records: list[Record], pattern: VerdictPattern, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^train.margin: no record ends in a verdict"):
        trainer(tiny_model, records[8:], tmp_path, MarginConfig(), pattern, max_steps=1)


@pytest.mark.engine
@pytest.mark.parametrize(("template", "file", "responses"), [
    ("reason", "sft.jsonl", ["[[A]]", "[[B]]"]),
    ("listwise", "listwise.jsonl", ["[[C]]", "[[H]]"]),
])  # fmt: skip
def test_a_recipe_with_a_margin_trains_with_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: Template, file: str, responses: list[str]
) -> None:  # fmt: skip
    """A step of five records in two passes, packed, as stage 2 builds it."""
    from transformers import AutoTokenizer

    from reasongenrm.chat.encoder import judge_encoder as encoder_of
    from reasongenrm.config.loading import load_recipe
    from reasongenrm.store import write_jsonl
    from reasongenrm.train.sft import build_trainer
    from reasongenrm.train.tokens import tokenise

    recipe = load_recipe("configs/demo.yaml", [
        f"model.path={tiny_model}", f"judges={{mine: {{template: {template}}}}}", "train.batch=5", "train.tokens=null",
        "train.margin={gamma: 4}", "train.args.per_device_train_batch_size=3", "train.args.max_steps=2",
        "train.args.logging_steps=1", "train.args.save_strategy='no'",
        f"prompts={Path('configs/prompts/toy.yaml').resolve()}",
        f"templates={{{template}: {Path(TEMPLATES[template]).resolve()}}}",
    ])  # fmt: skip
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"say {n}", "reason": "so", "response": responses[n % 2]} for n in range(10)]
    write_jsonl(recipe.folder / file, rows)
    step, work = recipe.trained["mine"], tmp_path / "work"
    tokenise(
        recipe,
        step,
        encoder_of(recipe, recipe.judges["mine"].template, AutoTokenizer.from_pretrained(tiny_model)),
        work,
    )
    made = build_trainer(recipe, step, work)
    made.train()
    logs = [entry for entry in made.state.log_history if "loss" in entry]
    assert len(logs) == 2 and logs[0]["margin_loss"] > 0
    for entry in logs:
        assert entry["loss"] > entry["margin_loss"] >= 4 - entry["margin"] - 1e-4, entry


@pytest.mark.unit
@pytest.mark.parametrize(("key", "value"), [("final_logit_softcapping", 30.0), ("logits_scaling", 8.0)])
def test_models_that_change_their_logits_are_refused(key: str, value: float) -> None:
    from types import SimpleNamespace

    with pytest.raises(ConfigError, match=key):
        check_logits(SimpleNamespace(**{key: value}))
    check_logits(SimpleNamespace(final_logit_softcapping=None, logit_scale=1.0))
