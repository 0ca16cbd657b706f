"""Append-only files: a kill at any byte loses at most one row, and the finished file is the same."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm import redaction
from reasongenrm import store as store_module
from reasongenrm.errors import DataError
from reasongenrm.store import (
    PartStore,
    check_end_mark,
    dump_line,
    dump_texts,
    end_mark,
    explain_write_errors,
    read_json,
    read_jsonl,
    write_end_mark,
    write_json,
    write_jsonl,
    write_text,
)

pytestmark = pytest.mark.unit

# Two-, three- and four-byte characters, a lone surrogate, and everything that some reader takes for a line's end.
ROWS: list[dict[str, Any]] = [
    {"id": "b", "text": "é → 😀"},
    {"id": "a", "text": "\ud800 lone"},
    {"id": "d", "text": "\r\n\u2028\u2029\x85\x0b\x0c\x1c{}[]\"\\"},
    {"id": "c", "text": "", "deep": {"x": [1, 2.5, None, True]}},
]  # fmt: skip
ORDER = ["a", "b", "c", "d"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def part_of(final: Path) -> Path:
    return final.with_name(final.stem + ".part" + final.suffix)


def whole(folder: Path) -> tuple[bytes, bytes]:
    """Return the part file's and the final file's bytes of a run that nobody killed."""
    store = PartStore(folder / "whole" / "rows.jsonl")
    store.append(ROWS)
    part = store.part.read_bytes()
    store.finish(ORDER)
    return part, store.final.read_bytes()


def test_a_kill_at_any_byte_loses_at_most_the_incomplete_row(tmp_path: Path) -> None:
    part, final = whole(tmp_path)
    lines = part.splitlines(keepends=True)
    assert len(lines) >= 4
    for cut in range(len(part) + 1):
        path = tmp_path / "killed" / f"{cut}.jsonl"
        path.parent.mkdir(exist_ok=True)
        part_of(path).write_bytes(part[:cut])
        kept = part[:cut].count(b"\n")
        store = PartStore(path)
        assert list(store) == [row["id"] for row in ROWS[:kept]], f"cut at byte {cut}"
        assert part_of(path).read_bytes() == b"".join(part.split(b"\n")[i] + b"\n" for i in range(kept))
        store.append(ROWS)
        assert part_of(path).read_bytes() == part, f"cut at byte {cut}"
        if cut % 16 == 0 or cut == len(part):  # each of these waits for the disk
            store.finish(ORDER)
            assert path.read_bytes() == final and not part_of(path).exists(), f"cut at byte {cut}"


@given(
    texts=st.lists(st.text(st.characters(), max_size=8), min_size=1, max_size=5),
    data=st.data(),
)
def test_kills_anywhere_give_the_same_bytes(texts: list[str], data: st.DataObject) -> None:
    rows = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    expected = "".join(map(dump_line, reversed(rows))).encode()
    with tempfile.TemporaryDirectory() as folder:
        final = Path(folder) / "rows.jsonl"
        for _ in range(data.draw(st.integers(0, 3), label="kills")):
            PartStore(final).append(data.draw(st.lists(st.sampled_from(rows)), label="appended"))
            size = part_of(final).stat().st_size
            with part_of(final).open("rb+") as file:
                file.truncate(data.draw(st.integers(0, size), label="cut"))
        store = PartStore(final)
        store.append(rows)
        store.finish(row["id"] for row in reversed(rows))
        assert final.read_bytes() == expected
        assert not part_of(final).exists()


@pytest.mark.parametrize(
    "tail",
    [b"\x00" * 40, b"{", b"[1]\n", b'"id"\n', b"7\n", b"null\n", b"\n", b'{"no": "id"}\n', b'{"id": {}}\n', b"\xff\xfe\n",
     b'{"id": "e"}'],
)  # fmt: skip
def test_anything_but_a_row_is_cut_off(tail: bytes, tmp_path: Path) -> None:
    good = dump_line({"id": "a"}).encode()
    part_of(tmp_path / "x.jsonl").write_bytes(good + tail + b'{"id": "z"}\n')
    store = PartStore(tmp_path / "x.jsonl")
    assert list(store) == ["a"] and store["a"] == {"id": "a"}
    assert store.part.read_bytes() == good


def test_finish_writes_the_given_order_and_removes_the_part(tmp_path: Path) -> None:
    store = PartStore(tmp_path / "deep" / "x.jsonl")
    store.append([{"id": "b", "n": 1}, {"id": "a", "n": 2}])
    store.finish(iter(["a", "b"]))
    assert store.finished
    assert list(read_jsonl(store.final)) == [{"id": "a", "n": 2}, {"id": "b", "n": 1}]
    assert sorted(path.name for path in store.final.parent.iterdir()) == [".x.jsonl.end", "x.jsonl"]
    store.finish(["b", "a"])  # a second time changes nothing
    assert [row["id"] for row in read_jsonl(store.final)] == ["a", "b"]


def test_finish_before_all_is_done_loses_nothing(tmp_path: Path) -> None:
    store = PartStore(tmp_path / "x.jsonl")
    store.append([{"id": "a"}])
    with pytest.raises(KeyError, match="b"):
        store.finish(["a", "b"])
    assert not store.final.exists() and not store.finished
    again = PartStore(tmp_path / "x.jsonl")
    again.append([{"id": "b"}])
    again.finish(["a", "b"])
    assert [row["id"] for row in read_jsonl(again.final)] == ["a", "b"]


def test_a_finished_store_is_read_only(tmp_path: Path) -> None:
    store = PartStore(tmp_path / "x.jsonl")
    store.append([{"id": "a", "n": 1}])
    store.finish(["a"])
    again = PartStore(tmp_path / "x.jsonl")
    assert again.finished and list(again) == ["a"] and again["a"] == {"id": "a", "n": 1}
    with pytest.raises(AssertionError, match="finished"):
        again.append([{"id": "b"}])
    assert not again.part.exists()


def test_a_kill_before_the_part_is_removed_leaves_no_file(tmp_path: Path) -> None:
    store = PartStore(tmp_path / "x.jsonl")
    store.append([{"id": "a"}])
    left = store.part.read_bytes()
    store.finish(["a"])
    store.part.write_bytes(left)  # as after a kill between the move and the removal
    again = PartStore(tmp_path / "x.jsonl")
    assert again.finished and list(again) == ["a"]
    assert not again.part.exists()


def test_append_keeps_the_first_row_of_each_id(tmp_path: Path) -> None:
    store = PartStore(tmp_path / "x.jsonl")
    store.append([{"id": "a", "n": 1}, {"id": "a", "n": 2}])
    store.append([{"id": "a", "n": 3}, {"id": "b", "n": 4}])
    assert store.part.read_text() == '{"id": "a", "n": 1}\n{"id": "b", "n": 4}\n'
    again = PartStore(tmp_path / "x.jsonl")
    assert [again[key] for key in again] == [{"id": "a", "n": 1}, {"id": "b", "n": 4}]


def test_of_two_rows_with_one_id_the_first_is_kept(tmp_path: Path) -> None:
    part_of(tmp_path / "x.jsonl").write_text('{"id": "a", "n": 1}\n{"id": "a", "n": 2}\n{"id": "b"}\n')
    again = PartStore(tmp_path / "x.jsonl")
    assert [again[key] for key in again] == [{"id": "a", "n": 1}, {"id": "b"}]


def test_read_jsonl_of_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="file not found") as caught:
        list(read_jsonl(tmp_path / "none.jsonl"))
    assert caught.value.location == str(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "line", [b"{", b"", b"[1]", b'"x"', b"null", b"NaN", b'{"a": "\xff"}', b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b"\0\0", b'{"a": 1} {"b": 2}']
)  # fmt: skip
def test_read_jsonl_names_file_and_line(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": "a"}\n' * 2 + line + b'\n{"id": "b"}\n')
    rows = read_jsonl(path)
    assert [next(rows), next(rows)] == [{"id": "a"}] * 2
    with pytest.raises(DataError) as caught:
        next(rows)
    assert caught.value.location == f"{path}:3" and caught.value.hint
    assert "\n" not in str(caught.value)


def test_read_jsonl_accepts_what_an_editor_adds_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "grpo.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a"}\r\n{"id": "b"}\n\n  \r\n')
    assert [row["id"] for row in read_jsonl(path)] == ["a", "b"]
    path.write_bytes(b"\xef\xbb\xbf\n")
    assert list(read_jsonl(path)) == []


@pytest.mark.parametrize(
    ("content", "line"), [(b'{"id": "a"}\n\n \n{"id": "b"}\n', 2), (b'\n{"id": "a"}\n', 1)]
)
def test_an_empty_line_between_rows_is_named(content: bytes, line: int, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_jsonl(path))
    error = caught.value
    expected = ("an empty line between rows", f"{path}:{line}", f"remove line {line}")
    assert (error.problem, error.location, error.hint) == expected


@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=3), max_size=4))
def test_rows_are_read_back_unchanged(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        assert write_jsonl(path, rows) == len(rows)
        assert list(read_jsonl(path)) == rows
        assert path.read_bytes().count(b"\n") == len(rows)


@given(st.text(st.characters(categories=["Cs", "Lu", "So"]), max_size=6))
def test_surrogates_are_read_back(text: str) -> None:
    line = dump_line({"text": text})
    line.encode("utf-8")
    # JSON cannot tell a pair of surrogates from the character they spell; a lone one comes back as it was.
    assert json.loads(line)["text"] == text.encode("utf-16-le", "surrogatepass").decode(
        "utf-16-le", "surrogatepass"
    )


@given(st.dictionaries(st.text(), st.text(st.characters()) | st.lists(st.text()), max_size=4))
def test_dump_texts_writes_what_dump_line_writes(row: dict[str, Any]) -> None:
    assert json.loads(dump_texts(row)) == json.loads(dump_line(row)) and dump_texts(row).endswith(b"\n")


@pytest.mark.parametrize("row", ROWS)
def test_dump_texts_writes_odd_texts_as_dump_line_does(row: dict[str, Any]) -> None:
    assert json.loads(dump_texts(row)) == json.loads(dump_line(row))


def test_text_is_escaped_only_if_it_has_to_be() -> None:
    assert dump_line({"t": "é 😀"}) == '{"t": "é 😀"}\n'
    assert dump_line({"t": "é \udc00"}) == '{"t": "\\u00e9 \\udc00"}\n'


def test_numbers_that_json_lacks_are_refused() -> None:
    for value in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(ValueError, match="JSON"):
            dump_line({"x": value})


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"id": "new"}
        raise RuntimeError("killed")

    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"id": "old"}])
    with pytest.raises(RuntimeError):
        write_jsonl(path, rows())
    assert list(read_jsonl(path)) == [{"id": "old"}]
    write_text(path, "text\r\n")
    assert path.read_bytes() == b"text\r\n"


def test_json_documents_have_sorted_keys_and_any_text(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "x.json", {"b": "\ud800 é", "a": 5e-5})
    text = (tmp_path / "deep" / "x.json").read_text()
    assert text.index('"a"') < text.index('"b"') and text.endswith("}\n")
    assert json.loads(text) == {"b": "\ud800 é", "a": 5e-5}


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOSPC, "make room there; then the same command resumes from here"),
        (errno.EDQUOT, "make room there; then the same command resumes from here"),
        (errno.EEXIST, "check the path and its permissions"),
        (errno.ENOENT, "check the path and its permissions"),
        (errno.EACCES, "check the path and its permissions"),
    ],
)
def test_the_hint_of_a_failed_write_names_its_cause(code: int, hint: str) -> None:
    with pytest.raises(DataError) as caught, explain_write_errors(Path("x")):
        raise OSError(code, os.strerror(code))
    assert str(caught.value) == f"x: cannot be written: {os.strerror(code)} ({hint})"


# --- a finished file that is continued


def finished(path: Path) -> PartStore:
    store = PartStore(path)
    store.append([{"id": "a", "n": 1}, {"id": "c", "n": 3}])
    store.finish(["a", "c"])
    return store


def test_a_finished_file_is_continued(tmp_path: Path) -> None:
    store = finished(tmp_path / "x.jsonl")
    assert store["c"] == {"id": "c", "n": 3}  # its reader is open
    store.reopen()
    assert (
        not store.finished
        and list(store) == ["a", "c"]
        and len(store) == 2
        and store["c"] == {"id": "c", "n": 3}
    )
    store.append([{"id": "a", "n": 9}, {"id": "b", "n": 2}])
    assert list(store) == ["a", "c", "b"] and store.earlier is not None and "b" not in store.earlier
    store.finish(["a", "b", "c"])
    assert list(read_jsonl(store.final)) == [{"id": "a", "n": 1}, {"id": "b", "n": 2}, {"id": "c", "n": 3}]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.jsonl.end", "x.jsonl"]
    assert store["b"] == {"id": "b", "n": 2}


def test_a_kill_at_any_moment_of_a_continuation_loses_no_row(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    finished(path).reopen()  # killed before a row was added
    store = PartStore(path)
    assert list(store) == ["a", "c"] and not store.finished
    store.append([{"id": "b", "n": 2}])
    with part_of(path).open("ab") as part:
        part.write(b'{"id": "d", "n"')
    store = PartStore(path)
    assert list(store) == ["a", "c", "b"]
    leftovers = {name: (tmp_path / name).read_bytes() for name in ("x.part.jsonl", "x.earlier.jsonl")}
    store.finish(["c", "b"])
    for name, content in leftovers.items():
        (tmp_path / name).write_bytes(content)  # as after a kill before they were removed
    assert PartStore(path).finished and list(PartStore(path)) == ["c", "b"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [".x.jsonl.end", "x.jsonl"]


# --- a finished file that is no longer whole


@pytest.mark.parametrize("order", [["a", "c"], ["c", "a"]])
def test_the_end_mark_has_rows_size_and_hash(order: list[str], tmp_path: Path) -> None:
    store = PartStore(tmp_path / "x.jsonl")
    store.append([{"id": "a", "n": 1}])
    store = PartStore(tmp_path / "x.jsonl")  # resumed
    store.append([{"id": "c", "n": 3}])
    store.finish(order)
    content = store.final.read_bytes()
    mark = read_json(end_mark(store.final))
    assert mark == {"rows": 2, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_a_cut_at_any_byte_is_seen_and_its_rows_are_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": str(number), "text": "é" * number} for number in range(4)]
    whole = PartStore(tmp_path / "x.jsonl")
    whole.append(rows)
    whole.finish("0123")
    content = whole.final.read_bytes()
    for cut in range(len(content)):
        whole.final.write_bytes(content[:cut])
        store = PartStore(whole.final)
        assert not store.finished and list(store) == [str(n) for n in range(content[:cut].count(b"\n"))]
        assert "the end of this finished file is missing" in capsys.readouterr().err
        store.append(rows)
        store.finish("0123")
        assert store.final.read_bytes() == content and not store.part.exists()
    assert PartStore(whole.final).finished and capsys.readouterr().err == ""


def test_a_changed_finished_file_is_refused_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    content = finished(path).final.read_bytes()
    for changed in (content.replace(b"3", b"4"), content + content[:9], content + b'{"id": "d"}\n'):
        path.write_bytes(changed)
        store = PartStore(path)
        assert store.finished
        with pytest.raises(
            DataError, match=r"was changed: it had 2 rows .*\(restore it, name its step with --redo"
        ):
            store["a"]


def test_a_row_that_a_finished_file_lacks_is_named(tmp_path: Path) -> None:
    store = finished(tmp_path / "x.jsonl")
    with pytest.raises(DataError, match=r"x.jsonl: the row b is missing \(restore it"):
        PartStore(store.final)["b"]


@pytest.mark.parametrize("mark", ["", "{}", "[1]", '{"rows": "x", "bytes": 1, "sha256": ""}'])
def test_a_broken_end_mark_is_an_error(mark: str, tmp_path: Path) -> None:
    store = finished(tmp_path / "x.jsonl")
    end_mark(store.final).write_text(mark)
    with pytest.raises(DataError) as caught:
        PartStore(store.final)
    assert caught.value.location == str(tmp_path / ".x.jsonl.end") and caught.value.hint


def test_a_marked_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"id": "a"}, {"id": "b"}])
    check_end_mark(path)  # it has no mark yet
    write_end_mark(path)
    check_end_mark(path)
    content = path.read_bytes()
    for changed in (b"", content[:-1], content[:12], content.replace(b"b", b"c"), content * 2):
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"x\.jsonl: this finished file was changed: it had 2 rows"):
            check_end_mark(path)
    path.unlink()
    with pytest.raises(DataError, match=r"x\.jsonl: cannot be read"):
        check_end_mark(path)


# --- two writers

WRITER = """
import sys
from pathlib import Path
from reasongenrm.store import PartStore, jsonl_writer
path = Path(sys.argv[2])
if sys.argv[1] == "part":
    store = PartStore(path)
    store.append([{"id": "a"}])
    print("writes", flush=True)
    sys.stdin.read()
    store.finish(["a"])
