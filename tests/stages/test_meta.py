"""The judge of judges in stages 2 and 3: trained from blind reasons, and used without asking again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from reasongenrm import cli
from reasongenrm.chat.grammar import DEFAULT_GRAMMAR
from reasongenrm.config.loading import load_recipe
from reasongenrm.config.models import models_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.demo.build import rewardbench_row
from reasongenrm.demo.world import toy_pairs
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.run import Run
from reasongenrm.scalar.meta import judgement_pairs
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.stages.evaluate import evaluate
from reasongenrm.stages.train import train_meta
from reasongenrm.store import read_json, read_jsonl, to_json, write_jsonl
from reasongenrm.train.scalar import train_scalar
from support.judgements import judge_prompts, judgements, meta_config
from support.servers import ReceivedRequest, Reply, serving

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo.yaml"
MODES = {"blind": "blind", "student": "hindsight"}


@pytest.fixture
def run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with prompts and blind reasons, and its recipe."""
    for folder in ("configs", "data"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    return Run(recipe(base), "train")


def recipe(base: Path, *overrides: str) -> Recipe:
    settings = json.dumps(meta_config(base).model_dump(mode="json"))
    teachers = '{"student": {"samples": 2, "max_tokens": 9}, "blind": {"mode": "blind", "samples": 2, "max_tokens": 9}}'
    return load_recipe(DEMO, ["name=meta", f"meta={settings}", f"teachers={teachers}", *overrides])


def test_stage_2_trains_it_on_the_blind_reasons(run: Run, base: Path) -> None:
    prompts = judge_prompts(60, 3)
    write_jsonl(run.path("prompts.jsonl"), map(to_json, prompts))
    reasons = [to_json(one) for _, some in judgements(prompts, 4) for one in some]
    write_jsonl(run.path("reasons", "blind.jsonl"), reasons)
    # hindsight reasons justify the verdict that they were given
    write_jsonl(run.path("reasons", "student.jsonl"), [row | {"mode": "hindsight"} for row in reasons])
    settings = recipe(base)
    assert settings.meta is not None
    train_meta(settings, settings.meta, run)
    report = read_json(run.path("meta", "done.json"))["report"]
    assert report["pairs"] == report["trained"] == 60
    head = ScalarRewardModel.from_pretrained(run.path("meta"))
    held_out = judge_prompts(40, 5)
    pairs = list(judgement_pairs(judgements(held_out, 6), DEFAULT_GRAMMAR))
    better = [head.score(p.history, p.chosen) > head.score(p.history, p.rejected) for p in pairs]
    assert sum(better) >= 36
    before = run.path("meta", "model.safetensors").stat().st_mtime_ns
    train_meta(settings, settings.meta, run)
    assert run.path("meta", "model.safetensors").stat().st_mtime_ns == before, "it is not trained again"


def test_reasons_of_one_kind_are_an_error(run: Run, base: Path) -> None:
    prompts = judge_prompts(4, 3)
    write_jsonl(run.path("prompts.jsonl"), map(to_json, prompts))
    for name, right in (("blind", [0, 0]), ("student", [0, 1])):
        rows = [to_json(some[place]) for _, some in judgements(prompts, 4) for place in right]
        write_jsonl(run.path("reasons", f"{name}.jsonl"), [row | {"mode": MODES[name]} for row in rows])
    settings = recipe(base)
    assert settings.meta is not None
    with pytest.raises(DataError, match=r"meta: no prompt has both a right and a wrong blind judgement"):
        train_meta(settings, settings.meta, run)


# --- settings


def test_the_recipe_needs_a_blind_teacher_and_a_head() -> None:
    with pytest.raises(ConfigError, match=r"add a teacher \{mode: blind\}"):
        load_recipe(DEMO, ["meta={}", "teachers={student: {max_tokens: 64}}", "records={}", "judges={j: {}}"])
    with pytest.raises(ConfigError, match=r"evaluate.combine: meta needs the section meta"):
        load_recipe(DEMO, ["evaluate.combine=meta"])
    own = load_recipe(DEMO, ["meta={}", "evaluate.combine=meta"])
    assert own.judging.meta == "runs/demo/meta" and own.evaluate.meta is None
    assert load_recipe(DEMO, ["evaluate.combine=meta", "evaluate.meta=x"]).judging.meta == "x"
    assert load_recipe(DEMO, ["meta={}"]).judging.meta is None


def test_a_misspelled_key_names_the_section(run: Run, base: Path) -> None:
    from reasongenrm.train.process import check_training

    with pytest.raises(ConfigError, match=r"^meta.args.lerning_rate"):
        check_training(recipe(base, "meta.args={lerning_rate: 1}"))


def test_stage_3_without_the_head_is_refused(run: Run, base: Path) -> None:
    settings = recipe(base, "evaluate.combine=meta", "scalar=null")
    for name in settings.judges:
        (settings.folder / "judges" / name / "adapter").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"runs/meta/meta: directory not found \(run 2_train.sh"):
        evaluate(settings)


