"""All stages on toy data: every file exists, every row is counted, and a second run changes nothing."""

from __future__ import annotations

import fcntl
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.records import SFTRecord
from support.scripts import (
    BAD_LINES,
    EVALUATE,
    PREPARE,
    ROOT,
    TRAIN,
    Chain,
    rows_of,
    snapshot,
    stage_server,
    value_of,
)

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FILES = {
    PREPARE: """pairs.jsonl prompts.jsonl reasons/student.jsonl reasons/blind.jsonl scored.jsonl sft.jsonl genrm.jsonl
        dpo.jsonl grpo.jsonl general.jsonl dropped.jsonl reasons_dropped.jsonl general_dropped.jsonl
        contamination.jsonl pairs_report.json data_report.json data_report.html manifest/prepare.json""",
    TRAIN: """manifest/train.json recipe.yaml scalar/model.safetensors scalar/config.json scalar/tokenizer.json
        scalar/loss.json scalar/loss.png scalar/training_args.json scalar/README.md
        judges/reasongenrm/adapter/adapter_model.safetensors judges/reasongenrm/adapter/adapter_config.json
        judges/reasongenrm/adapter/chat_template.jinja judges/reasongenrm/adapter/judge.yaml judges/reasongenrm/adapter/tokenizer.json
        judges/reasongenrm/loss.json judges/reasongenrm/loss.png judges/reasongenrm/training.json
        judges/reasongenrm/metrics.jsonl judges/reasongenrm/curves.png
        judges/genrm/adapter/adapter_model.safetensors judges/genrm/adapter/chat_template.jinja""",
    EVALUATE: """manifest/evaluate.json scores.json table.md report.html report.md evaluate/toy/rows.jsonl
        evaluate/toy/dropped.jsonl evaluate/toy/scalar/scores.jsonl evaluate/toy/base/completions.jsonl
        evaluate/toy/base/verdicts.jsonl evaluate/toy/base/results.jsonl evaluate/toy/reasongenrm/completions.jsonl
        evaluate/toy/reasongenrm/verdicts.jsonl evaluate/toy/genrm/completions.jsonl evaluate/toy/genrm/verdicts.jsonl
        evaluate/toy/scalar/results.jsonl judges/reasongenrm/README.md judges/genrm/README.md""",
}


def test_every_file_exists_and_none_is_incomplete(chain: Chain) -> None:
    found = set(snapshot(chain.folder))
    for script, names in FILES.items():
        assert set(names.split()) <= found, script
    leftovers = ("partial", ".part.", ".tmp", "checkpoint", ".bin", ".pt", ".pkl", "optimizer")
    assert [name for name in found if any(mark in name for mark in leftovers)] == []


def test_no_file_and_no_line_shows_the_token_of_the_hub(chain: Chain) -> None:
    """Neither manifests, the resolved recipe, reports and model cards nor the logs, where every library writes."""
    token = next(word.partition("=")[2] for word in chain.bench.shared if "hub_token" in word)
    assert token.startswith("hf_")
    files = [path for path in chain.folder.rglob("*") if path.is_file()]
    assert {"prepare.log", "train.log", "train-genrm.log", "evaluate.log"} <= {path.name for path in files}
    assert [path for path in files if token.encode() in path.read_bytes()] == []
    for done in chain.done.values():
        assert token not in done.stdout + done.stderr
    head = (chain.folder / "logs" / "train.log").read_text(encoding="utf-8").splitlines()[0]
    assert "train.args.hub_token=***" in head, "the command line is in the log"
    saved = yaml.safe_load((chain.folder / "recipe.yaml").read_text(encoding="utf-8"))
    assert saved["train"]["args"]["hub_token"] == saved["engine"]["args"]["hf_token"] == "***"