else:
    with jsonl_writer(path) as write:
        write({"id": "a"})
        print("writes", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes x.jsonl, as a part or whole."""
    command = [sys.executable, "-c", WRITER, request.param, str(tmp_path / "x.jsonl")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writes\n"
        yield process
        process.kill()


@pytest.mark.parametrize("writer", ["part"], indirect=True)
def test_a_part_has_one_writer(tmp_path: Path, writer: subprocess.Popen[str]) -> None:
    path = tmp_path / "x.jsonl"
    with pytest.raises(DataError) as caught:
        PartStore(path)
    assert str(caught.value) == (
        f"{path}: another process is writing this file (wait for it to end, or name another file)"
    )
    writer.kill()
    writer.wait()
    store = PartStore(path)
    store.append([{"id": "b"}])
    store.finish(["a", "b"])
    assert list(read_jsonl(path)) == [{"id": "a"}, {"id": "b"}]


@pytest.mark.parametrize("writer", ["whole"], indirect=True)
def test_a_file_that_is_replaced_has_one_writer(
    tmp_path: Path, writer: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "WAIT_SECONDS", 0.2)
        with pytest.raises(DataError, match="another process is writing this file"):
            write_text(path, "b")
    assert not path.exists() and path.with_name("x.jsonl.tmp").exists(), "the other one's file is still there"
    assert writer.stdin is not None
    writer.stdin.close()
    write_text(path, "b")  # waits for the other one
    assert path.read_text() == "b" and writer.wait(timeout=30) == 0


def test_a_new_store_of_this_process_takes_over(tmp_path: Path) -> None:
    first = PartStore(tmp_path / "x.jsonl")
    first.append([{"id": "a"}])
    second = PartStore(tmp_path / "x.jsonl")
    second.append([{"id": "b"}])
    second.finish(["a", "b"])
    with pytest.raises(ValueError, match="closed"):
        first.append([{"id": "c"}])
    assert list(read_jsonl(second.final)) == [{"id": "a"}, {"id": "b"}]


def test_keys_are_hidden_in_whatever_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", {"kEy-5f1c77e0a9b2"})
    row = {"id": "a", "error": "refused: kEy-5f1c77e0a9b2"}
    write_json(tmp_path / "a.json", row | {"url": "http://a:b@h"})
    write_jsonl(tmp_path / "a.jsonl", [row])
    write_text(tmp_path / "a.md", row["error"])
    store = PartStore(tmp_path / "b.jsonl")
    store.append([row])
    store.finish(["a"])
    texts = [path.read_text() for path in sorted(tmp_path.glob("[a-z]*"))]
    assert len(texts) == 4 and all("refused: ***" in text and "kEy" not in text for text in texts)
    assert read_json(tmp_path / "a.json")["url"] == "http://***@h"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_broken_document_is_an_error_with_its_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json: invalid JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        read_json(tmp_path / "none.json")


# --- a disk that takes no more


FULL = """
import resource, sys
from pathlib import Path
from reasongenrm.errors import DataError
from reasongenrm.store import PartStore, write_jsonl

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # the system refuses to write on, as on a full disk
rows = [{"id": str(number), "text": "x" * 80} for number in range(50)]
for attempt in (lambda: PartStore(Path("x.jsonl")).append(rows), lambda: write_jsonl(Path("y.jsonl"), rows)):
    try:
        attempt()
    except DataError as error:
        print(error)
"""


def test_a_full_disk_is_named_and_complete_rows_are_kept(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("x.part.jsonl: cannot be written: ")
    assert second.startswith("y.jsonl: cannot be written: ")
    assert [path.name for path in tmp_path.iterdir()] == ["x.part.jsonl"], (
        "the half-made file gives its room back"
    )
    assert (tmp_path / "x.part.jsonl").stat().st_size == 1000
    rows = [{"id": str(number), "text": "x" * 80} for number in range(50)]
    store = PartStore(tmp_path / "x.jsonl")
    kept = list(store)
    assert kept == [str(number) for number in range(len(kept))] and 5 < len(kept) < 50
    store.append(rows)
    store.finish(str(number) for number in range(50))
    assert list(read_jsonl(store.final)) == rows
