"""A run folder as stage 3 writes it, with real rows, results and scores, but without a model.

The verdicts are drawn from a seeded generator: right, wrong, inconsistent and unreadable ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reasongenrm.benchmarks.base import judge_result, scalar_result
from reasongenrm.benchmarks.protocols import protocol_scores
from reasongenrm.benchmarks.rewardbench import REWARDBENCH, TOY, RewardBench
from reasongenrm.config.recipe import Recipe
from reasongenrm.metrics.diagnostics import diagnose
from reasongenrm.records import Drop, Message, Order, PairResult, Row, Verdict, content_id
from reasongenrm.run import build_manifest, file_hash
from reasongenrm.steps import FILE, Step
from reasongenrm.store import to_json, write_json, write_jsonl
from support.judged import rewardbench_score

EVIL_ANSWER = "</script><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\"> & <!-- \u2028"
EVIL_PROMPT = "{{ 7 * 7 }} ]]> <b>bold</b> what is $x$ | y?"


def rows_of(subsets: Iterable[str], each: int, words: int = 20, seed: int = 1) -> list[Row]:
    """Return rows of random words, `each` per subset; every third row has several turns."""
    draw = random.Random(seed)

    def text(longest: int) -> str:
        return " ".join(f"word{draw.randrange(2000)}" for _ in range(draw.randint(1, longest)))

    rows = []
    for subset in subsets:
        for number in range(each):
            history: list[Message] = [{"role": "user", "content": f"{subset} {number}: {text(words)}"}]
            if number % 3 == 0:
                earlier: list[Message] = [
                    {"role": "system", "content": "be brief"},
                    {"role": "user", "content": text(words)},
                    {"role": "assistant", "content": text(words)},
                ]
                history = earlier + history
            rows.append(Row.make(subset, history, [text(words)], [text(words)]))
    return rows


def evil_row(subset: str) -> Row:
    """Return a row whose texts look like markup."""
    return Row.make(subset, [{"role": "user", "content": EVIL_PROMPT}], [EVIL_ANSWER], ["**fine** `text`"])


def judged(
    rows: Sequence[Row], name: str, *, skill: float = 0.8, words: int = 20, reasons: bool = True
) -> dict[str, PairResult]:
    """Return results of a judge with some skill for every pair, in both orders; some verdicts are unreadable."""
    results = {}
    for row in rows:
        for pair in row.pairs:
            draw = random.Random(f"{name} {pair.id}")
            verdicts = [
                _verdict(draw, name, pair.id, order, skill, words * reasons) for order in ("AB", "BA")
            ]
            results[pair.id] = judge_result(pair.id, row.subset, verdicts)
    return results


def _verdict(draw: random.Random, name: str, pair_id: str, order: Order, skill: float, words: int) -> Verdict:
    """Return one verdict; its probability fits its letter."""
    key = content_id(pair_id, order, name)
    reason = " ".join(f"{name}{draw.randrange(2000)}" for _ in range(words))
    kind = draw.random()
    if kind < 0.02:
        return Verdict(key, pair_id, order, None, None, "unparsed", reason, tokens=words)
    if kind < 0.03:
        return Verdict(key, pair_id, order, None, None, "truncated", reason, tokens=words)
    if kind < 0.04:
        return Verdict(key, pair_id, order, "tie", 0.5, "tie", reason, rescued=True, tokens=words + 1)
    p_right = min(0.999, max(0.001, draw.gauss(skill, 0.25)))
    p_a = p_right if order == "AB" else 1 - p_right
    return Verdict(
        key, pair_id, order, "A" if p_a > 0.5 else "B", p_a, "ok", reason, rescued=kind < 0.06, tokens=words
    )


def scored(rows: Sequence[Row]) -> dict[str, PairResult]:
    """Return results of a scalar head for every pair."""
    results = {}
    for row in rows:
        for pair in row.pairs:
            draw = random.Random(pair.id)
            results[pair.id] = scalar_result(pair.id, row.subset, draw.gauss(0.7, 1), draw.gauss(0, 1))
    return results


def write_run(
    folder: Path,
    benchmarks: Mapping[str, tuple[Sequence[Row], Mapping[str, Mapping[str, PairResult]]]],
    *,
    drops: Sequence[Drop] = (),
    model: str = "Qwen/Qwen2.5-7B-Instruct",
) -> Path:
    """Write the files of stage 3 for `{benchmark: (rows, {model: {pair id: result}})}`, and return the folder."""
    entries: dict[str, Any] = {}
    for key, (rows, models) in benchmarks.items():
        write_jsonl(folder / "evaluate" / key / "rows.jsonl", map(to_json, rows))
        write_jsonl(folder / "evaluate" / key / "dropped.jsonl", map(to_json, drops))
        entries_by_model = {}
        for name, results in models.items():
            write_jsonl(folder / "evaluate" / key / name / "results.jsonl", map(to_json, results.values()))
            tokens = sum(v.tokens for result in results.values() for v in result.verdicts)
            cost = {"prompt_tokens": 9 * tokens, "tokens": tokens, "requests": len(results)}
            write_json(folder / "evaluate" / key / name / "seconds.json", 12.5)
            entries_by_model[name] = {
                "score": asdict(rewardbench_score(results.values())),
                "protocols": {
                    protocol: one and asdict(one)
                    for protocol, one in protocol_scores(RewardBench(), rows, results).items()
                },
                "diagnostics": asdict(diagnose(rows, results)),
                "cost": None if name == "scalar" else cost,
            }
        entries[key] = {
            "kind": "rewardbench",
            "mode": "pairs",
            "name": "RewardBench",
            "path": "allenai/reward-bench" if key == "rewardbench" else "build/toy/rewardbench.jsonl",
            "rows": len(rows),
            "unreadable_rows": len(drops),
            "models": entries_by_model,
        }
    write_json(folder / "scores.json", {"run": folder.name, "benchmarks": entries})
    recipe = Recipe.model_validate(
        {
            "name": folder.name,
            "model": {"path": model},
            "data": {"sources": [{"path": "Skywork/Skywork-Reward-Preference-80K-v0.2"}]},
            "judges": {"reasongenrm": {"template": "reason"}, "genrm": {"template": "direct"}},
            "train": {
                "launch": "configs/accelerate/zero2.yaml",
                "lora": {"r": 64, "lora_alpha": 128},
                "args": {"learning_rate": 1e-4, "num_train_epochs": 2},
            },
        }
    )
    steps = {"evaluate.toy.base": Step({f"{FILE}{model}": file_hash(model)}, ("evaluate/toy/base",))}
    write_json(folder / "manifest" / "evaluate.json", build_manifest(recipe, steps))
    return folder


def toy_run(folder: Path, *, each: int = 20) -> Path:
    """A run of four models on the toy benchmark, with one evil row and one row that could not be read."""
    rows = [*rows_of(TOY.subsets, each), evil_row("toy-chat")]
    models = {
        "base": judged(rows, "base", skill=0.5),
        "reasongenrm": judged(rows, "reasongenrm", skill=0.85),
        "genrm": judged(rows, "genrm", skill=0.7, reasons=False),
        "scalar": scored(rows),
    }
    drop = Drop("rewardbench.jsonl:7", "<i>toy</i>", "missing_column", "There is no column chosen.", "load")
    return write_run(folder, {"toy": (rows, models)}, drops=[drop])


def published_run(folder: Path, *, words: int = 20) -> Path:
    """A run of four models on rows with the 2,985 pairs of RewardBench."""
    rows = [
        row
        for number, (subset, count) in enumerate(REWARDBENCH.published_rows.items())
        for row in rows_of([subset], count, words, seed=number)
    ]
    models = {
        "base": judged(rows, "base", skill=0.5, words=words),
        "reasongenrm": judged(rows, "reasongenrm", skill=0.85, words=words),
        "genrm": judged(rows, "genrm", skill=0.7, words=words, reasons=False),
        "scalar": scored(rows),
    }
    return write_run(folder, {"rewardbench": (rows, models)})
