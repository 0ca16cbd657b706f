"""What stands beside the weights of a scalar head: its model card, arguments and losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasongenrm.config.scalar import ScalarConfig
from reasongenrm.report.charts import loss_curve
from reasongenrm.store import to_json, write_json, write_jsonl

CARD = """---
library_name: transformers
pipeline_tag: text-classification
tags: [reward-model, trl, reasongenrm]
{base_line}---

# A scalar reward model

One number per (prompt, response); of two answers to one prompt, the better has the higher. Trained from
`{model}` with a Bradley-Terry loss (TRL's `RewardTrainer`){ways} on {trained} preference pairs for {steps} steps,
seed {seed}. The last logged loss was {final_loss} nats (guessing: 0.6931).{held_out}

```python
tokens = tokenizer(prompt, response, return_tensors="pt", truncation=True, max_length=512)
score = AutoModelForSequenceClassification.from_pretrained(folder)(**tokens).logits.item()
```

A history of several turns is one prompt string: its turns as `role: text`, an empty line between them.

Prompt and response together have at most {max_length} tokens: of longer ones the longer text is cut at its end, token by
token. So it was in {truncated} of the pairs; {identical} more had two answers that were the same tokens then, and were left
out (`dropped.jsonl`). Training arguments are in `training_args.json`, the loss in `loss.json` and `loss.png`.
"""


def write_beside(
    final: Path,
    config: ScalarConfig,
    arguments: dict[str, Any],
    seed: int,
    report: dict[str, Any],
    log: Sequence[dict[str, Any]],
    fingerprint: str,
) -> None:
    """Write model card, training_args.json, loss.json, loss.png, dropped.jsonl and done.json into a model's folder.

    Args:
        final: the folder with the weights.
        config: what was asked for.
        arguments: RewardConfig keys that were used.
        report: as `train_scalar` returns it.
        log: entries with a loss.
        fingerprint: of everything the weights depend on.
    """
    settings = config.model_dump(mode="json") | {"seed": seed, "args": arguments}
    drops = [to_json(drop) for drop in report["dropped_identical"]]
    write_json(final / "training_args.json", settings)
    write_json(final / "loss.json", log)
    loss_curve(log, final / "loss.png", f"scalar head from {Path(config.model).name}")
    (final / "README.md").write_text(_card(config, seed, report), encoding="utf-8")
    write_jsonl(final / "dropped.jsonl", drops)
    write_json(
        final / "done.json", {"fingerprint": fingerprint, "report": report | {"dropped_identical": drops}}
    )


def _card(config: ScalarConfig, seed: int, report: dict[str, Any]) -> str:
    local = Path(config.model).exists()  # a path on this machine says nothing to others
    base = Path(config.model).name if local else config.model
    ways = [
        *(["LoRA, merged in"] if config.lora is not None else []),
        *([f"a margin of {config.margin:g} nats per rank"] if config.margin else []),
    ]
    validation, held_out = report["validation"], ""
    if validation:
        held_out = (
            f" Of {validation['pairs']} pairs of {validation['prompts']} prompts that were held out, it orders "
            f"{100 * validation['accuracy']:.1f}% right; its loss on them is {validation['loss']:.4f} nats."
        )
    return CARD.format(
        base_line="" if local else f"base_model: {base}\n",
        model=base,
        ways=f" and {' and '.join(ways)}" if ways else "",
        held_out=held_out,
        seed=seed,
        max_length=config.max_length,
        identical=len(report["dropped_identical"]),
        **{key: report[key] for key in ("trained", "steps", "final_loss", "truncated")},
    )
