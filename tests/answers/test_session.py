"""A ranking session: any operations, undone, resumed, shared and killed, come to what the journal says."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reasongenrm
from reasongenrm.answers.journal import Progress, StaleItem
from reasongenrm.answers.session import RankingEntry, RankingSession, ranking_journal, read_rankings
from reasongenrm.answers.table import PromptAnswers, read_answers
from reasongenrm.errors import ConfigError, DataError

pytestmark = pytest.mark.unit

SOURCE = Path(reasongenrm.__file__).parents[1]


def write_answers(
    folder: Path, prompts: int = 4, answers: int = 3, name: str = "in"
) -> tuple[PromptAnswers, ...]:
    file = folder / f"{name}.jsonl"
    rows = [
        {"id": f"{p}/{a}", "prompt": f"{name} prompt {p}", "answer": f"answer {a} of {p}", "model": f"m{a}"}
        for p in range(prompts)
        for a in range(answers)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_answers(str(file)).prompts


def rankings(session: RankingSession) -> dict[str, Any]:
    """Restated: what the journal says of the session's annotator."""
    done: list[RankingEntry] = []
    for entry in session.journal.read():
        if entry.annotator == session.annotator:
            done = done[:-1] if entry.kind == "undo" else [*done, entry]
    return {entry.prompt: entry.order for entry in done if entry.kind == "rank"}


def seen(session: RankingSession) -> Any:
    return session.current, session.progress, rankings(session), session.can_undo


def test_ranking_ties_skips_and_undo(tmp_path: Path) -> None:
    prompts = write_answers(tmp_path)
    session = RankingSession(prompts, tmp_path / "j", "ann")
    assert session.progress == Progress(0, 0, 4) and not session.can_undo
    first = session.current
    assert first is not None and sorted(answer.text for answer in first.answers) == [f"answer {n} of {first.history[0]['content'][-1]}" for n in range(3)]  # fmt: skip
    session.rank([[3], [1, 2]])
    a, b, c = (answer.id for answer in first.answers)
    assert rankings(session) == {first.id: ((c,), (a, b))}
    second = session.current
    assert second is not None and second.id != first.id
    session.skip(item=second.id)
    assert session.progress == Progress(1, 1, 4) and session.current != second
    session.undo()
    assert session.current == second
    session.undo()
    assert session.current == first and rankings(session) == {} and not session.can_undo
    with pytest.raises(ConfigError, match="nothing to undo"):
        session.undo()
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "j").read_text(encoding="utf-8").splitlines()]
    assert kinds == ["rank", "skip", "undo", "undo"]


def test_a_skipped_prompt_comes_again_at_the_end(tmp_path: Path) -> None:
    session = RankingSession(write_answers(tmp_path), tmp_path / "j", "ann")
    skipped, order = session.current, []
    session.skip()
    while session.current is not None:
        order.append(session.current)
        session.rank([[1], [2], [3]])
    assert order[-1] == skipped and len(order) == 4 and session.progress == Progress(4, 0, 4)
    for act in (session.skip, lambda: session.rank([[1], [2], [3]])):
        with pytest.raises(StaleItem, match="all prompts are ranked"):
            act()
    session.undo()
    assert session.current == skipped and session.progress == Progress(3, 1, 4)


def test_the_order_is_of_annotator_and_seed_and_not_of_the_input(tmp_path: Path) -> None:
    prompts = write_answers(tmp_path, prompts=12, answers=5)

    def shown(given: Any, name: str, seed: int = 17) -> list[Any]:
        session = RankingSession(given, tmp_path / f"{name}{seed}{random.random()}", name, seed)
        found = []
        while session.current is not None:
            found.append(session.current)
            session.rank([[1, 2, 3, 4, 5]])
        return found

    random.seed(1)
    ann = shown(prompts, "ann")
    random.seed(2)
    turned = tuple(PromptAnswers(p.id, p.history, p.answers[::-1]) for p in prompts[::-1])
    assert shown(turned, "ann") == ann
    others = [shown(prompts, "bob"), shown(prompts, "ann", 18)]
    assert all([q.id for q in other] != [q.id for q in ann] for other in others)
    assert all({q.id: q.answers for q in other} != {q.id: q.answers for q in ann} for other in others)
    assert len({[answer.id[-2:] for answer in q.answers].index("/0") for q in ann}) > 1


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ([[1], [2]], "not ranked: answer 3"),
        ([], "not ranked: answer 1, 2, 3"),
        ([[1], [2], [3], [4]], "no answer 4"),
        ([[0], [1], [2], [3]], "no answer 0"),
        ([[1, 1], [2], [3]], "answer 1 is repeated"),
        ([[1, 2], [2, 3]], "answer 2 is repeated"),
        ([[1, 2], [], [3]], "a group is empty"),
    ],
)
def test_a_wrong_ranking_changes_nothing(tmp_path: Path, groups: list[list[int]], problem: str) -> None:
    session = RankingSession(write_answers(tmp_path), tmp_path / "j", "ann")
    before = seen(session)
    with pytest.raises(ConfigError, match=f"{problem}.*each of 1 to 3 once"):
        session.rank(groups)
    assert seen(session) == before and ranking_journal(tmp_path / "j").read() == []


