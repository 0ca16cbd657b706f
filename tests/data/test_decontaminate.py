"""Decontamination: texts of benchmarks, matches, drops, and matches that are only listed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.config.prepare import DecontaminateConfig
from reasongenrm.data.clean import BATCH, filter_pairs
from reasongenrm.data.decontaminate import BenchmarkText, Decontaminator, Match, benchmark_texts
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Drop, Message, PreferencePair
from support.pairs import load_pairs

pytestmark = pytest.mark.unit

CONFIG = DecontaminateConfig()


def pair(prompt: str | Sequence[str], chosen: str = "good", rejected: str = "bad") -> PreferencePair:
    """Return a pair; more than one prompt are turns of user and assistant."""
    turns = [prompt] if isinstance(prompt, str) else prompt
    roles = ("user", "assistant")
    history = [Message(role=roles[at % 2], content=turn) for at, turn in enumerate(turns)]
    return PreferencePair.make(history, chosen, rejected, "s")


def run(of: str, start: int, count: int) -> str:
    return " ".join(f"{of}{at}" for at in range(start, start + count))


def index(*rows: BenchmarkText | Drop, config: DecontaminateConfig = CONFIG) -> Decontaminator:
    return Decontaminator(config, [("bench", rows)])


def matches_of(decontaminator: Decontaminator, one: PreferencePair) -> list[Match]:
    return decontaminator.matches([one])[0]


def figures(matches: Sequence[Match]) -> list[tuple[str, int, str, int, bool]]:
    return [(m.part, m.n, m.row, m.count, m.whole) for m in matches]


ROW = BenchmarkText("b:1", run("p", 0, 30), (run("a", 0, 40), run("c", 0, 40)))


def test_matches_name_part_size_row_and_words() -> None:
    benchmark = index(ROW, BenchmarkText("b:2", run("q", 0, 30), ()))
    training_pair = pair(
        f"Well: {run('P', 5, 14)}!", chosen=f"{run('x', 0, 20)} {run('c', 3, 9)}", rejected="no"
    )
    matches = matches_of(benchmark, training_pair)
    assert figures(matches) == [
        ("prompt", 8, "b:1", 7, False),
        ("prompt", 13, "b:1", 2, False),
        ("answer", 8, "b:1", 2, False),
    ]
    assert matches[1] == Match(
        training_pair.id, "s", "prompt", 13, "bench", "b:1", count=2, whole=False, text=run("p", 5, 13)
    )
    assert matches[2].text == run("c", 3, 8)
    json.dumps([asdict(match) for match in matches])
    # A prompt never matches an answer, and an answer never matches a prompt.
    assert matches_of(benchmark, pair(run("c", 0, 20), chosen=run("p", 0, 20))) == []


def test_turns_match_by_role_and_never_across_turns() -> None:
    benchmark = index(ROW)
    assert figures(matches_of(benchmark, pair([run("x", 0, 9), run("a", 0, 8), "go on"]))) == [
        ("answer", 8, "b:1", 1, False)
    ]
    assert matches_of(benchmark, pair([run("p", 0, 7), "ok", run("p", 7, 7)])) == []
    assert matches_of(benchmark, pair("p", chosen=run("a", 0, 7), rejected=run("a", 7, 7))) == []


benchmark_words = st.integers(0, 5).map(lambda at: f"b{at}")
own_words = st.integers(0, 5).map(lambda at: f"own{at}")


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(benchmark_words, min_size=13, max_size=40), min_size=1, max_size=5),
    st.lists(own_words, max_size=30),
    st.lists(own_words, max_size=30),
    st.sampled_from([8, 13]),
    st.sampled_from(["prompt", "chosen", "rejected"]),
    st.data(),
)
def test_n_planted_words_are_always_found_and_fewer_never(
    rows: list[list[str]], before: list[str], after: list[str], n: int, location: str, data: st.DataObject
) -> None:
    """Words of the pair itself surround the planted run, so that no longer run is shared."""
    texts = [" ".join(row) for row in rows]
    part = "prompt" if location == "prompt" else "answer"
    benchmark = index(
        *(
            BenchmarkText(f"b:{at}", text if part == "prompt" else "", () if part == "prompt" else (text,))
            for at, text in enumerate(texts)
        ),
        config=DecontaminateConfig(ngrams=[n], drop_prompt=n, drop_answer=n),
    )
    at = data.draw(st.integers(0, len(rows) - 1))
    start = data.draw(st.integers(0, len(rows[at]) - n))
    for count in (n, n - 1):
        planted = [*before, "own", *rows[at][start : start + count], "own", *after]
        training_pair = pair(**{"prompt": "own", location: " ".join(planted)})
        matches = matches_of(benchmark, training_pair)
        if count < n:
            assert matches == []
            continue
        assert f"b:{at}" in [match.row for match in matches]
        gram = " ".join(rows[at][start : start + n])
        assert {(match.part, match.text) for match in matches} == {(part, gram)}
        assert {match.row for match in matches} == {
            f"b:{k}" for k, t in enumerate(texts) if f" {gram} " in f" {t} "
        }


def test_short_prompts_match_whole_from_four_words_on() -> None:
    benchmark = index(
        BenchmarkText("b:1", "What is the capital of France?", ("Paris.", "It is the city of Lyon.")),
        BenchmarkText("b:2", "Tell a joke!", ()),
        BenchmarkText("b:3", run("z", 0, 10), ()),
    )
    whole = figures(matches_of(benchmark, pair("what is the CAPITAL of france")))
    assert whole == [("prompt", 8, "b:1", 1, True), ("prompt", 13, "b:1", 1, True)]
    assert figures(matches_of(benchmark, pair(["hi", "hello", "What is the capital of France"]))) == whole
    assert figures(matches_of(benchmark, pair(["What is the", "eh?", "capital of France"]))) == whole
    assert matches_of(benchmark, pair("So what is the capital of France")) == []
    assert matches_of(benchmark, pair("tell a joke")) == [], "three words say too little"
    assert matches_of(benchmark, pair("x", chosen="It is the city of Lyon", rejected="paris")) == []
    ten = figures(matches_of(benchmark, pair(run("z", 0, 10))))
    assert ten == [("prompt", 8, "b:3", 3, False), ("prompt", 13, "b:3", 1, True)]
    assert figures(matches_of(benchmark, pair(run("z", 0, 9)))) == [("prompt", 8, "b:3", 2, False)]


def test_boilerplate_of_more_than_common_rows_does_not_match() -> None:
    refusal = "I am sorry but I can not help you with that at all today"
    rows = [BenchmarkText(f"b:{at}", "please do this thing now", (refusal, refusal)) for at in range(4)]
    prompt_pair = pair("please do this thing now", chosen=refusal)
    assert matches_of(index(*rows, config=DecontaminateConfig(common=3)), prompt_pair) == []
    assert len(matches_of(index(*rows, config=DecontaminateConfig(common=4)), prompt_pair)) == 16
    two = Decontaminator(DecontaminateConfig(common=3), [("one", rows[:2]), ("two", rows[2:])])
    assert Counter(match.benchmark for match in matches_of(two, prompt_pair)) == {"one": 8, "two": 8}


def test_small_matches_are_listed_and_large_ones_drop_the_pair() -> None:
    clean, prompt8 = pair("nothing"), pair(run("p", 0, 8))
    prompt13, answer13 = pair(run("p", 0, 13), chosen=run("a", 0, 13)), pair("x", rejected=run("c", 1, 13))
    rows = [clean, prompt8, prompt13, answer13] * BATCH
    drops: list[Drop] = []
    matches: list[Match] = []
    benchmark = index(ROW)
    kept = list(filter_pairs(rows, partial(benchmark.problems, on_match=matches.append), drops.append))
    assert kept == [clean, prompt8] * BATCH
    assert {(drop.location, drop.source, drop.reason, drop.stage) for drop in drops} == {
        (prompt13.id, "s", "contaminated_prompt", "clean"),
        (answer13.id, "s", "contaminated_answer", "clean"),
    }
    assert "shares 13 words in a row with b:1 of the benchmark bench" in drops[0].detail
    assert Counter((match.part, match.n) for match in matches) == {
        ("prompt", 8): 2 * BATCH,
        ("prompt", 13): BATCH,
        ("answer", 8): 2 * BATCH,
        ("answer", 13): 2 * BATCH,
    }
    listed = index(ROW, config=DecontaminateConfig(drop_prompt=None, drop_answer=8))
    drops.clear()
    assert list(filter_pairs(rows[:4], listed.problems, drops.append)) == [clean, prompt8]
    assert [drop.reason for drop in drops] == ["contaminated_answer"] * 2


def test_counts_for_the_report() -> None:
    benchmark = index(ROW, Drop("b:9", "?", "no_text", "The row has no text.", "decontaminate"))
    rows = [pair(run("p", 0, 8)), pair(run("p", 0, 13)), pair("x")]
    list(benchmark.problems(rows))
    assert benchmark.to_dict() == {
        "benchmarks": [
            {
                "benchmark": "bench",
                "rows": 1,
                "unreadable": 1,
                "first_unreadable": "b:9: The row has no text.",
            }
        ],
        "matches": [
            {"benchmark": "bench", "part": "prompt", "n": 8, "pairs": 2, "benchmark_rows": 1, "matches": 2},
            {"benchmark": "bench", "part": "prompt", "n": 13, "pairs": 1, "benchmark_rows": 1, "matches": 1},
        ],
    }


def test_no_benchmark_and_no_pairs() -> None:
    nothing = Decontaminator(CONFIG, [])
    assert nothing.matches([pair(run("p", 0, 30))]) == [[]]
    assert nothing.matches([]) == []
    assert matches_of(index(BenchmarkText("b:1", "", ())), pair("", "", "")) == []


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("row", "prompt", "answers"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": "r", "id": 3, "subset": "x"}, "p", ("c", "r")),
        ({"prompt": "p", "chosen": ["c1", "c2"], "rejected": ["r"]}, "p", ("c1", "c2", "r")),
        ({"question": "q", "response_A": "a", "response_B": "b", "label": "A>B"}, "q", ("a", "b")),
        ({"instruction": "i", "input": "more", "output_1": "1", "output_2": "2"}, "i\nmore", ("1", "2")),
        (
            {
                "prompt": [{"role": "system", "content": "s"}, user("u"), assistant("e"), user("v")],
                "chosen": "c",
            },
            "u\nv",
            ("e", "c"),
        ),
        (
            {"chosen": [user("u"), assistant("c")], "rejected": [user("u"), assistant("r")]},
            "u",
            ("c", "r"),
        ),
        ({"prompt": "p", "chosen": None, "rejected": 3}, "p", ()),
    ],
)
def test_formats_of_benchmarks(
    tmp_path: Path, row: dict[str, Any], prompt: str, answers: tuple[str, ...]
) -> None:
    lines, array = tmp_path / "b.jsonl", tmp_path / "b.json"
    lines.write_text(json.dumps(row) + "\n", encoding="utf-8")
    array.write_text(json.dumps([row]), encoding="utf-8")
    assert list(benchmark_texts(str(lines))) == [BenchmarkText(f"{lines}:1", prompt, answers)]
    assert list(benchmark_texts(str(array))) == [BenchmarkText(f"{array}[0]", prompt, answers)]


def test_a_parquet_benchmark(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "b.parquet"
    pq.write_table(pa.table({"prompt": ["p"], "chosen": [["c", "d"]], "rejected": [["r"]], "id": [1]}), file)
    assert list(benchmark_texts(str(file))) == [BenchmarkText(f"{file}[0]", "p", ("c", "d", "r"))]


def test_unreadable_rows_are_counted_and_a_benchmark_without_a_readable_row_is_an_error(
    tmp_path: Path,
) -> None:
    file = tmp_path / "b.jsonl"
    file.write_text('{"prompt": "p"}\n{oops\n{"other": "x"}\n', encoding="utf-8")
    rows = list(benchmark_texts(str(file)))
    assert [row.location for row in rows if isinstance(row, Drop)] == [f"{file}:2", f"{file}:3"]
    counts = Decontaminator(CONFIG, [("b", benchmark_texts(str(file)))]).benchmarks["b"]
    assert (counts["rows"], counts["unreadable"]) == (1, 2)
    assert counts["first_unreadable"].startswith(f"{file}:2: ")
    file.write_text('{"other": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"b.jsonl: no readable row"):
        list(benchmark_texts(str(file)))


@pytest.mark.parametrize("content", ["{", '{"prompt": "p"}', "[1]", "[]", '"x"'])
def test_json_file_without_benchmark_rows(tmp_path: Path, content: str) -> None:
    file = tmp_path / "b.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"b\.json"):
        list(benchmark_texts(str(file)))


def test_unreadable_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(benchmark_texts(str(tmp_path / "none.json")))
    file = tmp_path / "b.json"
    file.write_text('[{"prompt": "p"}]', encoding="utf-8")
    with pytest.raises(ConfigError, match="revision"):
        list(benchmark_texts(str(file), revision="main"))


def test_real_benchmarks_and_pairs(shared: Path) -> None:
    files = {
        "rewardbench_llmbar.jsonl": 234,
        "judgebench_claude.jsonl": 270,
        "rmbench_chat.json": 129,
        "rmbench_safety_refuse.json": 284,
    }
    folder = shared / "benchmarks"
    benchmark = Decontaminator(CONFIG, [(name, benchmark_texts(str(folder / name))) for name in files])
    assert {
        name: (counts["rows"], counts["unreadable"]) for name, counts in benchmark.benchmarks.items()
    } == {name: (count, 0) for name, count in files.items()}
    rows = load_pairs(str(shared / "preferences" / "real_pairs_skywork_schema.jsonl"))
    pairs = [row for row in rows if isinstance(row, PreferencePair)]
    drops: list[Drop] = []
    matches: list[Match] = []
    kept = list(filter_pairs(pairs, partial(benchmark.problems, on_match=matches.append), drops.append))
    assert len(kept) + len(drops) == len(pairs) == 500
    # RM-Bench and LLMBar contain questions of MT-Bench, too.
    inequality = next(
        match for match in matches if "how many integers are in the solution of the inequality" in match.text
    )
    assert (inequality.part, inequality.n, inequality.benchmark) == ("prompt", 13, "rewardbench_llmbar.jsonl")
    assert Counter(drop.reason for drop in drops) == {"contaminated_prompt": 8, "contaminated_answer": 2}
    # Every row of a benchmark matches itself, except for short prompts and texts that many rows share.
    own = benchmark_texts(str(folder / "rewardbench_llmbar.jsonl"))
    own_pairs = [
        pair(text.prompt, *text.answers)
        for text in own
        if isinstance(text, BenchmarkText) and len(text.answers) == 2
    ]
    hit = sum(problem is not None for problem in benchmark.problems(own_pairs))
    assert hit / len(own_pairs) > 0.97
