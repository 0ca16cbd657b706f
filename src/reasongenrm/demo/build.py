"""Write the toy world's files: preference pairs in Skywork's columns, a benchmark in RewardBench's, a tiny DistilBERT."""

from __future__ import annotations

from pathlib import Path

from reasongenrm.demo.general import toy_general
from reasongenrm.demo.world import toy_pairs
from reasongenrm.records import PreferencePair
from reasongenrm.store import write_jsonl


def skywork_row(pair: PreferencePair) -> dict[str, object]:
    """Return a pair in the columns of Skywork-Reward-Preference-80K."""
    history = [dict(turn) for turn in pair.history]
    return {
        "chosen": [*history, {"role": "assistant", "content": pair.chosen}],
        "rejected": [*history, {"role": "assistant", "content": pair.rejected}],
        "source": pair.source,
    }


def rewardbench_row(number: int, pair: PreferencePair) -> dict[str, object]:
    """Return a pair in RewardBench's columns."""
    return {
        "id": number,
        "subset": pair.source,
        "prompt": pair.history[-1]["content"],
        "chosen": pair.chosen,
        "rejected": pair.rejected,
    }


def build(out: str, *, pairs: int, rows: int, seed: int) -> None:
    """Write `train.jsonl`, `general.jsonl`, `rewardbench.jsonl` and `distilbert/` below `out`; the same bytes for the same arguments.

    Args:
        out: folder.
        pairs: training pairs per family (questions of the `train` split), and rows of general data.
        rows: benchmark rows per family (questions of the `test` split).
        seed: decides the draw.
    """
    from reasongenrm.demo.scalar_base import build_tiny_distilbert

    folder = Path(out)
    train = list(toy_pairs("train", pairs, seed))
    test = list(toy_pairs("test", rows, seed))
    write_jsonl(folder / "train.jsonl", map(skywork_row, train))
    write_jsonl(folder / "general.jsonl", toy_general(pairs, seed))
    write_jsonl(folder / "rewardbench.jsonl", (rewardbench_row(n, pair) for n, pair in enumerate(test)))
    if not (folder / "distilbert" / "model.safetensors").exists():
        texts = (text for pair in train for text in (pair.history[-1]["content"], pair.chosen, pair.rejected))
        build_tiny_distilbert(folder / "distilbert", texts, seed)
    print(
        f"{folder}: {len(train)} toy pairs, {len(test)} toy benchmark rows, general data, a tiny untrained DistilBERT"
    )


def base(out: str, *, seed: int) -> None:
    """Pretrain the toy base into `out`; see `toy/base.py`."""
    from reasongenrm.demo.base import build_base

    prompts, template = Path("configs/prompts/toy.yaml"), Path("configs/prompts/reason.jinja")
    build_base(Path(out), prompts_path=prompts, template_path=template, seed=seed)
