"""The recorded outputs, by area: each function runs in an empty folder and returns {name of the output: content}."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from golden import inputs
from golden.engine import ScriptedEngine, ScriptedHead, draw
from reasongenrm.answers import model as answer_model_module
from reasongenrm.answers.generate import generate
from reasongenrm.benchmarks.leaderboard import Entry, leaderboard_files
from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.benchmarks.rewardbench import TOY
from reasongenrm.chat.encoder import ChatEncoder, judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.cli import main
from reasongenrm.config.engines import ModelConfig
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.config.recipe import Recipe
from reasongenrm.config.scalar import AnswersConfig, ScalarRecipe
from reasongenrm.data.ranked import agreement
from reasongenrm.demo.build import rewardbench_row, skywork_row, toy_general
from reasongenrm.demo.world import toy_pairs
from reasongenrm.errors import ReasonGenRMError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.reasons.records import dpo_row, grpo_row, write_general
from reasongenrm.reasons.sample import sample_reasons, teacher_encoder
from reasongenrm.records import Drop, JudgePrompt, Row, ScoredReason, SFTRecord
from reasongenrm.report.data_page import write_report as write_data_report
from reasongenrm.rewards.group import GroupReward
from reasongenrm.run import Run
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.service.bodies import Limits
from reasongenrm.service.server import create_app
from reasongenrm.stages import judges as judges_stage
from reasongenrm.stages import scalar as scalar_stage
from reasongenrm.stages.ask import ask
from reasongenrm.stages.evaluate import evaluate
from reasongenrm.stages.pairs import write_pairs
from reasongenrm.stages.reasons import fit_reasons, read_pair_prompts, reasons_file, write_records
from reasongenrm.stages.scalar import score_rows
from reasongenrm.stages.scalar_answers import load
from reasongenrm.store import PartStore, to_json, write_json, write_jsonl

Outputs = dict[str, bytes]
ROOT = Path(__file__).resolve().parents[2]
TOY_BASE = {"path": "data/toy-base", "dtype": "float32"}
STATE = {"versions": {"torch": "0"}, "git": "0" * 40, "python": "3", "machine": {"cores": 1}}
"""What a manifest has in place of the state of this checkout and machine."""


# ---- helpers


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[None]:
    """Work in a folder that shows the shipped configs and the toy base, so that no output holds an absolute path."""
    before, environment = Path.cwd(), dict(os.environ)
    for name in ("configs", "data"):
        (folder / name).symlink_to(ROOT / name)
    os.chdir(folder)
    for name in ("FORCE_COLOR", "COLUMNS", "LINES"):
        os.environ.pop(name, None)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)


def text(value: Any) -> bytes:
    """Return plain JSON values as indented JSON, in the order of their keys."""
    return json.dumps(value, indent=1, ensure_ascii=True).encode()


def printed(function: Callable[[], Any]) -> bytes:
    """Return what a function prints to stdout."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        function()
    return out.getvalue().encode("utf-8", "surrogatepass")


def command(*words: str) -> bytes:
    """Return what a command prints to stdout."""

    errors = io.StringIO()

    def run() -> None:
        with contextlib.redirect_stderr(errors):
            status = main(list(words))
        assert status == 0, errors.getvalue()

    return printed(run)


def problem(function: Callable[[], Any]) -> str:
    """Return the message of the error that a function raises."""
    try:
        function()
    except ReasonGenRMError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("there was no error")


def lines(path: str, rows: Iterable[Any]) -> str:
    """Write a JSONL file, or a JSON array; a text is a line as it is."""
    if path.endswith(".json"):
        Path(path).write_text(json.dumps(list(rows)), encoding="utf-8")
    else:
        written = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        Path(path).write_text("".join(line + "\n" for line in written), encoding="utf-8")
    return path


def drops(name: str, rows: Iterable[dict[str, Any]]) -> Outputs:
    """Return drops as two outputs: where and why, and the sentences for the user."""
    found = list(rows)
    slugs = [{key: value for key, value in row.items() if key != "detail"} for row in found]
    return {f"{name}.json": text(slugs), f"{name}.details.json": text([row["detail"] for row in found])}


def read(path: Path | str) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def files(folder: Path, *patterns: str) -> Outputs:
    """Return the files of a folder by their path inside, without the end marks, which follow from them; a page without its
    pictures."""
    found = {}
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and path.suffix != ".end":
                data = path.read_bytes()
                if path.suffix == ".html":
                    data = re.sub(rb"data:image/png;base64,[\w+/=]+", b"PNG", data)
                found[path.relative_to(folder).as_posix()] = data
    return found