PROGRESS = r"\d+/\d+(, \d+:\d\d:\d\d left)?"
STEPS = r"\d+/\d+ steps(, loss \d\S+, \d+ tokens/s)?(, \d+:\d\d:\d\d left)?"
LINES = {
    PREPARE: [
        r"\d+ pairs, \d+ judge prompts",
        rf"(reasons of (student|blind)|scoring): {PROGRESS}",
        r"\d+ reasons sampled, \d+ kept; dropped: \{.*\}",
        r"records: \d+ sft, .*",
        r"stage 1 done: runs/.*/data_report.html",
    ],
    TRAIN: [
        r"(reasongenrm|genrm): \d+ processes by configs/\S+; log: runs/.*/logs/train-\w+.log",
        rf"(reasongenrm|genrm|scalar head): {STEPS}",
        r"(reasongenrm|genrm): \d+ steps, \d+ tokens, final loss \d\S+",
        r"scalar: \d+ steps on \d+ of \d+ pairs, .*",
        r"stage 2 done: runs/.*",
    ],
    EVALUATE: [
        r"toy: \d+ rows, \d+ pairs, \d+ unreadable",
        rf"toy: (judging with (base|base-direct|reasongenrm|genrm)|scoring with the scalar head): {PROGRESS}",
        r"stage 3 done: runs/.*/report.html",
    ],
}
"""Every line that a script may print on stderr."""


@pytest.mark.parametrize("script", [PREPARE, TRAIN, EVALUATE])
def test_the_console_shows_only_lines_of_the_stage(chain: Chain, script: str) -> None:
    # The line about a build of DeepSpeed that another process left unfinished does not belong to this run.
    lines = [
        line for line in chain.done[script].stderr.splitlines() if "/deepspeed_shm_comm/lock: " not in line
    ]
    assert [line for line in lines if not any(re.fullmatch(form, line) for form in LINES[script])] == []
    for form in LINES[script]:
        assert any(re.fullmatch(form, line) for line in lines), form
    stage = {PREPARE: "prepare", TRAIN: "train", EVALUATE: "evaluate"}[script]
    log = (chain.folder / "logs" / f"{stage}.log").read_text(encoding="utf-8")
    assert all(line in log.splitlines() for line in lines), "the log tells the whole story"


def test_the_tables_are_on_stdout(chain: Chain) -> None:
    assert all(word in chain.done[EVALUATE].stdout for word in ("reasongenrm", "genrm", "scalar", "base"))
    assert chain.done[PREPARE].stdout == chain.done[TRAIN].stdout == ""


def test_all_input_rows_are_counted(chain: Chain, toy_data: Path) -> None:
    report = value_of(chain.folder / "data_report.json")
    lines = (toy_data / "train.jsonl").read_text(encoding="utf-8").splitlines()
    total = report["total"]
    assert total["in"] == len(lines) == 24 + len(BAD_LINES) + 2
    assert total["in"] == total["kept"] + total["dropped"]
    for source in report["sources"].values():
        assert source["in"] == source["kept"] + source["dropped"]
    drops = rows_of(chain.folder / "dropped.jsonl")
    by_stage = Counter((drop["stage"], drop["reason"]) for drop in drops)
    assert by_stage.total() == total["dropped"], "what is dropped is listed"
    assert by_stage["load", "broken_json"] == 1 and by_stage["load", "missing_column"] == 2
    assert by_stage["load", "bad_type"] == 1
    assert by_stage["clean", "duplicate"] == 1 and by_stage["clean", "unwanted_source"] == 1
    assert all(drop["detail"] for drop in drops)
    broken = next(drop for drop in drops if drop["reason"] == "broken_json")
    assert broken["location"] == f"{toy_data / 'train.jsonl'}:4"
    pairs = {row["id"] for row in rows_of(chain.folder / "pairs.jsonl")}
    assert len(pairs) == 24 == total["kept"]


