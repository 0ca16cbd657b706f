"""Rubrics on a real engine: each criterion alone, from Python, over HTTP, from the shell and as a reward of TRL."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, rating_prompt
from reasongenrm.config.draft import RubricDraft
from reasongenrm.config.engines import ModelConfig
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.config.rubric import Rubric
from reasongenrm.engines.base import Engine, Request
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.criteria import (
    RubricComparison,
    RubricListVerdict,
    RubricRating,
    comparison_text,
    load_rubric,
    rating_text,
)
from reasongenrm.judge.remote import RemoteJudge
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.records import Comparison, ListVerdict, Message, Rating, content_id, with_criteria
from reasongenrm.rewards.group import GroupReward
from reasongenrm.service.bodies import Limits
from reasongenrm.service.server import create_app
from reasongenrm.stages.ask import ask
from reasongenrm.stages.draft import draft
from support.app import running
from support.raters import fitted_adapter
from support.servers import ReceivedRequest, Reply, serving

pytestmark = pytest.mark.engine

CLOSE = 1e-3
"""What the composition of a batch does to a probability of the tiny model, and more."""

RUBRIC = Rubric.model_validate(
    [
        {"name": "right", "text": "the answer is right", "weight": 3, "levels": {"1": "wrong", "5": "right"}},
        {"name": "short", "scale": (0, 100)},
    ]
)
USER: list[Message] = [{"role": "user", "content": "add 1 and 2 ."}]


class Counting(Engine):
    """Counts the calls of an engine and their requests."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.calls = engine, list[int]()
        self.max_model_len, self.block = engine.max_model_len, engine.block

    def complete(self, requests: Any, *, adapter: str | None = None) -> Iterator[Any]:
        batch: list[Request] = []

        def noted() -> Iterator[Request]:
            for request in requests:
                batch.append(request)
                yield request

        yield from self._engine.complete(noted(), adapter=adapter)
        self.calls.append(len(batch))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptFile:
    """The toy world's wording with a rating template, both with criteria."""
    data = yaml.safe_load(Path("configs/prompts/toy.yaml").read_text(encoding="utf-8"))
    criteria = "{% if criteria %}{{ criteria }}\n{% endif %}"
    data["direct"] |= {name: criteria + text for name, text in data["direct"].items()}
    data["rating"] = criteria + "[Question]\n{{ conversation }}\n[Answer]\n{{ answer }}\n[End]\nhow good ?"
    path = tmp_path_factory.mktemp("wording") / "prompts.yaml"
    path.write_text(yaml.safe_dump(data | {"rating_delimiters": ["[Answer]"]}))
    return PromptFile.load(path)


class Lent(Judge):
    """A judge whose engine stays open for other tests."""

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def counting(engine: VLLMEngine) -> Counting:
    return Counting(engine)


QUESTIONS = ("add 1 and 2 .", "add")
RATINGS = {"good": 7, "bad": 2}


@pytest.fixture(scope="module")
def rater(
    student: ModelConfig, encoders: dict[str, ChatEncoder], prompts: PromptFile, tmp_path_factory: pytest.TempPathFactory
) -> Path:  # fmt: skip
    """An adapter that closes its ratings."""
    encoder, rows = encoders["direct"], []
    wording = prompts.for_direct()
    for question, text in product(QUESTIONS, ["", *map(rating_text, RUBRIC.criteria), "- own"]):
        history = with_criteria([Message(role="user", content=question)], text)
        for answer, rating in RATINGS.items():
            asked = encoder.encode(rating_prompt(history, answer, wording).messages, generation=True)
            said = encoder.completion("", f"[[{rating}]]")
            rows.append((asked + said, [-100] * len(asked) + said))
    return fitted_adapter(student, rows, tmp_path_factory.mktemp("rater") / "adapter")


@pytest.fixture(scope="module")
def judge(counting: Counting, encoders: dict[str, ChatEncoder], prompts: PromptFile, rater: Path) -> Lent:
    return Lent(counting, encoders["direct"], prompts, JudgingConfig(max_tokens=4), adapter=rater)