@cache
def tokenizer() -> Any:
    """The tokenizer of the toy base."""
    return load_tokenizer(ModelConfig(path=str(ROOT / TOY_BASE["path"])))


def judge(
    template: str | None = "reason", wording: str = "toy", max_model_len: int = 1024, **asking: Any
) -> Judge:
    """Return a judge on the scripted engine; without a template it is asked by messages."""
    prompts = PromptFile.load(f"configs/prompts/{wording}.yaml")
    encoder = None
    if template:
        chat = Path(f"configs/prompts/{template}.jinja").read_text(encoding="utf-8")
        encoder = ChatEncoder(tokenizer(), chat, prompts.verdict)
    engine = ScriptedEngine(encoder, max_model_len=max_model_len)
    config = JudgingConfig.model_validate({"max_tokens": 64} | asking)
    return Judge(engine, encoder, prompts, config, adapter="adapter")


JUDGES: dict[str, dict[str, Any]] = {
    "reason": {},
    "direct": {"template": "direct"},
    "messages": {"template": None},
    "votes": {"votes": 3, "temperature": 1.0, "margin": 0.2},
    "majority": {"votes": 3, "temperature": 0.7, "combine": "majority", "both_orders": False},
    "unrescued": {"rescue": False},
}


# ---- areas


def judge_jsonl() -> Outputs:
    """`reasongenrm judge compare | rank | best | score`, from file to file and from stdin to stdout."""
    found: Outputs = {}
    rows = {"compare": inputs.COMPARE, "rank": inputs.SEVERAL, "best": inputs.SEVERAL, "score": inputs.SCORE}
    asked = [("reason", verb) for verb in rows] + [(name, "compare") for name in JUDGES if name != "reason"]
    asked += [("messages", "score"), ("messages", "rank")]
    for name, verb in asked:
        source, target = lines("in.jsonl", rows[verb]), f"{name}-{verb}.jsonl"
        ask(verb, lambda name=name: judge(**JUDGES[name]), source, target)
        found[target] = Path(target).read_bytes()
        if name == "reason":
            found |= drops(f"{verb}-dropped", read(f"{target}.dropped.jsonl"))
    lines("in.jsonl", inputs.COMPARE)
    with patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("in.jsonl").read_bytes()))):
        found["stdout.jsonl"] = printed(lambda: ask("compare", judge, "-", "-"))
    empty = lines("empty.jsonl", ["{broken"])
    errors = [
        problem(lambda: ask("compare", judge, empty, "none.jsonl")),
        problem(lambda: ask("compare", judge, "nowhere.jsonl", "none.jsonl")),
        problem(lambda: ask("compare", judge, empty, "reason-compare.jsonl")),
    ]
    return found | {"errors.json": text(errors)}


def judge_api() -> Outputs:
    """`Judge`: comparisons, tournaments, scores, ratings; and the rewards for reinforcement learning."""
    rows = [(row["prompt"], row["a"], row["b"]) for row in inputs.COMPARE[:43]]
    found = {"comparisons.jsonl": b"\n".join(text(to_json(c)) for c in judge().compare_many(rows))}
    answers = [f"{n} {'x' * n}" for n in range(6)]
    for method in ("round_robin", "knockout"):
        ranking = judge().rank("which", answers, method=method)
        games = [(g.first, g.second, g.comparison.winner) for g in ranking.games]
        values = {
            "order": ranking.order,
            "ratings": ranking.ratings,
            "unread": ranking.unread,
            "games": games,
        }
        found[f"rank-{method}-bradley_terry.json"] = text(values)
    best = [judge().best_of_n(inputs.TURNS, answers[:n]) for n in range(1, 6)]
    found["best_of_n.json"] = text([(one.index, one.answer) for one in best])
    found["score.json"] = text([judge().score("which", answer, answers[0]) for answer in answers])
    for name, template in (("reason", "reason"), ("direct", "direct"), ("messages", None)):
        rater = judge(template, "judge", 4096)
        rated = rater.rate_many([(f"question {n // 3}", f"answer {n}") for n in range(24)])
        found[f"ratings-{name}.json"] = text([to_json(one) for one in rated])
        found[f"score-alone-{name}.json"] = text([rater.score("q", answer) for answer in answers])
    voting = judge("reason", "judge", 4096, votes=3, temperature=1.0)
    found["ratings-votes.json"] = text(
        [to_json(one) for one in voting.rate_many([("q", a) for a in answers])]
    )
    grouped = GroupReward(judge())(["p", "p", "p", "q", "q"], ["a", "b", "b", "c", "d"])
    referred = GroupReward(judge(), {"schedule": "reference"}, reference="best")
    messages = [[{"role": "assistant", "content": answer}] for answer in answers]
    rewards = referred([inputs.TURNS] * 6, messages, best=answers[::-1])
    found["rewards.json"] = text([grouped, rewards])
    errors = [
        problem(lambda: judge().compare([], "a", "b")),
        problem(lambda: judge().compare("q", 3, "b")),
        problem(lambda: judge().rank("q", [])),
        problem(lambda: judge().score("q", "a")),
        problem(lambda: GroupReward(judge(), reference="x")),
        problem(lambda: referred(["p"], ["a"])),
    ]
    return found | {"errors.json": text(errors)}


