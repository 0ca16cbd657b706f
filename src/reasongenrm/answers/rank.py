"""People rank answers, in a terminal or on a web page of this machine; what they rank is training data."""

from __future__ import annotations

import sys
from pathlib import Path

from reasongenrm.answers.journal import Journal
from reasongenrm.answers.session import RankingSession, read_rankings
from reasongenrm.answers.table import Answers, check_writable, read_answers, write_ranks
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.store import to_json, write_jsonl


def rank(
    source: str,
    out: str,
    *,
    annotator: str | None = None,
    seed: int = 17,
    web: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
    journal: str | None = None,
    api_key_env: str | None = None,
) -> None:
    """Have the answers of a file ranked, and write the ranks as `kind: ranked` of a recipe reads them.

    The output is written anew after every ranking; the same command goes on where it stopped. Rows that
    cannot be ranked are listed in `<out>.dropped.jsonl`. At the end one line says what came of it.

    Args:
        source: see `table.read_answers`.
        out: `.jsonl`, or else CSV.
        annotator: who ranks; on the web page the name that its form begins with.
        seed: of the order in which prompts and answers are shown.
        web: serve a page instead of asking in the terminal.
        host, port, api_key_env: see `web.serve`.
        journal: `<out>.journal.jsonl` if not given.

    Raises:
        ConfigError: there is no annotator, the files do not fit, or the page would be open to others.
        DataError: a file cannot be read or written, or nothing in the input can be ranked.
        EngineError: the page cannot be served.
    """
    target = Path(out).expanduser()
    noted = Journal(Path(journal).expanduser() if journal else _beside(target, ".journal.jsonl"))
    if not web and not (annotator or "").strip():
        raise ConfigError("who ranks is not said", location="annotator", hint="give --annotator NAME")
    _check_files(Path(source).expanduser(), target, noted.path)
    answers = _read(source, target)
    check_writable(answers, target)

    def write() -> None:
        # Under the journal's lock: of two processes the last one to write has read all entries of both.
        with noted.locked():
            write_ranks(target, answers, read_rankings(answers.prompts, noted))

    def opened(name: str) -> RankingSession:
        return RankingSession(answers.prompts, noted.path, name, seed)

    if web:
        from reasongenrm.answers.web import serve

        read_rankings(answers.prompts, noted)  # a journal of other answers is told here, not on the page
        write()
        serve(opened, host, port, changed=write, annotator=annotator or "", api_key_env=api_key_env)
    else:
        from reasongenrm.answers.terminal import rank_in_terminal

        session = opened(annotator or "")
        write()
        rank_in_terminal(session, changed=write)
    print(summary(answers, target, noted))


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


def _check_files(source: Path, target: Path, journal: Path) -> None:
    """Check that no file is written over another, and none that somebody else made.

    Raises:
        ConfigError: one would be.
    """
    files = [source, target, journal, _beside(target, ".dropped.jsonl")]
    if len({file.resolve() for file in files}) < len(files):
        raise ConfigError("two of the files are one", location=str(target), hint="give --out another name")
    if target.exists() and not journal.exists():
        raise ConfigError(
            "the output is there already, and there is no journal of how it came to be",
            location=str(target),
            hint=f"give --out another name, move the file away, or bring back {journal}",
        )


def _read(source: str, target: Path) -> Answers:
    """Read the input, write what is dropped beside the output, and say on stderr what is left out.

    Raises:
        DataError: nothing is left.
    """
    answers = read_answers(source)
    dropped = _beside(target, ".dropped.jsonl")
    if answers.drops:
        write_jsonl(dropped, map(to_json, answers.drops))
    else:
        dropped.unlink(missing_ok=True)  # of a former input
    for note in answers.notes:
        print(f"{source}: {note}", file=sys.stderr)
    if not answers.prompts:
        hint = f"{dropped} says why" if answers.drops else "give each prompt at least two answers"
        raise DataError("there is no prompt with two answers to rank", location=source, hint=hint)
    return answers


def summary(answers: Answers, target: Path, journal: Journal) -> str:
    """Return one line: who ranked how much, what was dropped, and how far the annotators agree."""
    ranked = read_rankings(answers.prompts, journal)
    who = [f"{name} {len(found)}" for name, found in sorted(ranked.items())]
    parts = [f"{target}: of {len(answers.prompts)} prompts are ranked by {', '.join(who) or 'nobody'}"]
    if answers.drops:
        parts.append(f"{len(answers.drops)} dropped ({_beside(target, '.dropped.jsonl').name})")
    if len(ranked) > 1:
        parts.append(_agreement(target))
    return "; ".join(parts)


def _agreement(target: Path) -> str:
    from reasongenrm.data.ranked import agreement, pairwise_tau

    concordance, correlation = agreement(str(target)), pairwise_tau(str(target))
    w = concordance and concordance["mean_w"]
    tau = correlation and correlation["mean_tau_b"]
    if concordance is None or w is None:
        return "no agreement can be measured yet"
    told = f"agreement (prompts: {concordance['rated']}): Kendall's W {w:.3f}"
    return told if tau is None else f"{told}, mean pairwise tau-b {tau:.3f}"