@pytest.mark.parametrize("name", ["", "  ", "a\x1b[2Jb", "x" * 81, "\ud800", "a\u202eb"])
def test_a_name_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="annotator's name"):
        RankingSession(write_answers(tmp_path), tmp_path / "j", name)


def test_names_are_the_same_however_they_are_typed(tmp_path: Path) -> None:
    prompts = write_answers(tmp_path)
    RankingSession(prompts, tmp_path / "j", "Zoé  B").rank([[1, 2, 3]])
    assert RankingSession(prompts, tmp_path / "j", " Zoe\u0301 B ").progress.done == 1


Acts = st.lists(
    st.one_of(
        st.tuples(st.just("rank"), st.permutations([1, 2, 3]), st.integers(0, 3)),
        st.tuples(st.just("skip"), st.none(), st.none()),
        st.tuples(st.just("undo"), st.none(), st.none()),
        st.tuples(st.just("other"), st.permutations([1, 2, 3]), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(Acts)
def test_any_operations_undo_and_resume(tmp_path: Path, acts: list[tuple[str, Any, Any]]) -> None:
    prompts = write_answers(tmp_path, prompts=3)
    path = tmp_path / "j"
    path.unlink(missing_ok=True)
    session = RankingSession(prompts, path, "ann")
    stack: list[Any] = []
    for kind, order, ties in acts:
        before = seen(session)
        if kind == "other":
            other = RankingSession(prompts, path, "bob")
            if other.current:
                other.rank([[number] for number in order])
        elif kind == "undo" and stack:
            session.undo()
            assert seen(session) == stack.pop(), "undo is the inverse of what it undoes"
        elif kind == "undo" or session.current is None:
            with pytest.raises(ConfigError):
                session.undo() if kind == "undo" else session.skip()
            assert seen(session) == before
        else:
            if kind == "rank":
                groups = (
                    [order[:1], order[1:]] if ties == 1 else [order] if ties == 2 else [[n] for n in order]
                )
                session.rank(groups)
            else:
                session.skip()
            stack.append(before)
        assert seen(RankingSession(prompts, path, "ann")) == seen(session), "resuming changes nothing"
    ranked = read_rankings(prompts, ranking_journal(path))
    assert ranked.get("ann", {}) == rankings(session)
    while stack:
        session.undo()
        assert seen(session) == stack.pop()


def test_a_torn_last_line_is_ignored_and_then_gone(tmp_path: Path) -> None:
    prompts, path = write_answers(tmp_path), tmp_path / "j"
    session = RankingSession(prompts, path, "ann")
    session.rank([[1], [2], [3]])
    session.skip()
    whole, state = path.read_bytes(), seen(session)
    first = whole.index(b"\n") + 1
    for cut in range(first + 1, len(whole)):
        path.write_bytes(whole[:cut])
        resumed = RankingSession(prompts, path, "ann")
        assert resumed.progress == Progress(1, 0, 4)
        if cut % 7 == 0:
            resumed.skip()
            assert path.read_bytes() == whole and seen(resumed) == state
    path.write_bytes(whole[: first - 3])
    assert seen(RankingSession(prompts, path, "ann"))[1] == Progress(0, 0, 4)


def test_a_journal_of_other_answers(tmp_path: Path) -> None:
    path = tmp_path / "j"
    RankingSession(write_answers(tmp_path), path, "ann").rank([[1], [2], [3]])
    for others in (write_answers(tmp_path, name="else"), write_answers(tmp_path, answers=4)):
        with pytest.raises(ConfigError, match=r"does not have.*--journal"):
            RankingSession(others, path, "bob")
        with pytest.raises(ConfigError, match="does not have"):
            read_rankings(others, ranking_journal(path))


@pytest.mark.parametrize(
    "line", ["{", "[]", "1", '{"kind": "rank"}', '{"annotator": "a", "kind": "jump", "prompt": "p"}',
             '{"annotator": "a", "kind": "rank", "prompt": "p", "order": [[1]]}', "\xff"],
)  # fmt: skip
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    prompts, path = write_answers(tmp_path), tmp_path / "j"
    RankingSession(prompts, path, "ann").skip()
    with path.open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    with pytest.raises(DataError, match=r"j:2: .*delete that line"):
        RankingSession(prompts, path, "ann")


def test_two_sessions_of_one_annotator_see_each_other(tmp_path: Path) -> None:
    prompts, path = write_answers(tmp_path), tmp_path / "j"
    one, two = RankingSession(prompts, path, "ann"), RankingSession(prompts, path, "ann")
    shown = one.current
    assert shown is not None
    two.rank([[1], [2], [3]])
    with pytest.raises(StaleItem, match="another prompt"):
        one.rank([[3], [2], [1]], prompt=shown.id)
    assert seen(one) == seen(two) and one.progress.done == 1
    one.undo()
    two.refresh()
    assert seen(one) == seen(two) and two.current == shown


def test_a_failed_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = RankingSession(write_answers(tmp_path), tmp_path / "j", "ann")
    session.skip()
    before, whole, write = seen(session), (tmp_path / "j").read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:5]))
    with pytest.raises(DataError, match="cannot be written"):
        session.skip()
    monkeypatch.undo()
    assert (tmp_path / "j").read_bytes() == whole and seen(session) == before
    session.skip()
    assert session.progress.skipped == 2