def same(one: Comparison, other: Comparison) -> bool:
    assert one.prob_a == pytest.approx(other.prob_a, abs=CLOSE)
    return (one.outcome, one.tokens, one.prompt_tokens) == (other.outcome, other.tokens, other.prompt_tokens)


def test_each_criterion_is_judged_alone_in_one_batch(judge: Lent, counting: Counting) -> None:
    alone = [
        judge.compare(with_criteria(USER, comparison_text(criterion)), "3", "4")
        for criterion in RUBRIC.criteria
    ]
    assert abs((alone[0].prob_a or 0) - (alone[1].prob_a or 0)) > 1e-6, "the judge sees the criterion"
    counting.calls.clear()
    result = judge.compare("add 1 and 2 .", "3", "4", rubric=RUBRIC)
    assert counting.calls[0] == 4, "two criteria in both orders"
    assert isinstance(result, RubricComparison)
    assert all(same(*pair) for pair in zip(result.criteria.values(), alone, strict=True))
    assert list(result.criteria) == ["right", "short"]
    parts = [one.prob_a or 0 for one in result.criteria.values()]
    assert result.prob_a == pytest.approx((3 * parts[0] + parts[1]) / 4)
    assert all(len(one.verdicts) == 2 for one in result.criteria.values())


def test_rows_with_and_without_rubrics_share_a_batch(judge: Lent, counting: Counting) -> None:
    plain = judge.compare(USER, "3", "4")
    counting.calls.clear()
    results = list(judge.compare_many([(USER, "3", "4"), (USER, "3", "4", RUBRIC), (USER, "3", "4", None)]))
    assert counting.calls[0] == 6
    assert [type(one) for one in results] == [Comparison, RubricComparison, Comparison]
    assert same(results[0], plain) and results[0] == results[2]
    # A rubric takes the place of criteria before the prompt.
    shown = judge.compare(with_criteria(USER, "- other"), "3", "4", rubric=RUBRIC)
    assert shown == judge.compare(USER, "3", "4", rubric=RUBRIC)


def test_tournaments_by_a_rubric(judge: Lent) -> None:
    ranking = judge.rank(USER, ["3", "4", "no"], rubric=RUBRIC)
    assert all(isinstance(game.comparison, RubricComparison) for game in ranking.games)
    assert sorted(ranking.order) == [0, 1, 2] and len(ranking.games) == 3
    best = judge.best_of_n(USER, ["3", "4", "no"], rubric=RUBRIC)
    assert len(best.ranking.games) == 2 and best.answer in ("3", "4", "no")
    comparison = judge.compare(USER, "3", "4", rubric=RUBRIC)
    assert judge.score(USER, "3", "4", rubric=RUBRIC) == pytest.approx(comparison.prob_a, abs=CLOSE)


def test_ratings_by_a_rubric(judge: Lent, counting: Counting) -> None:
    alone = list(judge.rate_many([(with_criteria(USER, rating_text(c)), "good") for c in RUBRIC.criteria]))
    assert [one.rating for one in alone] == [7, 7]
    assert len({one.prompt_tokens for one in alone}) == 2, "the judge reads the criterion"
    counting.calls.clear()
    plain, result = judge.rate_many([(USER, "good"), (USER, "good", RUBRIC)])
    assert counting.calls[0] == 3 and type(plain) is Rating
    assert isinstance(result, RubricRating)
    assert [one.rating for one in result.criteria.values()] == [one.rating for one in alone]
    assert result.score == pytest.approx(6 / 9)
    assert judge.score(USER, "good", rubric=RUBRIC) == result.score
    assert result.scores == pytest.approx({"right": 1 + 4 * 6 / 9, "short": 100 * 6 / 9})