def test_all_reasons_are_accounted_for(chain: Chain) -> None:
    report = value_of(chain.folder / "data_report.json")
    counts = report["reasons"]
    reasons = [
        row for name in ("student", "blind") for row in rows_of(chain.folder / "reasons" / f"{name}.jsonl")
    ]
    scored = rows_of(chain.folder / "scored.jsonl")
    kept = rows_of(chain.folder / "sft.jsonl")
    dropped = Counter(drop["reason"] for drop in rows_of(chain.folder / "reasons_dropped.jsonl"))
    assert counts["sampled"] == len(reasons) == 96 == len(kept) + dropped.total()
    assert counts["dropped"] == dict(dropped) and counts["kept"] == len(kept) == report["records"]["sft"] > 0
    assert counts["prompts"] == 24 == counts["kept"] + counts["prompts_without_reason"]
    assert sum(teacher["sampled"] for teacher in counts["teachers"].values()) == 96
    unscored = sum(
        dropped[slug] for slug in ("truncated", "no_verdict", "empty_reason", "gives_verdict_away")
    )
    assert len(scored) == 96 - unscored
    texts = {row["id"]: row["text"] for row in reasons}
    assert all(texts[row["id"]] == row["text"] for row in scored)
    assert all("<|im_end|>" not in text for text in texts.values())
    order = [row["id"] for row in rows_of(chain.folder / "prompts.jsonl")]
    for rows in (reasons[:48], reasons[48:], scored):
        places = [order.index(row["prompt_id"]) for row in rows]
        assert places == sorted(places), "in the order of the prompts"


def test_training_records_hold_their_parts_and_where_they_come_from(chain: Chain) -> None:
    prompts = {row["id"]: row for row in rows_of(chain.folder / "prompts.jsonl")}
    names = {field.name for field in fields(SFTRecord)} | {"completion"}
    records = rows_of(chain.folder / "sft.jsonl")
    assert len({record["id"] for record in records}) == len(records)
    for record in records:
        assert record.keys() == names
        prompt = prompts[record["id"]]
        assert record["prompt"] == prompt["messages"]
        assert record["response"] == f"[[{prompt['winner']}]]"
        assert record["reason"] and record["score"] > 0 and record["pair_id"] == prompt["pair_id"]
        assert [turn["content"] for turn in record["completion"]] == [record["reason"], record["response"]]
    direct = rows_of(chain.folder / "genrm.jsonl")
    assert len(direct) == len(prompts) == 24
    assert all(row.keys() == names and not row["reason"] and len(row["completion"]) == 1 for row in direct)


def test_what_follows_has_its_records(chain: Chain) -> None:
    report = value_of(chain.folder / "data_report.json")["records"]
    prompts = {row["id"]: row for row in rows_of(chain.folder / "prompts.jsonl")}
    dpo = rows_of(chain.folder / "dpo.jsonl")
    assert len(dpo) == report["dpo"]
    for row in dpo:
        assert row["prompt"] == prompts[row["id"]]["messages"]
        winner = f"[[{prompts[row['id']]['winner']}]]"
        assert row["chosen"][-1]["content"] == winner != row["rejected"][-1]["content"]
    grpo = rows_of(chain.folder / "grpo.jsonl")
    assert len(grpo) == report["grpo"] and {row["solve_rate"] for row in grpo} <= {0.5}
    blind = rows_of(chain.folder / "reasons" / "blind.jsonl")
    for row in grpo:
        own = [reason["verdict"] for reason in blind if reason["prompt_id"] == row["id"]]
        assert own.count(prompts[row["id"]]["winner"]) == 1 and row["winner"] == prompts[row["id"]]["winner"]
    general = rows_of(chain.folder / "general.jsonl")
    assert len(general) == report["general"] > 0
    training = value_of(chain.folder / "judges" / "reasongenrm" / "training.json")
    assert training["records"] == report["sft"] + report["general"], "general data is mixed in"


def test_other_choices_select_again_and_sample_nothing(chain: Chain) -> None:
    folder = chain.bench.folder("calm")
    before = snapshot(folder)
    kept = {}
    for words in (["select.selector=longest_correct", "records.dpo=null"], []):
        done = chain.bench.good(PREPARE, "calm", *words)
        assert "reasons of" not in done.stderr and "scoring" not in done.stderr
        kept[bool(words)] = rows_of(folder / "sft.jsonl")
    assert len(kept[True]) >= len(kept[False])
    longest = {row["id"]: row["reason"] for row in kept[True]}
    assert any(longest[row["id"]] != row["reason"] for row in kept[False])
    after = snapshot(folder)
    assert {name for name in before if before[name] != after[name]} <= {"manifest/prepare.json"}


