"""What a scalar head can be trained with: margins of ranks, held-out prompts, early stopping, LoRA, a causal model."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.scalar import ScalarConfig
from reasongenrm.data.split import split_pairs
from reasongenrm.errors import ConfigError
from reasongenrm.records import PreferencePair
from reasongenrm.scalar.model import ScalarRewardModel
from support.heads import ARGS, easy_pairs, plain_score, sentence, train
from support.scripts import Done, stage_server

TOY_BASE = Path(__file__).parents[2] / "data" / "toy-base"


def ranked_pairs(count: int, seed: int) -> list[PreferencePair]:
    """All pairs of three answers per prompt: `good` two ranks before `bad`, and one before what holds neither."""
    source = random.Random(seed)
    rows = []
    for _ in range(count):
        prompt = ({"role": "user", "content": sentence(source, "what")},)
        texts = [sentence(source, word) for word in ("good", "so", "bad")]
        for better, worse in ((0, 1), (1, 2), (0, 2)):
            rows.append(
                PreferencePair.make(prompt, texts[better], texts[worse], "ranks", distance=worse - better)  # type: ignore[arg-type]
            )
    return rows


@pytest.mark.unit
def test_patience_without_anything_held_out_is_refused() -> None:
    with pytest.raises(ValueError, match="set validation"):
        ScalarConfig(patience=2)


def trained_rows(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the real trainer is fed; filled while it is built."""
    import trl

    rows: list[dict[str, Any]] = []
    build = trl.RewardTrainer.__init__

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        rows.extend(kwargs["train_dataset"])
        build(self, *args, **kwargs)

    monkeypatch.setattr(trl.RewardTrainer, "__init__", noted)
    return rows


@pytest.mark.engine
def test_a_margin_per_rank_widens_the_gap(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = ranked_pairs(40, 1)
    rows = trained_rows(monkeypatch)
    gaps = {}
    for margin in (0.0, 10.0):
        rows.clear()
        report = train(base, tmp_path / f"m{margin}", pairs, margin=margin, args=ARGS | {"max_steps": 150})
        assert report["trained"] == 120
        if margin:
            assert [row["margin"] for row in rows] == [10.0, 10.0, 20.0] * 40
        else:
            assert all("margin" not in row for row in rows)
        model = ScalarRewardModel.from_pretrained(tmp_path / f"m{margin}")
        far = [pair for pair in pairs if pair.distance == 2]
        chosen = model.score_batch([p.history for p in far], [p.chosen for p in far])
        rejected = model.score_batch([p.history for p in far], [p.rejected for p in far])
        gaps[margin] = sum(chosen) - sum(rejected)
    assert gaps[10.0] > 1.2 * gaps[0.0] > 0
    assert "a margin of 10 nats per rank" in (tmp_path / "m10.0" / "README.md").read_text()
    with pytest.raises(ConfigError, match=r"scalar\.margin: .*set 0"):
        train(base, tmp_path / "none", easy_pairs(5, 0), margin=1.0)


@pytest.mark.engine
def test_held_out_pairs_are_measured_and_not_trained_on(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = ranked_pairs(40, 1)
    rows = trained_rows(monkeypatch)
    report = train(
        base, tmp_path / "s", pairs, validation=0.25, args=ARGS | {"center_rewards_coefficient": 0.01}
    )
    trained_pairs, out = split_pairs(pairs, 0.25, 1)
    assert report["trained"] == len(rows) == len(trained_pairs) == 90
    validation = report["validation"]
    assert (validation["pairs"], validation["prompts"]) == (30, 10)
    model = ScalarRewardModel.from_pretrained(tmp_path / "s")
    chosen = model.score_batch([p.history for p in out], [p.chosen for p in out])
    rejected = model.score_batch([p.history for p in out], [p.rejected for p in out])
    right = sum(a > b for a, b in zip(chosen, rejected, strict=True))
    assert validation["accuracy"] == pytest.approx(right / 30, abs=1 / 60)
    assert any("eval_loss" in entry for entry in json.loads((tmp_path / "s" / "loss.json").read_text()))
    assert report == train(
        base, tmp_path / "s", pairs, validation=0.25, args=ARGS | {"center_rewards_coefficient": 0.01}
    )


NOISY = """
import os, signal, trl
from pathlib import Path
from support.heads import noisy
done, step = [], trl.RewardTrainer.training_step
def dying_step(*args, **kwargs):
    done.append(1)
    if len(done) == {lives}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*args, **kwargs)
trl.RewardTrainer.training_step = dying_step
print(noisy(Path({base!r}), Path({output!r}))["steps"])
"""


@pytest.mark.engine
@pytest.mark.slow
def test_early_stopping_keeps_the_best_weights_also_when_killed(base: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    def run(output: Path, lives: int) -> Done:
        return stage_server().run([], code=NOISY.format(base=str(base), output=str(output), lives=lives))

    calm = run(tmp_path / "calm", 10**6)
    steps = int(calm.stdout.split()[-1])
    assert steps < 400, "it stops early"
    log = json.loads((tmp_path / "calm" / "loss.json").read_text())
    losses = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    done = json.loads((tmp_path / "calm" / "done.json").read_text())["report"]
    assert done["validation"]["loss"] == pytest.approx(min(losses), abs=1e-6), (
        "the best weights are the ones kept"
    )
    assert losses.index(min(losses)) == len(losses) - 3, "two evaluations after the best"
    killed = run(tmp_path / "killed", steps - 2)
    assert killed.code == -signal.SIGKILL and not (tmp_path / "killed").exists()
    again = run(tmp_path / "killed", 10**6)
    assert int(again.stdout.split()[-1]) == steps, again.stderr[-2000:]
    ours, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "calm"))
    assert ours.keys() == whole.keys()
    for name, weights in whole.items():
        assert abs(ours[name] - weights).max() <= 1e-6, name


def accuracy(model: ScalarRewardModel, pairs: Sequence[PreferencePair]) -> float:
    chosen = model.score_batch([p.history for p in pairs], [p.chosen for p in pairs])
    rejected = model.score_batch([p.history for p in pairs], [p.rejected for p in pairs])
    return sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(pairs)


@pytest.mark.engine
@pytest.mark.parametrize("lora", [None, {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}])
@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_encoders_and_causal_models_with_and_without_lora(
    base: Path,
    tmp_path: Path,
    kind: str,
    lora: dict[str, Any] | None,
) -> None:
    model = str(base if kind == "encoder" else TOY_BASE)
    rate = 3e-3 if lora else 1e-3
    folder = tmp_path / "scalar"
    report = train(
        base, folder, model=model, lora=lora, args=ARGS | {"learning_rate": rate, "max_steps": 150}
    )
    assert report["steps"] == 150
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "training_args.json", "README.md"} <= names
    assert not any("adapter" in name for name in names), "the adapter is merged in"
    head = ScalarRewardModel.from_pretrained(folder)
    held = easy_pairs(40, 9)
    assert accuracy(head, held) >= 0.9
    for pair in held[:3]:
        text = pair.history[0]["content"]
        assert head.score(text, pair.chosen) == pytest.approx(
            plain_score(folder, text, pair.chosen), abs=1e-5
        )