JSON = {"Content-Type": "application/json"}
TURN = {"role": "user", "content": "q"}
GOOD = {"prompt": "count to 3", "a": "1 2 3", "b": "no"}
HTTP_GOOD: list[tuple[str, Any]] = [
    *(("/compare", {"prompt": f"add {n} and 1", "a": str(n + 1), "b": str(n)}) for n in range(24)),
    ("/compare", {"messages": [TURN], "a": "x", "b": inputs.EVIL}),
    ("/compare", {"prompt": "half \ud800", "a": "\ud800", "b": "y"}),
    ("/score", {"prompt": "q", "answer": "x", "reference": "y"}),
    ("/score", {"messages": [TURN], "answer": "x", "reference": "x"}),
    *(("/rank", {"prompt": "q", "answers": ["a", "b", "c", "d"], "method": m}) for m in ("round_robin", "knockout")),
    ("/rank", {"prompt": "q", "answers": ["one"]}),
    ("/best_of_n", {"prompt": "q", "answers": ["a", "b", "c"]}),
    ("/get_reward", {"query": ["pa", "pb", "pc"], "prompts": ["p"] * 3}),
    ("/get_reward", {"query": ["pa<|im_end|>", "qb"], "prompts": ["p", "q"], "labels": ["a", "c"]}),
    ("/get_reward", {"query": ["pa", "pb", "qc"], "prompts": ["p", "p", "q"], "labels": ["", None, "c"]}),
    ("/get_reward", {"query": [], "prompts": []}),
]  # fmt: skip
HTTP_BAD: list[tuple[str, Any]] = [
    ("/compare", {"prompt": "p", "a": "x"}),
    ("/compare", GOOD | {"extra": 1}),
    ("/compare", GOOD | {"a": 7}),
    ("/compare", GOOD | {"messages": [TURN]}),
    ("/compare", {"a": "x", "b": "y"}),
    ("/compare", {"messages": [{"role": "reason", "content": "q"}], "a": "x", "b": "y"}),
    ("/compare", {"messages": [TURN, TURN], "a": "x", "b": "y"}),
    ("/compare", {"messages": [], "a": "x", "b": "y"}),
    ("/compare", GOOD | {"prompt": "  "}),
    ("/compare", GOOD | {"a": "x" * 2001}),
    ("/compare", GOOD | {"prompt": "x" * 2001}),
    ("/compare", {"messages": [TURN] * 4, "a": "x", "b": "y"}),
    ("/compare", GOOD | {"a": "x" * 30_000}),
    ("/compare", [1, 2]),
    ("/compare", b"{torn"),
    ("/compare", b"\xff"),
    ("/score", GOOD),
    ("/rank", {"prompt": "p", "answers": []}),
    ("/rank", {"prompt": "p", "answers": ["x"] * 5}),
    ("/rank", {"prompt": "p", "answers": ["x", "y"], "method": "guess"}),
    ("/best_of_n", {"prompt": "p", "answers": ["x", 1]}),
    ("/get_reward", {"query": ["pa"], "prompts": ["p", "q"]}),
    ("/get_reward", {"query": ["pa"], "prompts": ["p"]}),
    ("/get_reward", {"query": ["pa", "qb"], "prompts": ["p", "p"]}),
    ("/get_reward", {"query": ["p"] * 5, "prompts": ["p"] * 5}),
    ("/get_reward", {"query": ["p"] * 7, "prompts": ["p"] * 7, "labels": ["x"] * 7}),
    ("/nowhere", {}),
    ("/health", {}),
]


