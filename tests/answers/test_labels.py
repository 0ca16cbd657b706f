"""A labelling session: any operations, undone, resumed, torn and shared, come to what the journal says; labels are blind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasongenrm.answers.journal import Progress, StaleItem
from reasongenrm.answers.labels import LabelEntry, LabelSession, label_journal, read_label_entries
from reasongenrm.answers.pairs import LabelPair
from reasongenrm.answers.verdicts import JudgeVerdict, swap
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Message, content_id

pytestmark = pytest.mark.unit


def make_pairs(count: int = 4, *, verdict: bool = True) -> tuple[LabelPair, ...]:
    """Pairs whose answers say which one they are."""
    verdicts = {"judge": JudgeVerdict("A", 0.9)} if verdict else {}
    return tuple(
        LabelPair(
            content_id("pair", n),
            f"row {n}",
            f"file:{n + 1}",
            (Message(role="user", content=f"p{n}"),),
            "",
            f"a{n}",
            f"b{n}",
            "file",
            {},
            verdicts,
        )
        for n in range(count)
    )


PAIRS = make_pairs()


def labels(session: LabelSession) -> dict[str, Any]:
    """Restated: what the journal says of the session's annotator."""
    done: list[LabelEntry] = []
    for entry in session.journal.read():
        if entry.annotator == session.annotator:
            done = done[:-1] if entry.kind == "undo" else [*done, entry]
    return {entry.pair: entry.label for entry in done if entry.kind == "label"}


def seen(session: LabelSession) -> Any:
    return session.current, session.progress, labels(session), session.can_undo, session.last


def test_labels_are_stored_in_the_order_of_the_file(tmp_path: Path) -> None:
    swapped = set()
    for name in ("ann", "bob", "eve"):
        session = LabelSession(make_pairs(12), tmp_path / "j", name)
        while shown := session.current:
            better = next(letter for letter, text in zip("AB", shown.answers, strict=True) if text[0] == "b")
            session.label(better, pair=shown.id)
            swapped.add(shown.swapped)
            assert better == swap("B", shown.swapped)
        assert set(labels(session).values()) == {"B"} and session.progress == Progress(12, 0, 12)
    assert swapped == {True, False}


def test_the_order_is_of_annotator_and_seed_and_not_of_the_input(tmp_path: Path) -> None:
    pairs = make_pairs(20)

    def shown(given: Any, name: str, seed: int = 17) -> list[Any]:
        session = LabelSession(given, tmp_path / f"{name}{seed}{len(list(tmp_path.iterdir()))}", name, seed)
        found = []
        while session.current is not None:
            found.append(session.current)
            session.label("tie")
        return found

    ann = shown(pairs, "ann")
    assert shown(pairs[::-1], "ann") == ann
    assert 4 <= sum(pair.swapped for pair in ann) <= 16
    for other in (shown(pairs, "bob"), shown(pairs, "ann", 18)):
        assert [pair.id for pair in other] != [pair.id for pair in ann]
        assert {pair.id: pair.swapped for pair in other} != {pair.id: pair.swapped for pair in ann}


def test_a_wrong_label_changes_nothing(tmp_path: Path) -> None:
    session = LabelSession(PAIRS, tmp_path / "j", "ann")
    before = seen(session)
    for winner, note, problem in (
        ("C", "", "not a label"),
        ("a", "", "not a label"),
        ("A", "x" * 2001, "2001 characters"),
    ):
        with pytest.raises(ConfigError, match=problem):
            session.label(winner, note=note)
    with pytest.raises(StaleItem, match="another pair is current"):
        session.label("A", pair="other")
    with pytest.raises(ConfigError, match="nothing to undo"):
        session.undo()
    assert seen(session) == before and session.journal.read() == []