def test_threads_do_not_tear_lines(tmp_path: Path) -> None:
    prompts, path = write_answers(tmp_path, prompts=15), tmp_path / "j"

    def work(name: str) -> None:
        session = RankingSession(prompts, path, name)
        while session.current is not None:
            session.rank([[2], [1, 3]])

    names = [f"annotator {n}" for n in range(4)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(work, names))
    assert len(ranking_journal(path).read()) == 60
    assert {name: len(found) for name, found in read_rankings(prompts, ranking_journal(path)).items()} == dict.fromkeys(names, 15)  # fmt: skip


CHILD = """
import sys
from pathlib import Path
from reasongenrm.answers.session import RankingSession, ranking_journal, read_rankings
from reasongenrm.answers.table import read_answers, write_ranks
from reasongenrm.records import unit_hash

source, out, name = sys.argv[1:]
answers, journal = read_answers(source), ranking_journal(Path(out + ".journal.jsonl"))
session = RankingSession(answers.prompts, journal.path, name)
mine = sum(entry.annotator == name for entry in journal.read())
while True:
    with journal.locked():
        write_ranks(Path(out), answers, read_rankings(answers.prompts, journal))
    if session.current is None:
        break
    # What comes next depends on what was done alone, so that a run that was killed makes the same choices.
    if mine % 7 == 5 and session.can_undo:
        session.undo()
    elif mine % 5 == 3:
        session.skip()
    else:
        texts = [answer.text for answer in session.current.answers]
        order = sorted(range(len(texts)), key=lambda at: unit_hash(texts[at]))
        session.rank([[at + 1] for at in order[:1]] + [[at + 1 for at in order[1:]]])
    mine += 1
"""


def child(source: Path, out: Path, name: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(source), str(out), name], env=environment)


def test_killed_and_resumed_is_as_never_stopped(tmp_path: Path) -> None:
    write_answers(tmp_path, prompts=60)
    source, calm, killed = tmp_path / "in.jsonl", tmp_path / "calm.csv", tmp_path / "killed.csv"
    for name in ("ann", "bob"):
        assert child(source, calm, name).wait(120) == 0
    journal = tmp_path / "killed.csv.journal.jsonl"
    dice, kills = random.Random(17), 0
    while True:
        running = [child(source, killed, name) for name in ("ann", "bob")]  # at the same time, one output
        size = journal.stat().st_size if journal.exists() else 0
        end = time.monotonic() + 60
        while any(one.poll() is None for one in running) and time.monotonic() < end:
            if kills < 6 and journal.exists() and journal.stat().st_size > size + dice.randrange(4000):
                break
            time.sleep(0.001)
        alive = [one for one in running if one.poll() is None]
        for one in alive:
            time.sleep(dice.random() * 0.01)
            one.send_signal(signal.SIGKILL)
        codes = [one.wait(60) for one in running]
        assert set(codes) <= {0, -signal.SIGKILL}
        kills += bool(alive)
        if codes == [0, 0]:
            break
    assert kills >= 4
    assert killed.read_bytes() == calm.read_bytes() and killed.stat().st_size > 1000
    assert sorted(ranking_journal(journal).read(), key=repr) == sorted(
        ranking_journal(tmp_path / "calm.csv.journal.jsonl").read(), key=repr
    )
    assert isinstance(ranking_journal(journal).read()[0], RankingEntry)