def http() -> Outputs:
    """Every route of the judge's server, with valid and invalid bodies."""
    from starlette.testclient import TestClient

    limits = Limits(body=20_000, text=2000, turns=3, answers=4, queries=6)
    found: Outputs = {}
    with SharedJudge(judge()) as shared:
        app = create_app(shared, model="tiny", limits=limits, ends=("<|im_end|>",))
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        answers: dict[str, list[Any]] = {}
        for path, body in HTTP_GOOD:
            answer = client.post(path, content=json.dumps(body).encode(), headers=JSON)
            assert answer.status_code == 200, answer.text
            answers.setdefault(path, []).append([answer.status_code, answer.json()])
        answers["/health"] = [[200, client.get("/health").json()]]
        found |= {f"{path[1:]}.json": text(values) for path, values in answers.items()}
        bad = []
        for path, body in HTTP_BAD:
            sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            answer = client.post(path, content=sent, headers=JSON)
            bad.append((answer.status_code, answer.json()))
        bad += [
            (a.status_code, a.json())
            for a in (client.get("/compare"), client.get("/docs"), client.post("/compare", content=b"{}"))
        ]
        found["errors.statuses.json"] = text([status for status, _ in bad])
        found["errors.bodies.json"] = text([body for _, body in bad])
        found["openapi.json"] = text(client.get("/openapi.json").json())
        closed = TestClient(
            create_app(shared, api_key="secret"), base_url="http://127.0.0.1", raise_server_exceptions=False
        )
        keys = (None, "Bearer wrong", "Bearer secret")
        given = [closed.get("/health", headers={"Authorization": key} if key else {}) for key in keys]
        found["keys.json"] = text([(a.status_code, a.headers.get("www-authenticate")) for a in given])
    return found


def _named_manifest(folder: Path) -> None:
    """Put fixed values in place of what a manifest says of this checkout and machine."""
    path = folder / "manifest" / "evaluate.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | STATE)


def report() -> Outputs:
    """`reasongenrm report` and `compare` on made-up runs, their model cards, and the leaderboards' files."""
    from support.judged_run import evil_row, judged, rows_of, scored, toy_run, write_run

    first = toy_run(Path("runs/toy"), each=5)
    rows = [*rows_of(TOY.subsets, 5), evil_row("toy-chat")]
    models = {"base": judged(rows, "base", skill=0.5), "reasongenrm": judged(rows, "reasongenrm", skill=0.6)}
    second = write_run(
        Path("runs/other"), {"toy": (rows, models | {"scalar": scored(rows)})}, model="data/toy-base"
    )
    training = {"records": 2650, "tokens_seen": 900997, "steps": 319, "final_loss": 0.03818}
    write_json(first / "judges" / "reasongenrm" / "training.json", training)
    for folder in (first, second):
        _named_manifest(folder)
    from reasongenrm.report.model_card import write_model_card

    command("report", "runs/toy")
    for name in ("reasongenrm", "genrm"):
        write_model_card(first, name)
    found = files(first, "scores.json", "report.*", "plots/*", "judges/*/README.md", "evaluate/**/*.jsonl")
    found["compare.txt"] = command("compare", "runs/toy", "runs/other", "--out", "runs/compare")
    found |= files(Path("runs/compare"), "*")
    found["compare-one.txt"] = command("compare", "runs/toy:base", "runs/toy:scalar", "--out", "runs/one")
    for kind, subsets in (
        ("rewardbench", ("alpacaeval-easy", "hep-go")),
        ("rewardbench2", ("Math", "Focus")),
    ):
        some = rows_of(subsets, 4)
        if kind == "rewardbench2":
            some = [Row.make(r.subset, r.history, ["a"], [f"b{k} {r.id}" for k in range(3)]) for r in some]
        results = judged(some, "x")
        scored_details = BENCHMARKS[kind].score_details(some, results)
        board = leaderboard_files(scored_details, some, results, Entry("golden/x"))
        found[f"leaderboard-{kind}.json"] = text(board)
    errors = [
        problem(lambda: write_model_card(first, "nobody")),
        problem(
            lambda: leaderboard_files(
                BENCHMARKS["rewardbench"].score_details(rows, scored(rows)), rows, scored(rows), Entry("x")
            )
        ),
    ]
    return found | {"errors.json": text(errors)}