def test_a_label_that_changes_after_the_verdict_was_seen_is_not_blind(tmp_path: Path) -> None:
    def entry(session: LabelSession, winner: str) -> LabelEntry:
        session.label(winner)
        return session.journal.read()[-1]

    path = tmp_path / "j"
    session = LabelSession(PAIRS, path, "ann")
    assert entry(session, "A").blind
    session.undo()
    session.skip()
    session.undo()
    resumed = LabelSession(PAIRS, path, "ann")
    again = entry(resumed, "B")
    assert not again.blind and again.pair == session.journal.read()[0].pair
    assert entry(resumed, "B").blind, "another pair"
    assert entry(LabelSession(PAIRS, path, "bob"), "tie").blind, "another person"
    hidden = LabelSession(make_pairs(verdict=False), tmp_path / "k", "ann")
    hidden.label("A")
    hidden.undo()
    assert entry(LabelSession(PAIRS, tmp_path / "k", "ann"), "A").blind, "no verdict was shown before"


def test_the_last_label(tmp_path: Path) -> None:
    session = LabelSession(PAIRS, tmp_path / "j", "ann")
    first = session.current
    assert session.last is None and first is not None
    session.label("tie", note="  hard to say\n")
    assert session.last is not None
    assert session.last[0] == first and (session.last[1].label, session.last[1].note) == (
        "tie",
        "hard to say",
    )
    session.skip()
    assert session.last is None
    session.undo()
    assert session.last is not None
    session.undo()
    assert session.last is None


def test_a_journal_of_other_pairs(tmp_path: Path) -> None:
    path = tmp_path / "j"
    LabelSession(PAIRS, path, "ann").label("A")
    other = [pair for pair in PAIRS if pair.id != label_journal(path).read()[0].pair]
    with pytest.raises(ConfigError, match=r"does not have.*--labels"):
        LabelSession(other, path, "bob")
    with pytest.raises(ConfigError, match="does not have"):
        read_label_entries(other, label_journal(path))


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"annotator": "a", "kind": "label"}', '{"annotator": "a", "kind": "rank", "pair": "p"}',
             '{"annotator": "a", "kind": "label", "pair": "p", "label": "C"}'],
)  # fmt: skip
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "j"
    LabelSession(PAIRS, path, "ann").skip()
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"j:2: .*delete that line"):
        LabelSession(PAIRS, path, "ann")


Acts = st.lists(
    st.tuples(
        st.sampled_from(["label", "label", "skip", "undo", "tear"]),
        st.sampled_from(["ann", "bob"]),
        st.sampled_from(["A", "B", "tie"]),
        st.text(max_size=5),
        st.integers(1, 200),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(Acts)
def test_any_operations_torn_lines_undo_and_resume(tmp_path: Path, acts: list[tuple[Any, ...]]) -> None:
    """After a torn write the state is that before it, and the operation can be repeated: what is left is as if nothing tore."""
    path, calm = tmp_path / "j", tmp_path / "calm"
    for file in (path, calm):
        file.unlink(missing_ok=True)
    undone: dict[str, list[Any]] = {"ann": [], "bob": []}
    for kind, name, winner, note, cut in acts:
        session, twin = (LabelSession(PAIRS, file, name) for file in (path, calm))
        before, size = seen(session), path.stat().st_size if path.exists() else 0
        possible = session.can_undo if kind == "undo" else session.current is not None

        def operate(one: LabelSession, kind: str = kind, winner: str = winner, note: str = note) -> None:
            if kind in ("label", "tear"):
                one.label(winner, note=note)
            else:
                one.skip() if kind == "skip" else one.undo()

        if not possible:
            with pytest.raises(ConfigError):
                operate(session)
            assert seen(session) == before
            continue
        operate(session)
        if kind == "tear":
            whole = path.read_bytes()
            path.write_bytes(whole[: size + min(cut, len(whole) - size - 1)])
            session = LabelSession(PAIRS, path, name)
            assert seen(session) == before, "a torn line counts for nothing"
            operate(session)
        operate(twin)
        if kind == "undo":
            assert seen(session) == undone[name].pop(), "undo is the inverse of what it undoes"
        else:
            undone[name].append(before)
        assert seen(LabelSession(PAIRS, path, name)) == seen(session), "resuming changes nothing"
    if calm.exists():
        assert path.read_bytes() == calm.read_bytes()
        for name, entries in read_label_entries(PAIRS, label_journal(path)).items():
            found = {pair: entry.label for pair, entry in entries.items()}
            assert found == labels(LabelSession(PAIRS, path, name))
        for line in path.read_bytes().splitlines():  # of a text it would split at more than line ends
            assert json.loads(line)["annotator"] in undone
