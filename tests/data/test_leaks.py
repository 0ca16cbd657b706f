"""The leak detector and its surface features."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.data import leaks as leaks_module
from reasongenrm.data.leaks import LONGEST, MIN_DECIDED, LeakDetector, measures, phrases
from reasongenrm.metrics.intervals import wilson_interval
from reasongenrm.records import Message, PreferencePair
from support.pairs import load_pairs

pytestmark = pytest.mark.unit

VOCABULARY = (
    "time year people way day man thing woman life child world school state family student group".split()
)


def pair(
    chosen: str, rejected: str, *, source: str = "s", prompt: str = "p", turns: int = 1
) -> PreferencePair:
    history = [Message(role=("user", "assistant")[at % 2], content=prompt) for at in range(2 * turns - 1)]
    return PreferencePair.make(history, chosen, rejected, source)


def answer(rng: random.Random) -> str:
    """Words of no meaning, of any length, with any ending."""
    words = rng.choices(VOCABULARY, k=rng.randint(20, 60))
    return " ".join(words).capitalize() + rng.choice([".", "", "!"])


def detect(pairs: list[PreferencePair]) -> dict[str, Any]:
    detector = LeakDetector()
    for one in pairs:
        detector.add(one)
    report = detector.to_dict()
    assert json.loads(json.dumps(report)) == report
    return report


def leaks(report: dict[str, Any]) -> set[tuple[str, str]]:
    return {(row["scope"], row["feature"]) for row in report["leaks"]}


def feature(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in report["features"] if row["feature"] == name)


def test_random_answers_have_no_leak() -> None:
    rng = random.Random(1)
    report = detect([pair(answer(rng), answer(rng), source=f"s{at % 3}") for at in range(600)])
    assert report["leaks"] == [] and report["pairs"] == 600
    length = feature(report, "characters")
    assert 0.4 < length["accuracy_alone"] < 0.6 and length["coverage"] > 0.95


def test_the_marker_of_magpie_ultra_is_found() -> None:
    """As in Skywork-80K v0.2: `<im_start>` in each rejected answer of one source among others."""
    rng = random.Random(2)
    rows = [pair(answer(rng), answer(rng), source="offsetbias") for _ in range(300)]
    rows += [pair(answer(rng), answer(rng) + "<im_start>", source="magpie_ultra") for _ in range(100)]
    rng.shuffle(rows)
    report = detect(rows)
    assert ("all pairs", "marker <im_start>") in leaks(report)
    assert ("source magpie_ultra", "marker <im_start>") in leaks(report)
    assert not any(scope == "source offsetbias" for scope, _ in leaks(report))
    marker = feature(report, "marker <im_start>")
    low, high = wilson_interval(100, 100)
    assert marker == {
        "feature": "marker <im_start>",
        "predicts": "rejected has it",
        "pairs": 400,
        "decided": 100,
        "coverage": 0.25,
        "accuracy": 1.0,
        "interval": [round(low, 4), round(high, 4)],
        "accuracy_alone": 0.625,
        "leak": True,
    }


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda text: text + "<|eot_id|>", "marker <|eot_id|>"),
        (lambda text: "[INST] " + text, "marker [INST]"),
        (lambda text: text + " </s>", "marker </s>"),
        (lambda text: text + " [[A]]", "marker [[A]]"),
        (lambda text: text + "\nHuman: more", "marker Human:"),
        (lambda text: " " + text, "leading white space"),
        (lambda text: text + "\n", "ends with a line end"),
        (lambda text: text + "\n\n## Heading\n- item", "headings"),
        (lambda text: text * 3, "characters"),
        (lambda text: text.replace(" ", " 7 "), "share of digits"),
        (lambda text: "Sure thing, " + text, "first word sure"),
        (lambda text: "I'm sorry, but " + text, "opens with a refusal"),
        (lambda text: "Hm. As an AI, " + text, "speaks as an AI"),
        (lambda text: text + " 🎉", "emoji"),
        (lambda text: text + " Hope this helps", "last words this helps"),
    ],
)
@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_leaks_of_every_kind_are_found(change: Any, name: str, side: str) -> None:
    rng = random.Random(3)
    rows = []
    for _ in range(60):
        marked, plain = change(answer(rng)), answer(rng)
        rows.append(pair(marked, plain) if side == "chosen" else pair(plain, marked))
    report = detect(rows)
    assert name in {feature for _, feature in leaks(report)}
    assert feature(report, name)["predicts"] in (f"more is {side}", f"{side} has it")


def test_few_pairs_and_weak_features_are_no_leaks() -> None:
    rng = random.Random(4)
    rows = [pair(answer(rng), answer(rng)) for _ in range(200)]
    few = [pair(answer(rng), answer(rng) + " <tag>") for _ in range(MIN_DECIDED - 1)]
    assert leaks(detect(rows + few)) == set()
    assert ("all pairs", "marker <tag>") in leaks(detect(rows + few + few[:1]))
    # Nine of ten is not sure, and so few of all pairs that it does not matter.
    both = [pair(answer(rng) + " <b>", answer(rng)) for _ in range(4)]
    weak = rows + [pair(answer(rng), answer(rng) + " <b>") for _ in range(36)] + both
    assert leaks(detect(weak)) == set()
    # Length that settles four of five pairs is.
    long = [pair(answer(rng) * 2, answer(rng)) for _ in range(160)]
    long += [pair(answer(rng), answer(rng) * 2) for _ in range(40)]
    assert ("all pairs", "characters") in leaks(detect(long))


def test_ties_count_half() -> None:
    report = detect([pair("same <x>", "same <x> .")] * 10 + [pair("a b <y>", "a b c")] * 5)
    assert feature(report, "marker <y>")["accuracy_alone"] == round((5 + 10 / 2) / 15, 4)
    assert all(row["feature"] != "marker <x>" for row in report["features"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), max_size=10))
def test_swapping_all_answers_reverses_the_prediction_and_keeps_the_accuracy(
    rows: list[tuple[str, str]],
) -> None:
    def figures(report: dict[str, Any]) -> dict[str, Any]:
        return {
            row["feature"]: (row["decided"], row["accuracy"], row["accuracy_alone"])
            for row in report["features"]
        }

    straight, swap = (detect([pair(*row[::step]) for row in rows]) for step in (1, -1))
    assert figures(straight) == figures(swap)


def test_memory_is_bounded_and_frequent_phrases_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks_module, "MOST_PHRASES", 400)
    monkeypatch.setattr(leaks_module, "MOST_SOURCES", 4)
    rng = random.Random(5)
    detector = LeakDetector()
    for at in range(2000):
        mark = "<im_start>" if at % 10 == 0 else f"<t{at}>"
        detector.add(pair(f"x{at} y", f"z{at} w {mark}", source=f"source {rng.random()}"))
    assert len(detector._sources) == 5
    assert all(len(counts.phrases) <= 400 for counts in detector._sources.values())
    assert feature(detector.to_dict(), "marker <im_start>")["decided"] > 190


def test_a_letter_that_depends_on_the_conversation_is_a_leak() -> None:
    rng = random.Random(6)
    detector = LeakDetector()
    for at in range(400):
        one = pair(answer(rng), answer(rng), source=f"s{at % 2}", turns=1 + at % 3)
        detector.add(one)
        detector.add_placement(one, "B" if one.source == "s1" else rng.choice("AB"))  # type: ignore[arg-type]
    report = detector.to_dict()
    assert ("placement", "source s1") in leaks(report) and ("placement", "source s0") not in leaks(report)
    assert {scope for scope, _ in leaks(report)} == {"placement"}
    assert report["placements"] == 400
    by_name = {row["feature"]: row for row in report["placement"]}
    assert by_name["source s1"]["predicts"] == "B" and by_name["source s1"]["accuracy"] == 1
    assert {"turns 1", "turns 3", "turns 5", "prompt under 2 characters"} <= set(by_name)


def test_measures_of_one_answer() -> None:
    text = "I'm sorry, no.\n# A\n1. b\n2. **c**\n- é ?\n```\nx = 12\n```\n| a | b |\n"
    values = measures(text)
    size = len(text.encode())
    assert values == {
        **dict.fromkeys(values, 0),
        "characters": len(text),
        "white space": sum(map(str.isspace, text)),
        "lines": 9,
        "trailing white space": 1,
        "ends with a line end": 1,
        "headings": 1,
        "numbered items": 2,
        "bullets": 1,
        "bold": 2,
        "code fences": 2,
        "tables": 1,
        "share of digits": 4 / size,
        "share of capitals": 2 / size,
        "share of bytes not ASCII": 2 / size,
        "question marks": 1,
        "opens with a refusal": 1,
    }


@given(st.text(max_size=200))
def test_any_text_has_measures_and_phrases(text: str) -> None:
    assert len(measures(text)) == 22
    assert all(isinstance(name, str) for name in phrases(text))


def test_the_end_of_a_very_long_answer_is_examined() -> None:
    assert "marker <|im_end|>" in phrases("a b " * LONGEST + "<|im_end|>")
    assert measures("x" * 10 * LONGEST)["characters"] == 10 * LONGEST


def test_real_pairs(shared: Path) -> None:
    rows = load_pairs(str(shared / "preferences" / "real_pairs_skywork_schema.jsonl"))
    pairs = [row for row in rows if isinstance(row, PreferencePair)]
    assert detect(pairs)["leaks"] == []
    leaky = [
        PreferencePair.make(row.history, row.chosen, row.rejected + "<im_start>", "magpie_ultra")
        for row in pairs
    ]
    assert ("all pairs", "marker <im_start>") in leaks(detect(leaky))