ASKED: Any = ({"role": "user", "content": "which ?"},)


def export() -> Outputs:
    """`reasongenrm export` in its four layouts."""
    prompt = JudgePrompt("p", "pair", "AB", ASKED, "A", "src")
    sides = [
        ScoredReason(f"p#t#{n}", "p", f"so {v} <think>", v, "A", -0.5, p, 2, "t", "hindsight")
        for n, (v, p) in enumerate((("A", -0.1), ("B", -3.0)))
    ]
    evil: Any = ({"role": "user", "content": f"{inputs.EVIL} </think> <image> [INST] <s>"},)
    rows: dict[str, list[dict[str, Any]]] = {
        "sft": [
            SFTRecord(a, "so A", "[[A]]", "p", "src", "pair", "AB", "t", 0.5).to_row() for a in (ASKED, evil)
        ],
        "genrm": [SFTRecord(ASKED, "", "[[A]]", "p", "src", "pair", "AB").to_row()],
        "general": [
            SFTRecord(tuple(inputs.TURNS), "r", "a2", "g", "chat").to_row(),
            SFTRecord(ASKED, "", "a", "h", "chat").to_row(),
        ],
        "dpo": [dpo_row(prompt, *sides)],
        "grpo": [grpo_row(prompt, 1, 4)],
    }
    for name, some in rows.items():
        write_jsonl(Path("runs/golden") / f"{name}.jsonl", some)
    config = lines("recipe.yaml", [_recipe()])
    found = files(Path("runs/golden"), "*.jsonl")
    for layout in ("plain", "trl", "llamafactory", "openrlhf"):
        command("export", config, "--to", layout)
        found |= files(Path("runs/golden"), f"export/{layout}/*")
    return found


def _recipe(**sections: Any) -> dict[str, Any]:
    """Return a recipe as plain values: JSON is YAML."""
    return {
        "name": "golden",
        "model": TOY_BASE,
        "prompts": "configs/prompts/toy.yaml",
        "engine": {"max_model_len": 512},
        "data": {
            "sources": [{"path": "train.jsonl"}, {"path": "ranked.csv", "kind": "ranked"}],
            "max_tokens": 256,
        },
        "teachers": {
            "student": {"samples": 3, "max_tokens": 64},
            "blind": {"mode": "blind", "samples": 2, "max_tokens": 64},
        },
        "select": {"threshold": 0.05, "min_kept": 0.3, "giveaway_words": 3},
        "records": {"dpo": {}, "grpo": {}, "general": [{"path": "general.jsonl", "weight": 0.5}]},
        "judges": {"reasongenrm": {"general": True}, "genrm": {"template": "direct"}},
        "train": {"launch": "configs/accelerate/cpu-2proc.yaml"},
        "scalar": None,
        "evaluate": {"benchmarks": {"toy": {"path": "bench.jsonl"}}, "max_tokens": 64},
    } | sections


def _write_scored(recipe: Recipe, run: Run, prompts: PromptFile) -> None:
    """Write `scored.jsonl` as the student would, with made-up log-probabilities."""
    rows = [
        ScoredReason(
            reason.id,
            prompt.id,
            reason.text,
            reason.verdict or "A",
            prompt.winner,
            -(draw(reason.id) % 300) / 100,
            -(draw("verdict", reason.id) % 120) / 100,
            len(reason.text.split()),
            reason.teacher,
            reason.mode,
        )
        for prompt, fit in fit_reasons(recipe, run, prompts)
        for reason in fit
    ]
    write_jsonl(run.path("scored.jsonl"), map(to_json, rows))