# --- stage 3


class Votes:
    """A server whose first two votes on a prompt are right by their words and say A, and whose others say B."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._lock = Lock()

    def __call__(self, received: ReceivedRequest) -> Reply:
        prompt = str(received.body["messages"])
        with self._lock:
            self.seen[prompt] += 1
            right = self.seen[prompt] <= 2
        text = "the good of it .\n\n[[A]]" if right else "the bad of it .\n\n[[B]]"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        return 200, {
            "id": "c", "object": "chat.completion", "created": 0, "model": received.body["model"], "choices": [choice],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        }  # fmt: skip


def winners(folder: Path) -> Counter[Any]:
    return Counter(row["winner"] for row in read_jsonl(folder / "verdicts.jsonl"))


def test_another_combination_asks_nothing_again(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = judge_prompts(150, 0)
    pairs = list(judgement_pairs(judgements(prompts, 1), DEFAULT_GRAMMAR))
    train_scalar(pairs, meta_config(base), output_dir=tmp_path / "head", seed=1)
    rows = [rewardbench_row(number, pair) for number, pair in enumerate(toy_pairs("test", 1, 17))]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    folder = Path("runs/served/evaluate/rewardbench/gpt")
    with serving(Votes()) as server:
        words = [
            "evaluate", "--model", "gpt", "--server", f"{server.url}/v1", "--benchmark", f"rewardbench:{tmp_path / 'rows.jsonl'}",
            "--limit", "4", "name=served", f"prompts={ROOT / 'configs/prompts/judge.yaml'}", "evaluate.votes=4",
            "evaluate.temperature=1",
        ]  # fmt: skip
        assert cli.main(words) == 0
        sent = len(server.received)
        assert winners(folder) == {"tie": 8}, "two votes say A, and two B"
        meta = [*words, "evaluate.combine=meta", "evaluate.meta=head"]
        assert cli.main(meta) == 0
        assert winners(folder) == {"A": 8}, "the votes with good reasons count"
        [scores] = folder.glob("meta_scores-*.jsonl")
        written = scores.stat().st_mtime_ns
        assert len(list(read_jsonl(scores))) == 4 * 2 * 4
        assert cli.main(meta) == 0 and scores.stat().st_mtime_ns == written
        assert cli.main(words) == 0 and winners(folder) == {"tie": 8}
        assert len(server.received) == sent, "no vote is requested again"
    assert cli.main([*words, "evaluate.combine=meta"]) == 2
    assert "meta needs the folder of a trained head" in capsys.readouterr().err


def test_models_without_a_recipe_name_their_head() -> None:
    keys: dict[str, Any] = {"adapter": None, "server": None, "api_key_env": None, "scalar": None}
    settings = models_recipe(
        model="a/b", **keys, benchmarks="rewardbench", overrides=["evaluate.combine=meta", "evaluate.meta=m"]
    )
    assert settings.judging.meta == "m"
