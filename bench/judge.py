"""Speed of the judge against a bare `LLM.generate`, and of what follows its completions.

    python bench/judge.py [RECIPE] [--rows 234] [--repeats 5] [--part engine --part after]
                          [--source ../shared/benchmarks/rewardbench_llmbar.jsonl]

The recipe's judge has to be trained (`make demo`). The rows are toy rows, or those of a file in RewardBench's format.
Every part runs in its own process; within a part the methods run in turn, on one warm engine with an empty prefix
cache, and their medians are compared.

- `engine`: `Judge.compare_many` in both orders, and two calls of `LLM.generate` with the same requests; how far the other
  rows of a batch move P(A); reason and verdict in one completion with log-probabilities at every token, by the judge and
  by the untrained base; and the time per token of log-probabilities.
- `after`: all that comes after the completions of 2,985 rows in both orders, for two judges: parsing, scores,
  statistics and the report.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import machine

from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.engines.base import Request
from reasongenrm.judge.ask import VerdictTask
from reasongenrm.records import JudgePrompt, PreferencePair

if TYPE_CHECKING:
    from reasongenrm.engines.vllm import VLLMEngine

PARTS = ("engine", "after")
REWARDBENCH_ROWS = 2985


def toy_rows(count: int) -> list[PreferencePair]:
    """Return toy pairs that are in no training data."""
    from reasongenrm.demo.world import toy_pairs

    unique: list[PreferencePair] = []
    for pair in toy_pairs("test", count, seed=99):
        if pair.id not in {one.id for one in unique}:
            unique.append(pair)
    return unique[:count]


def rows_of_file(recipe: Recipe, source: str | None, count: int) -> list[PreferencePair]:
    """Return the pairs of a file, or toy pairs without a file; pairs longer than the context are omitted."""
    from reasongenrm.benchmarks.rewardbench import RewardBench
    from reasongenrm.chat.encoder import judge_encoder, load_tokenizer
    from reasongenrm.records import Row
    from reasongenrm.stages.evaluate import benchmark_prompts

    if source is None:
        return toy_rows(count)
    rows = [row for row in RewardBench().rows(source, limit=count) if isinstance(row, Row)]
    encoder = judge_encoder(recipe, recipe.student_template, load_tokenizer(recipe.model))
    room = recipe.engine.max_model_len - recipe.evaluate.max_tokens - 16

    def fits(pair: PreferencePair) -> bool:
        prompts = benchmark_prompts(recipe, [pair])
        return all(len(encoder.encode(one.messages, generation=True)) <= room for one in prompts)

    return [pair for row in rows for pair in row.pairs if fits(pair)]


def in_turn(
    methods: dict[str, Callable[[], Any]], before: Callable[[], None], repeats: int
) -> dict[str, float]:
    """Return the median seconds of each method, after a first round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(repeats + 1):
        for name, way in methods.items():
            before()
            began = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def placed(recipe: Recipe, task: VerdictTask, pairs: Sequence[PreferencePair]) -> list[JudgePrompt]:
    """Return the pairs' judge prompts in both orders."""
    from reasongenrm.stages.evaluate import benchmark_prompts

    return benchmark_prompts(recipe, pairs)