def prepare() -> Outputs:
    """Stage 1 on toy rows, its reasons sampled from the scripted engine; its previews, and `reasongenrm select`."""
    lines("train.jsonl", inputs.PAIRS)
    lines("general.jsonl", inputs.GENERAL)
    Path("ranked.csv").write_text(inputs.RANKED, encoding="utf-8")
    toys = [toy for toy in inputs.REWARDBENCH if isinstance(toy, dict) and toy.get("id", 0) < 9]
    leaked = inputs.toy_row(99, "hep-go", prompt=inputs.CONTAMINATED)
    config = lines("recipe.yaml", [_recipe()])
    lines("bench.jsonl", [*toys, leaked])
    recipe = Recipe.model_validate(_recipe())
    run = Run(recipe, "prepare")
    values = write_pairs(recipe, run)
    prompts = PromptFile.load(recipe.prompts)
    for name, teacher in recipe.teachers.items():
        encoder = teacher_encoder(recipe, name)
        sample_reasons(
            read_pair_prompts(run), ScriptedEngine(encoder, writes="reasons"), encoder, prompts, teacher,
            name=name, seed=recipe.seed, store=PartStore(reasons_file(run, name)),
        )  # fmt: skip
    _write_scored(recipe, run, prompts)
    encoder = judge_encoder(recipe, recipe.student_template, tokenizer())
    sections = write_records(recipe, run, prompts, encoder)
    records = sections["records"]
    sections["general"] = write_general(recipe, run, encoder, records["sft"])
    sections["agreement"] = {"ranked.csv": agreement("ranked.csv")}
    write_data_report(values | sections, run.path("data_report.json"), run.path("data_report.html"))
    found = files(run.folder, "*.json", "*.html", "*.jsonl", "reasons/*.jsonl")
    for name in ("dropped", "reasons_dropped", "general_dropped"):
        del found[f"{name}.jsonl"]
        found |= drops(name, read(run.path(f"{name}.jsonl")))
    found["select.txt"] = command("select", config)
    found["select-one.txt"] = command("select", config, "--selector", "longest_correct", "--against", "rstar")
    for stage in ("prepare", "train", "evaluate"):
        found[f"dry-run-{stage}.txt"] = command(stage, config, "--dry-run")
    return found


def evaluation() -> Outputs:
    """Stage 3 with the scripted engine and head: four benchmarks, one of them by ratings."""
    for name in ("rewardbench", "rewardbench2", "pairs"):
        lines(*inputs.BENCHMARKS[name])
    bench = [rewardbench_row(n, pair) for n, pair in enumerate(toy_pairs("test", 2, 17))]
    lines("bench.jsonl", bench)
    benchmarks = {
        "toy": {"path": "bench.jsonl"},
        "v1": {"path": "rewardbench.jsonl"},
        "v2": {"kind": "rewardbench2", "path": "rewardbench2.jsonl", "limit": 12},
        "mine": {"kind": "pairs", "path": "mine.jsonl", "mode": "ratings"},
    }
    asked = {"benchmarks": benchmarks, "max_tokens": 64}
    recipe = Recipe.model_validate(
        _recipe(
            prompts="configs/prompts/judge.yaml",
            engine={"max_model_len": 4096},
            scalar={"model": "build/toy/distilbert"},
            evaluate=asked,
        )
    )
    for name in recipe.judges:
        adapter = recipe.folder / "judges" / name / "adapter"
        adapter.mkdir(parents=True)
        trained_on = {"base_model_name_or_path": recipe.model.path}
        (adapter / "adapter_config.json").write_text(json.dumps(trained_on), encoding="utf-8")
    (recipe.folder / "scalar").mkdir()

    def load_engine(*_: Any, **__: Any) -> ScriptedEngine:
        return ScriptedEngine(judge_encoder(recipe, "reason", tokenizer()), max_model_len=4096)

    with (
        patch.object(judges_stage, "load_engine", load_engine),
        patch.object(ScalarRewardModel, "from_pretrained", lambda *_: ScriptedHead()),
    ):
        found = {"tables.txt": printed(lambda: evaluate(recipe))}
    found |= files(recipe.folder, "scores.json", "table.md", "evaluate/*/*.jsonl", "evaluate/*/*/*.json*")
    found |= files(recipe.folder, "evaluate/*/*/leaderboard/**/*.json")
    return {name: content for name, content in found.items() if not name.endswith("seconds.json")}


def benchmarks() -> Outputs:
    """The rows that each benchmark reads from a small file, and its scores of made-up results."""
    from support.judged_run import judged, scored

    found: Outputs = {}
    for kind, (name, raw) in inputs.BENCHMARKS.items():
        items = list(BENCHMARKS[kind].rows(lines(name, raw)))
        rows = [item for item in items if isinstance(item, Row)]
        found[f"{kind}.rows.json"] = text([to_json(row) for row in rows])
        found |= drops(f"{kind}.dropped", [to_json(item) for item in items if isinstance(item, Drop)])
        for model, results in (("judge", judged(rows, "judge")), ("scalar", scored(rows))):
            found[f"{kind}.score-{model}.json"] = text(asdict(BENCHMARKS[kind].score(rows, results, seed=17)))
    errors = []
    for kind, raw in inputs.REFUSED:
        path = lines("refused.jsonl", raw)
        errors.append(problem(lambda kind=kind, path=path: list(BENCHMARKS[kind].rows(path))))
    return found | {"errors.json": text(errors)}