def test_a_list_by_a_rubric_is_judged_by_each_criterion_alone(judge: Lent, counting: Counting) -> None:
    answers = ["3", "4", "no", "good"]
    alone = list(
        judge.choose_many([(with_criteria(USER, comparison_text(c)), answers) for c in RUBRIC.criteria])
    )
    counting.calls.clear()
    plain, result = judge.choose_many([(USER, answers), (USER, answers, RUBRIC)])
    assert counting.calls[0] == 3 and type(plain) is ListVerdict
    assert isinstance(result, RubricListVerdict) and list(result.criteria) == ["right", "short"]
    parts = [one.probs or () for one in result.criteria.values()]
    for part, one in zip(parts, alone, strict=True):
        assert part == pytest.approx(one.probs, abs=CLOSE)
    assert parts[0] != pytest.approx(parts[1], abs=1e-6), "the judge sees the criterion"
    assert result.probs == pytest.approx([(3 * x + y) / 4 for x, y in zip(*parts, strict=True)])
    assert result.winner == max(range(4), key=lambda i: result.probs[i])  # type: ignore[index]

    # As a reward: of one list, the chances that these probabilities state.
    reward = GroupReward(judge, {"schedule": "listwise"}, rubric=RUBRIC)
    rewards = reward(["add 1 and 2 ."] * 4, answers)
    order = sorted(range(4), key=lambda i: rewards[i] or 0)
    by_text = sorted(answers, key=content_id)
    [asked] = judge.choose_many([("add 1 and 2 .", by_text, RUBRIC)])
    assert [answers[i] for i in order] == sorted(
        answers, key=lambda text: (asked.probs or ())[by_text.index(text)]
    )
    with SharedJudge(judge) as shared, running(create_app(shared)) as url:
        body = {"prompt": USER[0]["content"], "answers": answers, "rubric": RUBRIC.model_dump()}
        served = httpx.post(
            f"{url}/reward", json=body | {"settings": {"schedule": "listwise"}}, trust_env=False, timeout=120
        )
    assert served.status_code == 200 and served.json()["rewards"] == pytest.approx(rewards, abs=CLOSE)
    assert served.json()["comparisons"] == 1


def test_a_wording_without_criteria_is_refused(
    engine: VLLMEngine, encoders: dict[str, ChatEncoder], toy_prompts: PromptFile
) -> None:
    judge = Judge(engine, encoders["direct"], toy_prompts, JudgingConfig())
    with pytest.raises(ConfigError, match="a template of the prompt file does not show them"):
        judge.compare(USER, "3", "4", rubric=RUBRIC)
    with pytest.raises(ConfigError, match="a template of the prompt file does not show them"):
        next(judge.choose_many([(USER, ["3", "4"], RUBRIC)]))
    with pytest.raises(ConfigError, match="no key `rating`"):
        next(judge.rate_many([(USER, "3", RUBRIC)]))