def engine_part(recipe: Recipe, pairs: list[PreferencePair], repeats: int) -> dict[str, Any]:
    """Compare the judge with bare `LLM.generate`, and its two turns with a single completion."""
    from reasongenrm.engines.vllm import VLLMEngine, _completion
    from reasongenrm.judge.api import Judge

    questions = [(list(pair.history), pair.chosen, pair.rejected) for pair in pairs]
    with Judge.from_recipe(recipe) as judge:
        engine, turns = judge.engine, judge.task.turns
        assert isinstance(engine, VLLMEngine) and turns is not None
        prompts = placed(recipe, judge.task, pairs)
        requests = list(judge.task.requests(prompts))

        def bare() -> None:
            reasons = generate(engine, requests, judge.adapter)
            asked = [
                turns.verdict(request, _completion(output, request))
                for request, output in zip(requests, reasons, strict=True)
            ]
            generate(engine, [request for request in asked if request], judge.adapter)

        methods = {"bare": bare, "judge": lambda: list(judge.compare_many(questions))}
        seconds = in_turn(methods, engine.reset_prefix_cache, repeats)
        engine.reset_prefix_cache()
        calm = list(judge.compare_many(questions))
        rescued = sum(v.rescued for c in calm for v in c.verdicts)
        noise = {
            "in another order": _moved(calm, judge, questions, random.Random(1).sample(range(len(questions)), len(questions)), len(questions)),
            "eight rows at a time": _moved(calm, judge, questions, list(range(len(questions))), 8),
        }  # fmt: skip
        forms = {
            name: compare_forms(engine, judge.task, prompts, adapter, repeats)
            for name, adapter in (("judge", judge.adapter), ("base", None))
        }
        cost = logprob_cost(engine, requests, repeats)
    facts = {"rows": len(pairs), "requests": len(requests), "rescued": rescued}
    return seconds | facts | {"noise": noise, "forms": forms, "microseconds": cost}


def generate(engine: VLLMEngine, requests: Sequence[Request], adapter: str | None) -> list[Any]:
    """Return the outputs of `LLM.generate`."""
    from reasongenrm.engines.vllm import sampling_params

    prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
    params = [sampling_params(request) for request in requests]
    outputs: list[Any] = engine._llm.generate(
        prompts, params, lora_request=engine._lora(adapter), use_tqdm=False
    )
    return outputs


def compare_forms(
    engine: VLLMEngine, task: VerdictTask, prompts: list[JudgePrompt], adapter: str | None, repeats: int
) -> dict[str, Any]:
    """Compare reason and verdict as two requests with one completion that has log-probabilities at every token."""
    from reasongenrm.engines.vllm import _completion
    from reasongenrm.judge.memory import ask_in_memory

    assert task.encoder is not None and task.verdict_tokens is not None
    letters = task.verdict_tokens.letters
    stop = (task.grammar.verdicts.closing + task.encoder.end_marker,)
    single = [
        replace(request, max_tokens=task.config.max_tokens, stop=stop, stop_ids=(), ignore_eos=True, logprob_token_ids=letters)
        for request in task.requests(prompts)
    ]  # fmt: skip
    done: dict[str, Any] = {}

    def in_one() -> None:
        done["one"] = [
            _completion(o, r) for o, r in zip(generate(engine, single, adapter), single, strict=True)
        ]

    def in_two() -> None:
        completions = task.engine(engine).complete(task.requests(prompts), adapter=adapter)
        by_id = {completion.id: completion for completion in completions}
        done["two"] = [by_id[prompt.id] for prompt in prompts]

    seconds = in_turn({"one": in_one, "two": in_two}, engine.reset_prefix_cache, repeats)
    verdicts = {
        form: [task.read(prompt, one) for prompt, one in zip(prompts, completions, strict=True)]
        for form, completions in done.items()
    }
    both = [(x, y) for x, y in zip(verdicts["one"], verdicts["two"], strict=True) if x.winner and y.winner]
    engine.reset_prefix_cache()
    final = [verdict for verdict, _ in ask_in_memory(prompts, engine, task, adapter=adapter)]
    return {
        "seconds": seconds,
        "tokens": {form: sum(completion.tokens for completion in found) for form, found in done.items()},
        "requests": {"one": len(single), "two": len(prompts) + sum(v.outcome == "ok" for v in verdicts["two"])},
        "read": {form: sum(v.winner is not None for v in found) for form, found in verdicts.items()},
        "both": len(both),
        "changed": sum(x.winner != y.winner for x, y in both),
        "moved": max((abs(x.prob_a - y.prob_a) for x, y in both if x.prob_a is not None and y.prob_a is not None), default=0.0),
        "rescued": sum(verdict.rescued for verdict in final),
    }  # fmt: skip


