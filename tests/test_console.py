"""The terminal shows only lines of this suite; everything that libraries print goes to a log."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reasongenrm import console
from reasongenrm.console import TrainingStep, bar, escape_controls, say, training_bar
from reasongenrm.store import dump_line

pytestmark = pytest.mark.unit

NOISY = """
import atexit, os, subprocess, sys, warnings
from pathlib import Path
from reasongenrm import console
console.redirect_libraries()
atexit.register(os.write, 2, b"noise at exit\\n")
print("noise on stdout")
print("noise on stderr", file=sys.stderr)
os.write(1, b"noise of C\\n")
subprocess.run([sys.executable, "-c", "print('noise of a child')"], check=True)
console.say("progress")
console.show("result", 1)
"""
NOISES = ("noise on stdout", "noise on stderr", "noise of C", "noise of a child", "progress")


def run_script(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code, with its temporary files in a folder."""
    command, environment = [sys.executable, "-c", script], os.environ | {"TMPDIR": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_after_success_no_log_is_left(tmp_path: Path) -> None:
    done = run_script(NOISY, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "result 1\n", "progress\n")
    assert not list(tmp_path.iterdir())


def test_a_run_folder_keeps_the_log_and_later_starts_append(tmp_path: Path) -> None:
    target = tmp_path / "logs" / "stage.log"
    script = f"{NOISY}console.log_to(Path({str(target)!r}))\nprint('late noise')\nconsole.say('late')\n"
    for _ in range(2):
        done = run_script(script, tmp_path)
        assert (done.stdout, done.stderr) == ("result 1\n", "progress\nlate\n")
        assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    text = target.read_text()
    for noise in (*NOISES, "late noise", "late\n", "noise at exit"):
        assert text.count(noise) >= 2, noise
    assert text.count("\n--- 20") == 1 and text.startswith("--- 20"), "one heading per start"


def test_an_uncaught_exception_is_shown_with_the_path_of_the_log(tmp_path: Path) -> None:
    done = run_script(f"{NOISY}1 / 0\n", tmp_path)
    assert done.returncode == 1 and done.stdout == "result 1\n"
    first, *lines = done.stderr.splitlines()
    assert first == "progress" and lines[0].startswith("Traceback")
    assert lines[-2].startswith("ZeroDivisionError")
    [log] = tmp_path.iterdir()
    assert lines[-1] == f"reasongenrm: internal error; output of the libraries: {log}"
    assert all(noise in log.read_text() for noise in (*NOISES, "ZeroDivisionError", "noise at exit"))


def test_a_log_that_is_asked_for_remains(tmp_path: Path) -> None:
    done = run_script(f"{NOISY}console.show(console.log_path(), console.log_path())\n", tmp_path)
    [log] = tmp_path.iterdir()
    assert done.stdout == f"result 1\n{log} {log}\n"
    assert all(log.read_text().count(noise) == 1 for noise in (*NOISES, "noise at exit"))


def test_a_fatal_signal_is_shown(tmp_path: Path) -> None:
    done = run_script(f"{NOISY}os.abort()\n", tmp_path)
    assert done.returncode == -6 and "Fatal Python error: Aborted" in done.stderr


def test_closed_descriptors_are_opened_before_any_file(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom reasongenrm import console\nconsole.open_streams()\n"
        "console.redirect_libraries()\nresult = open('result', 'w')\nassert result.fileno() > 2\n"
        "assert sys.stdin.read() == ''\nprint('noise')\nos.write(1, b'noise')\nos.write(2, b'noise')\n"
        "console.show('shown')\nconsole.say('said')\n"
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, script]
    done = subprocess.run(command, cwd=tmp_path, check=False)
    assert done.returncode == 0 and (tmp_path / "result").read_text() == ""


def test_a_full_log_disk_does_not_stop_what_prints(tmp_path: Path) -> None:
    full = "full = os.open('/dev/full', os.O_WRONLY)\nos.dup2(full, 1)\nos.dup2(full, 2)\n"
    done = run_script(f"{NOISY}{full}print('more', flush=True)\n1 / 0\n", tmp_path)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and lines[-2].startswith("ZeroDivisionError"), done.stderr
    assert lines[-1].startswith("reasongenrm: internal error") and done.stderr.count("Traceback") == 1


def test_sigterm_leaves_only_the_log_of_a_run_folder(tmp_path: Path) -> None:
    done = run_script(f"{NOISY}os.kill(os.getpid(), 15)\n", tmp_path)
    assert done.returncode == -signal.SIGTERM and not list(tmp_path.iterdir())
    target = tmp_path / "stage.log"
    script = f"{NOISY}console.log_to(Path({str(target)!r}))\nos.kill(os.getpid(), 15)\n"
    assert run_script(script, tmp_path).returncode == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == [target] and "noise of C" in target.read_text()


def test_without_a_redirect_nothing_changes(capsys: pytest.CaptureFixture[str]) -> None:
    console.log_to(Path("/nowhere/x.log"))
    assert console.log_path() is None and console.log_note() == ""
    say("[b]text[/b] of any width " + "x" * 200)
    console.show("result")
    assert capsys.readouterr() == ("result\n", "[b]text[/b] of any width " + "x" * 200 + "\n")


@pytest.mark.parametrize(
    "code", [*range(32), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
def test_control_characters_are_escaped(code: int) -> None:
    text = f"a{chr(code)}b"
    escaped = escape_controls(text)
    assert escaped == (text if chr(code) in "\t\n" else f"a\\u{code:04x}b")
    line = dump_line({"text": text})
    assert json.loads(escape_controls(line)) == {"text": text}, "a line of JSON is still the same row"


@pytest.mark.parametrize("text", ["é 😀 \t\n", "שלום", "\u200f\u2028\ufeff", "\\u001b"])
def test_other_characters_stay(text: str) -> None:
    assert escape_controls(text) == text


def test_what_is_printed_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    say("\x1b]0;title\x07 \x9b2J")
    console.show("\x1b[31m", "two")
    console.show_line('{"a": "\x9b"}\n')
    captured = capsys.readouterr()
    assert captured.err == "\\u001b]0;title\\u0007 \\u009b2J\n"
    assert captured.out == '\\u001b[31m two\n{"a": "\\u009b"}\n'


def test_a_traceback_and_a_log_have_no_keys_and_no_control_characters(tmp_path: Path) -> None:
    target = tmp_path / "stage.log"
    script = (
        f"import sys\nsys.argv += ['train.args.hub_token=hf_AAAABBBBCCCCDDDD', '\\x1b[2J']\n{NOISY}"
        f"console.log_to(Path({str(target)!r}))\n"
        "raise ValueError('\\x1b]0;x\\x07 Bearer hf_AAAABBBBCCCCDDDD')\n"
    )
    done = run_script(script, tmp_path)
    for text in (done.stderr, target.read_text()):
        assert "\x1b" not in text and "hf_AAAA" not in text and "\\u001b]0;x\\u0007 Bearer ***" in text
    assert "train.args.hub_token=*** \\u001b[2J\n" in target.read_text()


def test_a_bar_prints_a_line_per_tenth_of_the_work_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with bar("scoring", 1000) as advance:
        for _ in range(200):
            advance(5)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"scoring: {n}00/1000" for n in range(1, 11)]
    assert all(re.fullmatch(r"scoring: \d+/1000, \d+:\d\d:\d\d left", line) for line in lines[:-1])


def test_a_slow_bar_prints_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 10_000, 7))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(seconds))
    with bar("scoring", 1000) as advance:
        for _ in range(10):
            advance(1)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_training_bar_shows_steps_loss_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with training_bar("judge") as show:
        show(TrainingStep(50, 100))  # resumed: the steps before took no time here
        now = 20.0
        show(TrainingStep(60, 100, 0.25, 1234.5))
        now = 100.0
        show(TrainingStep(100, 100, 0.125, 1200.0))
    assert capsys.readouterr().err.splitlines() == [
        "judge: 50/100 steps",
        "judge: 60/100 steps, loss 0.2500, 1234 tokens/s, 0:01:20 left",
        "judge: 100/100 steps, loss 0.1250, 1200 tokens/s",
    ]


def test_on_a_terminal_a_bar_is_drawn_and_its_lines_go_to_the_log(tmp_path: Path) -> None:
    target = tmp_path / "stage.log"
    script = (
        "from pathlib import Path\nfrom reasongenrm import console\nconsole.redirect_libraries()\n"
        f"console.log_to(Path({str(target)!r}))\n"
        "with console.bar('scoring', 40) as advance:\n"
        "    for _ in range(40):\n        advance(1)\n    console.say('a line above the bar')\n"
    )
    outer, inner = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=inner, stderr=inner, env=environment, check=False
    )
    os.close(inner)
    shown = os.read(outer, 1 << 16).decode()
    os.close(outer)
    assert done.returncode == 0, shown
    assert "\x1b[" in shown and "40/40" in shown and "a line above the bar\r\n" in shown
    text = target.read_text()
    assert text.count("scoring: ") == 10 and "a line above the bar\n" in text and "\x1b[" not in text