def test_select_prints_what_other_selectors_keep(chain: Chain) -> None:
    choices = ["--selector", "rstar", "--selector", "longest_correct"]
    before = snapshot(chain.folder)
    done = stage_server().run(["select", *chain.bench.words("calm"), *choices])
    assert done.code == 0, done.stderr
    assert snapshot(chain.folder) == before, "it writes nothing"
    [rstar] = [line.split() for line in done.stdout.splitlines() if "rstar" in line and "same as" not in line]
    assert str(len(rows_of(chain.folder / "sft.jsonl"))) in rstar and "100.0" in rstar
    assert "longest_correct" in done.stdout and "random_correct" not in done.stdout


def test_both_judges_saw_about_the_same_number_of_tokens(chain: Chain) -> None:
    seen = {}
    for name in ("reasongenrm", "genrm"):
        training = value_of(chain.folder / "judges" / name / "training.json")
        assert training["processes"] == 2 and training["packing"] is True
        seen[name] = training["tokens_seen"]
        assert abs(seen[name] - 3600) < 400
        losses = value_of(chain.folder / "judges" / name / "loss.json")
        steps = range(1, training["steps"] + 1)
        logged = [n for n in steps if n % 4 == 0 or (n % 3 == 0 and n < steps[-1])]  # and at each checkpoint
        assert [entry["step"] for entry in losses] == logged
    assert value_of(chain.folder / "judges" / "reasongenrm" / "training.json")["records"] == len(
        rows_of(chain.folder / "sft.jsonl")
    ) + len(rows_of(chain.folder / "general.jsonl"))