def scalar() -> Outputs:
    """`reasongenrm scalar evaluate | score | best | rank` with the scripted head."""
    Path("ranked.csv").write_text(inputs.RANKED, encoding="utf-8")
    lines("train.jsonl", inputs.PAIRS)
    texts = [f"answer {n} {'x' * (n * 9)}" for n in range(9)] + [inputs.EVIL]
    ranked = [
        {
            "prompt": f"question {p}",
            "answer": f"{t} of {p}",
            "rank": 1 + (n * 7 + p) % 4,
            "model": "m",
            "note": t,
        }
        for p in range(5)
        for n, t in enumerate(texts)
    ]
    unranked = [{"prompt": "q", "answer": "a", "temperature": 0.5}, {"prompt": "q", "answer": ""}, "{torn"]
    answers = {
        "ranked": lines("many.jsonl", ranked),
        "csv": "ranked.csv",
        "unranked": lines("u.jsonl", unranked),
    }
    found: Outputs = {}
    sources = [{"path": "train.jsonl"}, {"path": "ranked.csv", "kind": "ranked"}]
    with patch.object(ScalarRewardModel, "from_pretrained", lambda *_: ScriptedHead()):
        for name, path in answers.items():
            recipe = ScalarRecipe.model_validate(
                {"name": f"head-{name}", "sources": sources, "evaluate": {"answers": path}}
            )
            (recipe.folder / "scalar").mkdir(parents=True)
            scalar_stage.evaluate(recipe)
            for file, data in files(recipe.folder / "evaluation", "*").items():
                if file != "dropped.jsonl":
                    found[f"{name}/{file}"] = data
            found |= drops(f"{name}/dropped", read(recipe.folder / "evaluation" / "dropped.jsonl"))
        for verb, rows in (("score", inputs.HEAD_SCORE), ("best", inputs.SEVERAL), ("rank", inputs.SEVERAL)):
            score_rows(verb, "head", lines("in.jsonl", rows), f"{verb}.jsonl")
            found[f"{verb}.jsonl"] = Path(f"{verb}.jsonl").read_bytes()
            found |= drops(f"{verb}-dropped", read(f"{verb}.jsonl.dropped.jsonl"))
    pairs, left_out = load(recipe)
    found["pairs.json"] = text([pair.to_row() for pair in pairs])
    return found | drops("dropped", [to_json(drop) for drop in left_out])


def answers() -> Outputs:
    """`reasongenrm answers generate` with the scripted engine."""
    config = AnswersConfig.model_validate(
        {
            "prompts": [{"kind": "chat", "prompt": f"name {n} lamps"} for n in range(5)],
            "answers": 4,
            "model": TOY_BASE,
            "stop": ["END"],
            "max_tokens": 24,
        }
    )
    encoder = ChatEncoder(tokenizer(), tokenizer().chat_template)
    engine = ScriptedEngine(encoder, writes="answers")
    with patch.object(answer_model_module, "load_engine", lambda *_, **__: engine):
        counts = generate(config, Path("answers.jsonl"))
    found = files(Path(), "answers.jsonl", "answers.jsonl.completions.jsonl") | {"counts.json": text(counts)}
    return found | drops("dropped", read("answers.jsonl.dropped.jsonl"))


def toy() -> Outputs:
    """Rows of the toy world."""
    found: Outputs = {}
    for split in ("train", "test"):
        pairs = list(toy_pairs(split, 3, 17))
        found[f"{split}.json"] = text([skywork_row(pair) for pair in pairs])
    return found | {"general.json": text(list(toy_general(9, 17)))}


AREAS: dict[str, Callable[[], Outputs]] = {
    "judge_jsonl": judge_jsonl,
    "judge_api": judge_api,
    "http": http,
    "report": report,
    "export": export,
    "prepare": prepare,
    "evaluate": evaluation,
    "benchmarks": benchmarks,
    "scalar": scalar,
    "answers": answers,
    "toy": toy,
}
"""Name of an area -> what makes its outputs."""