def logprob_cost(engine: VLLMEngine, requests: Sequence[Request], repeats: int) -> dict[str, float]:
    """Return the time per decoded token in microseconds, without and with log-probabilities of two tokens."""
    length = 128
    decode = [
        replace(request, id=str(number), max_tokens=length, stop_ids=(), ignore_eos=True)
        for number, request in enumerate(requests[:128])
    ]
    watched = [replace(request, logprob_token_ids=(1, 2)) for request in decode]
    one = [replace(request, max_tokens=1) for request in decode]  # the prompt, which is no decoding
    ways = {"prompt": one, "without": decode, "with": watched}
    seconds = in_turn(
        {name: lambda batch=batch: list(engine.complete(batch)) for name, batch in ways.items()},
        engine.reset_prefix_cache,
        repeats,
    )
    decoded = len(decode) * (length - 1)
    return {name: 1e6 * (seconds[name] - seconds["prompt"]) / decoded for name in ("without", "with")}


def _moved(
    calm: Sequence[Any], judge: Any, questions: Sequence[Any], order: Sequence[int], size: int
) -> list[float]:
    """Return the largest change of P(A) among the verdicts, and how many letters changed."""
    judge.engine.reset_prefix_cache()
    comparisons: dict[int, Any] = {}
    for start in range(0, len(order), size):
        part = order[start : start + size]
        comparisons |= zip(part, judge.compare_many([questions[n] for n in part]), strict=True)
    pairs = [
        (one, two)
        for n, c in enumerate(calm)
        for one, two in zip(c.verdicts, comparisons[n].verdicts, strict=True)
    ]
    assert all((one.id, one.order) == (two.id, two.order) for one, two in pairs), (
        "placement and ids never change"
    )
    moved = max(abs((one.prob_a or 0) - (two.prob_a or 0)) for one, two in pairs)
    return [moved, sum(one.winner != two.winner for one, two in pairs)]


def after_part(recipe: Recipe, pairs: list[PreferencePair], repeats: int) -> dict[str, Any]:
    """Time what follows the completions of RewardBench's number of rows."""
    from reasongenrm.benchmarks.rewardbench import REWARDBENCH
    from reasongenrm.chat.encoder import judge_encoder, load_tokenizer
    from reasongenrm.demo.world import toy_pairs
    from reasongenrm.records import Completion
    from reasongenrm.stages.evaluate import benchmark_prompts, evaluate
    from reasongenrm.store import completion_to_json, dump_line

    rng = random.Random(5)
    judge, settings = next((name, one) for name, one in recipe.judges.items() if one.template != "direct")
    encoder = judge_encoder(recipe, settings.template, load_tokenizer(recipe.model))
    subsets = [s for s, count in REWARDBENCH.published_rows.items() for _ in range(count)]
    with tempfile.TemporaryDirectory() as location:
        folder = Path(location)
        source = toy_pairs("test", REWARDBENCH_ROWS, seed=7)
        lines = [
            {"prompt": list(p.history), "chosen": p.chosen + f" {n}", "rejected": p.rejected, "subset": s}
            for n, (p, s) in enumerate(zip(source, subsets, strict=False))
        ]
        (folder / "rows.jsonl").write_text("".join(map(dump_line, lines)), encoding="utf-8")
        overrides = {"benchmarks": {"rewardbench": {"path": str(folder / "rows.jsonl")}}, "base": False}
        plain = recipe.model_dump(mode="json")
        plain["evaluate"] |= overrides
        run = Recipe.model_validate(
            plain
            | {
                "name": "bench-after",
                "scalar": None,
                "judges": dict.fromkeys((judge, "again"), plain["judges"][judge]),
            }
        )
        os.chdir(_workplace(folder, run, recipe, judge))
        pairs = [pair for row in _rows(run) for pair in row.pairs]
        words = [encoder.content(" ".join(p.history[0]["content"].split() * 6)) for p in pairs[:50]]
        prompts = benchmark_prompts(run, pairs)
        for name in run.judges:
            out = run.folder / "evaluate" / "rewardbench" / name / "completions.jsonl"
            out.parent.mkdir(parents=True)
            with out.open("w", encoding="utf-8") as file:
                for prompt in prompts:
                    ids = (*rng.choice(words), *encoder.completion("", rng.choice(("[[A]]", "[[B]]"))))
                    letters = {len(ids) - 3: {t: rng.uniform(-3, 0) for t in _letters(encoder)}}
                    completion = Completion(prompt.id, "", "stop", ids, letters, prompt_tokens=400)
                    file.write(dump_line(completion_to_json(completion)))
        began = time.perf_counter()
        evaluate(run)
        return {"after": time.perf_counter() - began, "rows": len(pairs), "models": len(run.judges)}