@pytest.mark.engine
def test_lora_trains_the_whole_head_and_leaves_the_base_alone(base: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    lora = {"r": 4, "target_modules": ["q_lin"]}
    train(base, tmp_path / "s", lora=lora, args=ARGS | {"max_steps": 8})
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "s" / "model.safetensors")
    moved = {
        name for name, weights in after.items()
        if (short := name.removeprefix("distilbert.")) in before and abs(weights - before[short]).max() > 0
    }  # fmt: skip
    assert moved and all(".q_lin.weight" in name for name in moved)
    assert {"pre_classifier.weight", "classifier.weight"} <= after.keys()
    with pytest.raises(ConfigError, match=r"scalar\.lora\.rank: .*did you mean"):
        train(base, tmp_path / "t", lora={"rank": 4})


@pytest.mark.engine
def test_ranking_and_windows(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(base, tmp_path / "s", args=ARGS)
    head = ScalarRewardModel.from_pretrained(tmp_path / "s")
    pairs = easy_pairs(9, 5)
    prompts = [pair.history for pair in pairs]
    texts = [pair.chosen + " and" * number for number, pair in enumerate(pairs)]
    whole = head.score_batch(prompts, texts)
    monkeypatch.setattr("reasongenrm.scalar.model.WINDOW", 2)
    assert head.score_batch(prompts, texts, batch_size=1) == pytest.approx(whole, abs=1e-5)
    assert head.score_batch([], []) == []
    answers = [pairs[0].rejected, pairs[0].chosen, pairs[0].rejected]
    ranked = head.rank(prompts[0], answers)
    assert ranked.order == (1, 0, 2), "equal ones stand in the order given"
    assert ranked.scores == pytest.approx([head.score(prompts[0], text) for text in answers], abs=1e-5)
    best = head.best_of_n(prompts[0], answers)
    assert (best.index, best.response) == (1, pairs[0].chosen)
    with pytest.raises(ConfigError, match="nothing to rank"):
        head.rank(prompts[0], [])
    assert head.lengths("what", "good good bad") == (3, False)
    assert head.lengths("what", "good " * 600) == (600, True)