def test_the_adapter_holds_its_chat_template_and_opens_anywhere(chain: Chain, taught_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(taught_model)
    for name, template in (("reasongenrm", "reason.jinja"), ("genrm", "direct.jinja")):
        folder = chain.folder / "judges" / name / "adapter"
        text = (ROOT / "configs" / "prompts" / template).read_text(encoding="utf-8")
        assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == text
        assert AutoTokenizer.from_pretrained(folder).chat_template == text
        adapted = PeftModel.from_pretrained(base, str(folder))
        learned = [w for key, w in adapted.named_parameters() if "lora_B" in key]
        assert learned and all(bool(weights.abs().sum() > 0) for weights in learned), (
            "it has learned something"
        )
        base = adapted.unload()


def test_the_scalar_head_is_a_plain_model_with_one_logit(chain: Chain) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = chain.folder / "scalar"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pair = rows_of(chain.folder / "pairs.jsonl")[0]
    tokens = tokenizer(pair["history"][0]["content"], pair["chosen"], return_tensors="pt", truncation=True)
    with torch.inference_mode():
        assert model(**tokens).logits.shape == (1, 1)
    assert model.config.num_labels == 1


def test_every_judgement_is_counted_once(chain: Chain) -> None:
    scores = value_of(chain.folder / "scores.json")
    toy, folder = scores["benchmarks"]["toy"], chain.folder / "evaluate" / "toy"
    assert toy["unreadable_rows"] == 1 == len(rows_of(folder / "dropped.jsonl"))
    assert toy["rows"] == 20 == len(rows_of(folder / "rows.jsonl"))
    assert toy["models"].keys() == {"base", "base-direct", "reasongenrm", "genrm", "scalar"}
    outcomes = ("correct", "wrong", "tie", "unparsed", "truncated", "error")
    for name, found in toy["models"].items():
        model = found["score"]
        counts = model["counts"]
        assert counts["n"] == (20 if name == "scalar" else 40) == sum(counts[key] for key in outcomes)
        assert model["rows"] == 20 and model["toy"] is True
        for key in outcomes:
            assert counts[key] == sum(subset["counts"][key] for subset in model["subsets"].values())
        results = rows_of(folder / name / "results.jsonl")
        assert Counter(o for row in results for o in row["outcomes"]) == +Counter({k: counts[k] for k in outcomes})  # fmt: skip
    for name in ("base", "base-direct", "reasongenrm", "genrm"):
        verdicts = rows_of(folder / name / "verdicts.jsonl")
        completions = rows_of(folder / name / "completions.jsonl")
        rescued = sum(verdict["rescued"] for verdict in verdicts)
        assert len(verdicts) == 40 and len(completions) == 40 + rescued
        assert rescued == toy["models"][name]["score"]["counts"]["rescued"]
        assert toy["models"][name]["cost"] == {
            "requests": len(completions),
            "prompt_tokens": sum(completion["prompt_tokens"] for completion in completions),
            "tokens": sum(verdict["tokens"] for verdict in verdicts),
        }
        by_pair = Counter(verdict["pair_id"] for verdict in verdicts)
        assert set(by_pair.values()) == {2}, "both orders"


@pytest.mark.parametrize("script", [PREPARE, TRAIN, EVALUATE])
def test_a_second_run_is_quick_and_changes_nothing(chain: Chain, script: str) -> None:
    before = snapshot(chain.folder)
    done = chain.bench.good(script, "calm")
    assert snapshot(chain.folder) == before
    assert done.seconds < 0.7 * chain.done[script].seconds
    if script == EVALUATE:
        assert done.stdout == chain.done[script].stdout, "the table is shown again"


def test_other_settings_are_refused_and_named(chain: Chain) -> None:
    before = snapshot(chain.folder)
    done = chain.bench.run(EVALUATE, "calm", "evaluate.max_tokens=17")
    assert done.code == 2 and "evaluate.max_tokens changed from 16 to 17" in done.stderr
    assert snapshot(chain.folder) == before


def test_two_processes_cannot_work_in_one_run(chain: Chain) -> None:
    with (chain.folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = chain.bench.run(PREPARE, "calm")
    assert done.code == 2 and "another process is working in this run folder" in done.stderr


@pytest.mark.parametrize("script", [PREPARE, TRAIN, EVALUATE])
def test_a_dry_run_shows_recipe_counts_and_two_prompts_and_writes_nothing(
    chain: Chain, taught_model: Path, script: str
) -> None:
    run = "dry" if script == PREPARE else "calm"  # the others look at what stage 1 left
    before = snapshot(chain.folder)
    done = chain.bench.good(
        script, run, "--dry-run", *(["seed=4", "--limit", "7"] if script == PREPARE else [])
    )
    assert snapshot(chain.folder) == before and not chain.bench.folder("dry").exists()
    shown, rest = done.stdout.split("rows: ", 1)
    recipe: dict[str, Any] = yaml.safe_load(shown)
    assert recipe["seed"] == (4 if script == PREPARE else 17)
    assert recipe["model"]["path"] == str(taught_model)
    assert recipe["limit"] == (7 if script == PREPARE else None)
    counts, *prompts = rest.split("\n--- prompt ")
    if script == PREPARE:
        assert counts.startswith("7\n") and "broken_json: 1" in counts
    elif script == TRAIN:
        assert "genrm.jsonl: 24" in counts and "sft.jsonl: " in counts
    else:
        assert counts.startswith("21\n") and "source toy-chat: 5" in counts
    assert len(prompts) == 2
    for prompt in prompts:
        assert "[Answer A]\n" in prompt and "[Answer B]\n" in prompt and "[End]\n" in prompt


@pytest.mark.parametrize("script", [PREPARE, TRAIN, EVALUATE])
def test_a_dry_run_refuses_what_the_stage_refuses(chain: Chain, script: str) -> None:
    before = snapshot(chain.folder)
    dry, real = (chain.bench.run(script, "calm", "seed=4", *words) for words in (["--dry-run"], []))
    assert (dry.code, real.code) == (2, 2) and snapshot(chain.folder) == before
    assert dry.stderr == real.stderr and "seed changed from 17 to 4" in dry.stderr