def test_rubrics_over_http(judge: Lent) -> None:
    def post(path: str, body: Any) -> tuple[int, Any]:
        with httpx.Client(base_url=url, trust_env=False, timeout=120) as client:
            headers = {"Content-Type": "application/json"}
            answer = client.post(path, content=json.dumps(body).encode("ascii"), headers=headers)
        return answer.status_code, answer.json()

    rubric = RUBRIC.model_dump()
    with SharedJudge(judge) as shared, running(create_app(shared, limits=Limits(criteria=3, text=50))) as url:
        status, reply = post("/compare", {"prompt": "add", "a": "3", "b": "4", "rubric": rubric})
        own = judge.compare("add", "3", "4", rubric=RUBRIC)
        assert status == 200 and reply["prob_a"] == pytest.approx(own.prob_a, abs=CLOSE)
        assert list(reply["criteria"]) == ["right", "short"] and len(reply["criteria"]["short"]) == 8
        _, scored = post("/score", {"prompt": "add", "answer": "good", "reference": "4", "rubric": rubric})
        assert scored["score"] == scored["prob_a"] == pytest.approx(reply["prob_a"], abs=CLOSE)
        _, shown = post("/compare", {"prompt": "add", "a": "3", "b": "4", "criteria": "short \ud800"})
        assert "criteria" not in shown and shown["winner"]
        status, reply = post("/rate", {"prompt": "add", "answer": "good"})
        assert status == 200 and reply["score"] == pytest.approx((reply["rating"] - 1) / 9)
        status, reply = post("/rate", {"prompt": "add", "answer": "good", "rubric": ["right", "short"]})
        assert status == 200 and set(reply["scores"]) == {"right", "short"} == set(reply["criteria"])
        assert reply["score"] == pytest.approx(sum((s - 1) / 4 for s in reply["scores"].values()) / 2)
        _, best = post("/best_of_n", {"prompt": "add", "answers": ["3", "4"], "rubric": ["right"]})
        assert best["answer"] in ("3", "4")
        for bad, expected in (
            ([], 422), (["a", "a"], 422), ([{"name": "a", "scale": [5, 1]}], 422),
            (["a", "b", "c", "d"], 413), ([{"name": "a", "text": "x" * 51}], 413),
        ):  # fmt: skip
            status, reply = post("/rate", {"prompt": "add", "answer": "good", "rubric": bad})
            assert status == expected and reply["error"], (bad, reply)

        remote = RemoteJudge(url)
        rows = [(USER, "good", RUBRIC), ("add", "bad"), (with_criteria(USER, "- own"), "good")]
        for there, here in zip(list(remote.rate_many(rows)), judge.rate_many(rows), strict=True):
            assert type(there) is type(here) and (there.rating, there.tokens) == (here.rating, here.tokens)
            assert getattr(there, "scores", None) == getattr(here, "scores", None)
        rows = [(USER, "3", "4", RUBRIC), (with_criteria(USER, "short"), "3", "4")]
        for one, other in zip(list(remote.compare_many(rows)), judge.compare_many(rows), strict=True):
            assert same(one, other) and type(one) is type(other)
        assert shared.counts["ratings"] == 5
        with pytest.raises(DataError, match="criteria: 4 are too many"):
            list(remote.rate_many([("add", "3", Rubric.model_validate(list("abcd")))]))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_of_the_shell(judge: Lent, tmp_path: Path) -> None:
    row = {"prompt": "add", "answer": "good", "a": "3", "b": "4"}
    rows = [
        row,
        row | {"rubric": ["own"]},
        row | {"criteria": ["short", "right"]},
        row | {"criteria": "short", "rubric": ["own"]},
        row | {"rubric": [{"name": "x", "wieght": 2}]},
    ]
    source = written(tmp_path / "in.jsonl", rows)
    for verb in ("rate", "compare"):
        out = tmp_path / f"{verb}.jsonl"
        ask(verb, lambda: judge, source, str(out), rubric=RUBRIC)
        first, own, shown = read(out)
        assert list(first["criteria"]) == ["right", "short"] and list(own["criteria"]) == ["own"]
        assert "criteria" not in shown, "all criteria at once"
        reasons = [drop["reason"] for drop in read(Path(f"{out}.dropped.jsonl"))]
        assert reasons == ["criteria_and_rubric", "bad_rubric"]
        if verb == "rate":
            rating = judge.score("add", "good", rubric=RUBRIC)
            assert (first["score"], set(first["scores"])) == (rating, {"right", "short"})
            assert own["criteria"]["own"]["outcome"] == "ok" and shown["score"] is not None
        else:
            expected = judge.compare(
                with_criteria([{"role": "user", "content": "add"}], "- short\n- right"), "3", "4"
            )
            assert shown["prob_a"] == pytest.approx(expected.prob_a, abs=CLOSE)
            assert first["criteria"]["right"]["winner"] in ("A", "B", "tie")
    assert [len(read(tmp_path / f"{verb}.jsonl")) for verb in ("rate", "compare")] == [3, 3]


