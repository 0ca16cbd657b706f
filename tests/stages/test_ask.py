"""`reasongenrm judge …` over JSONL, on a real engine: every row is judged once, also after a kill."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.inputs import PromptInput
from reasongenrm.lock import open_locked
from reasongenrm.records import Comparison
from reasongenrm.stages import ask as ask_module
from reasongenrm.stages.ask import ask

pytestmark = pytest.mark.engine


class Killed(BaseException):
    """Represents a SIGKILL."""


class Lent(Judge):
    """A judge that keeps its engine open for other tests; it dies after some comparisons."""

    left: int | None = None

    def close(self) -> None:
        pass

    def compare_many(self, rows: Any) -> Iterator[Comparison]:
        for comparison in super().compare_many(rows):
            if self.left is not None:
                if not self.left:
                    raise Killed
                self.left -= 1
            yield comparison


@pytest.fixture
def judge(engine: VLLMEngine, encoders: dict[str, ChatEncoder], toy_prompts: PromptFile) -> Lent:
    return Lent(engine, encoders["direct"], toy_prompts, JudgingConfig(max_tokens=16))


def rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"say {n}", "a": str(n), "b": "no", "id": f"row-{n}"} for n in range(count)]


def written(path: Path, lines: Sequence[dict[str, Any] | str]) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


BAD = [
    "{broken\n",
    '{"prompt": "x", "a": "y"}\n',
    '{"prompt": [], "a": "x", "b": "y"}\n',
    '{"prompt": "x", "a": 1, "b": "y"}\n',
]


def test_every_row_has_a_result_and_bad_rows_are_listed(judge: Lent, tmp_path: Path) -> None:
    good = rows(5)
    source = written(tmp_path / "in.jsonl", [*good[:2], *BAD, "\n", *good[2:], good[0]])
    out = tmp_path / "out.jsonl"
    ask("compare", lambda: judge, str(source), str(out))
    results = read(out)
    assert [row["id"] for row in results] == [*(f"row-{n}" for n in range(5)), "row-0-2"]
    assert results[0] | {"id": ""} == results[5] | {"id": ""}, "the same row twice"
    expected = [judge.compare(row["prompt"], row["a"], row["b"]) for row in good]
    for row, comparison in zip(results, expected, strict=False):
        assert row["winner"] == comparison.winner and len(row["verdicts"]) == 2
        assert row["prob_a"] == pytest.approx(comparison.prob_a, abs=1e-4)
    drops = read(Path(f"{out}.dropped.jsonl"))
    assert [drop["location"] for drop in drops] == [f"{source}:{n}" for n in (3, 4, 5, 6)]
    assert [drop["reason"] for drop in drops] == ["broken_json", "missing_column", "no_messages", "bad_type"]
    with pytest.raises(ConfigError, match="the file exists"):
        ask("compare", lambda: judge, str(source), str(out))


def test_a_kill_loses_only_unfinished_rows(
    judge: Lent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask_module, "WINDOW", 3)
    source = written(tmp_path / "in.jsonl", rows(8))
    ask("compare", lambda: judge, str(source), str(tmp_path / "calm.jsonl"))
    for kill in (0, 4):
        out = tmp_path / f"out-{kill}.jsonl"
        judge.left = kill
        with pytest.raises(Killed):
            ask("compare", lambda: judge, str(source), str(out))
        assert not out.exists() and len(read(out.with_name(f"out-{kill}.part.jsonl"))) == kill
        judge.left = 8 - kill
        ask("compare", lambda: judge, str(source), str(out))
        judge.left = None
        names = [row["id"] for row in read(out)]
        assert names == [row["id"] for row in read(tmp_path / "calm.jsonl")]
        for one, two in zip(read(out), read(tmp_path / "calm.jsonl"), strict=True):
            assert one["winner"] == two["winner"] and one["prob_a"] == pytest.approx(two["prob_a"], abs=1e-4)


def test_a_finished_file_starts_no_engine(judge: Lent, tmp_path: Path) -> None:
    def never() -> Judge:
        raise AssertionError("no row is left to judge")

    source = written(tmp_path / "in.jsonl", rows(2))
    ask("compare", lambda: judge, str(source), str(tmp_path / "out.jsonl"))
    (tmp_path / "out.jsonl").rename(tmp_path / "out.part.jsonl")
    ask("compare", never, str(source), str(tmp_path / "out.jsonl"))
    assert len(read(tmp_path / "out.jsonl")) == 2


def test_two_commands_cannot_write_one_file(judge: Lent, tmp_path: Path) -> None:
    source, out = written(tmp_path / "in.jsonl", rows(2)), tmp_path / "out.jsonl"
    part = out.with_name("out.part.jsonl")
    with open_locked(part, location=out):  # as another process does
        with pytest.raises(
            DataError, match=r"out\.jsonl: another process is writing this file \(wait for it"
        ):
            ask("compare", lambda: judge, str(source), str(out))
        assert part.read_bytes() == b"" and not out.exists()
    ask("compare", lambda: judge, str(source), str(out))
    assert len(read(out)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"], (
        "nothing else is left"
    )


def test_from_stdin_to_stdout(
    judge: Lent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows(2)) + BAD[0]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    ask("compare", lambda: judge, "-", "-")
    captured = capsys.readouterr()
    assert [json.loads(line)["id"] for line in captured.out.splitlines()] == ["row-0", "row-1"]
    assert "stdin:3: dropped (broken_json)" in captured.err


def test_rank_best_and_score(judge: Lent, tmp_path: Path) -> None:
    several = [{"prompt": "say 1", "answers": ["1", "2", "no"]}, {"prompt": "say 2", "answers": ["2"]}]
    source = written(tmp_path / "several.jsonl", [*several, {"prompt": "x", "answers": []}])
    ask("rank", lambda: judge, str(source), str(tmp_path / "rank.jsonl"))
    first, alone = read(tmp_path / "rank.jsonl")
    assert sorted(first["order"]) == [0, 1, 2] and len(first["games"]) == 3 and alone["order"] == [0]
    assert first["order"] == list(judge.rank("say 1", ["1", "2", "no"]).order)
    ask("best", lambda: judge, str(source), str(tmp_path / "best.jsonl"))
    best, _ = read(tmp_path / "best.jsonl")
    assert best["answer"] == several[0]["answers"][best["index"]]
    source = written(tmp_path / "score.jsonl", [{"prompt": "say 1", "answer": "1", "reference": "2"}])
    ask("score", lambda: judge, str(source), str(tmp_path / "scores.jsonl"))
    [row] = read(tmp_path / "scores.jsonl")
    prompt: PromptInput = "say 1"
    assert row["score"] == pytest.approx(judge.score(prompt, "1", "2"), abs=1e-4) and row["winner"]


def test_unreadable_files_are_errors(judge: Lent, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl: cannot be read"):
        ask("compare", lambda: judge, str(tmp_path / "nowhere.jsonl"), "-")
    source = written(tmp_path / "bad.jsonl", BAD)
    with pytest.raises(DataError, match=r"bad\.jsonl: no row can be read"):
        ask("compare", lambda: judge, str(source), "-")
    with pytest.raises(DataError, match="no row can be read"):
        ask("compare", lambda: judge, str(source), str(tmp_path / "out.jsonl"))