def _letters(encoder: Any) -> tuple[int, ...]:
    from reasongenrm.chat.verdict import VerdictTokens

    return VerdictTokens.from_encoder(encoder).letters


def _rows(recipe: Recipe) -> list[Any]:
    from reasongenrm.stages.evaluate import benchmark_rows

    return list(benchmark_rows(recipe, "rewardbench"))


def _workplace(folder: Path, run: Recipe, recipe: Recipe, judge: str) -> Path:
    """A folder with what the stage looks for: links to the project's files, and an adapter that is not used."""
    here = Path.cwd()
    for name in ("configs", "data", "build"):
        (folder / name).symlink_to(here / name)
    for name in run.judges:
        adapter = folder / run.folder / "judges" / name
        adapter.mkdir(parents=True)
        (adapter / "adapter").symlink_to((here / recipe.folder / "judges" / judge / "adapter").resolve())
    return folder


def report(results: dict[str, dict[str, Any]]) -> None:
    """Print the tables."""
    if "engine" in results:
        one = results["engine"]
        print(f"\n{one['rows']} rows, {one['requests']} requests, {one['rescued']} rescued, in process\n")
        print("| method | seconds | against bare |\n|---|--:|--:|")
        for name in ("bare", "judge"):
            print(f"| {name} | {one[name]:.2f} | {one[name] / one['bare']:.3f} |")
        print("\n| the same rows | largest change of P(A) | letters changed |\n|---|--:|--:|")
        for name, (moved, letters) in one["noise"].items():
            print(f"| {name} | {moved:.1e} | {letters} of {one['requests']} |")
        print("\n| reason and verdict | requests | tokens | verdicts read | seconds |\n|---|--:|--:|--:|--:|")
        for name, form in one["forms"].items():
            for key, how in (
                ("one", "one completion, log-probabilities at every token"),
                ("two", "two turns"),
            ):
                print(
                    f"| {name}, {how} | {form['requests'][key]} | {form['tokens'][key]:,} | {form['read'][key]} "
                    f"| {form['seconds'][key]:.2f} |"
                )
        for name, form in one["forms"].items():
            print(
                f"{name}: {form['changed']} of {form['both']} verdicts differ, P(A) by {form['moved']:.1e} at most; "
                f"{form['rescued']} rescued after two turns"
            )
        cost = one["microseconds"]
        print(f"a decoded token: {cost['without']:.1f} us, with log-probabilities {cost['with']:.1f} us")
    if "after" in results:
        one = results["after"]
        print(
            f"\nafter the completions of {one['rows']:,} rows in both orders by {one['models']} judges: {one['after']:.1f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="configs/demo.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--rows", type=int, default=234)
    parser.add_argument("--source", metavar="FILE", help="rows in RewardBench's format")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--part", action="append", choices=PARTS, help="all if not given")
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        recipe = load_recipe(options.recipe, options.overrides)
        parts: dict[str, Callable[[Recipe, list[PreferencePair], int], dict[str, Any]]]
        parts = {"engine": engine_part, "after": after_part}
        pairs = rows_of_file(recipe, options.source, options.rows)
        print("\n" + json.dumps(parts[options.one](recipe, pairs, options.repeats)))
        return
    print(machine())
    results = {}
    for name in options.part or PARTS:
        command = [sys.executable, __file__, options.recipe, *options.overrides, "--one", name]
        command += ["--rows", str(options.rows), "--repeats", str(options.repeats)]
        command += ["--source", options.source] if options.source else []
        environment = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        results[name] = json.loads(done.stdout.splitlines()[-1])
    report(results)


if __name__ == "__main__":
    main()
