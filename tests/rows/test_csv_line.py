"""A CSV holds any text, no spreadsheet computes a cell of it, and numbers stay numbers."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.rows.csv_line import csv_cell, csv_line, csv_text
from reasongenrm.rows.files import RawRow, csv_rows

pytestmark = pytest.mark.unit

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@pytest.mark.parametrize(
    "text",
    ['=HYPERLINK("http://x","y")', "+1+1", "-2+3+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "\r=1", "\n=1", "- a list", "=",
     "-", "--5", "-5-", "+٣", "-0x1F", "1e5=", "'=1", "''-x"],
)  # fmt: skip
def test_a_text_like_a_formula_is_a_text(text: str) -> None:
    cell = csv_cell(text)
    assert not cell.startswith(FORMULA) and csv_text(cell) == text


@pytest.mark.parametrize("number", ["-5", "+5", "-0.25", "-1e-05", "+.5", "-1.5E+10"])
def test_a_text_that_is_a_number_stays_one(number: str) -> None:
    assert csv_cell(number) == number == csv_text(number)


@pytest.mark.parametrize("value", [-1.5, -3, 0, 2.25e-7, True, None, [-1], {"a": "=1"}])
def test_values_that_are_no_text_are_as_before(value: object) -> None:
    assert not csv_cell(value).startswith("'")


@pytest.mark.parametrize("text", ["'quoted'", "'", "plain", "a=b", "", " =1", "(-5)"])
def test_other_texts_are_unchanged(text: str) -> None:
    assert csv_cell(text) == text == csv_text(text)


@given(
    st.text(st.sampled_from("'=+-@\t\r\n5.e a\""), max_size=6)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
def test_every_text_is_read_back(text: str) -> None:
    cell = csv_cell(text)
    assert csv_text(cell) == text
    assert not cell.startswith(FORMULA) or float(cell) is not None


def test_a_file_is_read_back_with_its_columns(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    rows = [["=name", "answer", "score"], ["@a", "- one\r\n- two", -0.5], ["b", "'=1", -2]]
    file.write_bytes("".join(map(csv_line, rows)).encode())
    first, second = csv_rows(file, ("answer",))
    assert isinstance(first, RawRow) and isinstance(second, RawRow)
    assert first.columns == {"=name": "@a", "answer": "- one\r\n- two", "score": "-0.5"}
    assert second.columns == {"=name": "b", "answer": "'=1", "score": "-2"}
    spreadsheet = list(csv.reader(io.StringIO(file.read_text(), newline="")))
    assert [row[2] for row in spreadsheet[1:]] == ["-0.5", "-2"]