def test_a_draft_with_our_own_judge(
    judge: Lent, prompts: PromptFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge of a recipe decides by the criteria that a server writes."""
    monkeypatch.setattr(Judge, "from_recipe", lambda *_, **__: judge)
    names = ["right", "short", "polite"]
    said = json.dumps({"criteria": [{"name": name, "text": f"it is {name}"} for name in names]})

    def reply(received: ReceivedRequest) -> Reply:
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        return 200, {"id": "c", "object": "chat.completion", "created": 1, "model": "w", "choices": [choice]}

    rows = [{"prompt": f"say {n}", "chosen": f"{n}", "rejected": f"no {n}"} for n in range(30)]
    source, target = written(tmp_path / "rows.jsonl", rows), tmp_path / "rubric.yaml"
    with serving(reply) as server:
        settings = RubricDraft.model_validate(
            {
                "own_judge": {"recipe": "configs/demo.yaml", "name": "base-direct"},
                "writer": {"kind": "openai", "api": "chat", "urls": [f"{server.url}/v1"], "model": "w"},
                "proposals": {"requests": 2},
                "keep": {"accuracy": 0, "coverage": 0, "same_verdicts": 1},
            }
        )
        with suppress(DataError):  # a tiny model may have no verdict that agrees in both orders
            draft(source, settings, target)
    report = json.loads((tmp_path / "rubric.draft" / "report.json").read_text())
    assert report["answers"] == {"ok": 2} and report["candidates"] == 3
    assert {one["name"] for one in report["criteria"]} == set(names)
    kept = {one["name"] for one in report["criteria"] if one["fate"] == "kept"}
    assert (
        {criterion.name for criterion in load_rubric(target).criteria} == kept
        if kept
        else not target.exists()
    )
    assert all(one["proposed"] == 2 and one["selection"]["unread"] == 0 for one in report["criteria"])
    # Every verdict is that of the judge which is asked by this criterion.
    lines = read(tmp_path / "rubric.draft" / "selection" / "completions.jsonl")
    assert len([line for line in lines if "#" not in line["id"]]) == 3 * 2 * report["rows"]["select"]
    decided = {one["name"]: one["selection"]["accuracy"]["rows"] for one in report["criteria"]}
    selecting = {
        json.loads(line)["prompt"]: json.loads(line) for line in Path(source).read_text().splitlines()
    }
    for name in names:
        rubric = Rubric.model_validate([{"name": name, "text": f"it is {name}"}])
        compared = judge.compare_many(
            (row["prompt"], row["chosen"], row["rejected"], rubric) for row in selecting.values()
        )
        agree = sum(
            len({(v.winner == "A") == (v.order == "AB") for v in one.criteria[name].verdicts}) == 1
            for one in compared
            if isinstance(one, RubricComparison)
        )
        assert decided[name] <= agree


def test_grpo_learns_from_a_rubric(judge: Lent, tiny_model: Path, toy_tokenizer: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    questions = ("count to three", "name a colour", "add two and two", "say no")
    own = [{"name": "polite", "weight": 2.0, "levels": {"1": "rude"}}, {"name": "right", "text": "is right"}]
    rubrics = [own, None, own, None]
    turns = [[{"role": "user", "content": question}] for question in questions]
    rows = Dataset.from_dict({"prompt": turns, "rubric": rubrics})
    assert rows[0]["rubric"][0]["text"] is None, "Arrow fills in what a row leaves out"
    reward = GroupReward(judge, {"schedule": "pointwise"}, rubric=RUBRIC, rubric_column="rubric")
    records: list[tuple[Any, Any, list[float | None]]] = []

    def kept(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        values = reward(prompts, completions, **columns)
        records.append((prompts, completions, values))
        return values

    kept.__name__ = reward.__name__
    config = GRPOConfig(
        output_dir=str(tmp_path), max_steps=2, use_cpu=True, bf16=False, report_to="none", save_strategy="no",
        disable_tqdm=True, seed=1, logging_steps=1, per_device_train_batch_size=6, num_generations=3,
        max_completion_length=6, learning_rate=1e-3,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=str(tiny_model),
        reward_funcs=kept,
        args=config,
        train_dataset=rows,
        processing_class=toy_tokenizer,
    )
    trainer.train()
    assert len(records) == 2 and all(len(values) == 6 for _, _, values in records)
    by_question = {turn[0]["content"]: rubric for turn, rubric in zip(turns, rubrics, strict=True)}
    for asked, completions, values in records:
        for prompt, completion, value in zip(asked, completions, values, strict=True):
            rubric = by_question[prompt[0]["content"]]
            expected = Rubric.model_validate(rubric) if rubric else RUBRIC
            score = judge.score(prompt, completion[-1]["content"], rubric=expected)
            assert (value, score) == (None, None) or value == pytest.approx(score)
    logged = [entry for entry in trainer.state.log_history if "rewards/judge_rating/mean" in entry]
    for entry, (_, _, values) in zip(logged, records, strict=True):
        read = [value for value in values if value is not None]
        assert entry["rewards/judge_rating/mean"] == pytest.approx(math.fsum(read) / len(read), abs=1e-6)
        assert entry["judge_unread"] == values.count(None) / 6
