"""`reasongenrm answers rank`: people rank answers, in a terminal or on a local web page."""

from __future__ import annotations

import os
from pathlib import Path

from reasongenrm.answers.session import Journal, RankingSession, read_rankings
from reasongenrm.answers.table import AnswersTable, check_writable, read_answers, write_ranks
from reasongenrm.console import say, show
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
    """Let people rank the answers of a file, and write the ranks as a recipe reads them with `kind: ranked`.

    The output is rewritten after every ranking; the same command resumes. Rows that cannot be ranked are listed in
    `<out>.dropped.jsonl`. At the end it prints a summary.

    Args:
        source: see `table.read_answers`.
        out: `.jsonl`, or else CSV.
        annotator: name of the person who ranks; on the web page the first value of the form.
        seed: of the order of prompts and answers.
        web: serve a page instead of asking in the terminal.
        host, port, api_key_env: see `web.serve`.
        journal: `<out>.journal.jsonl` if not given.

    Raises:
        ConfigError: the annotator is missing, the files do not fit, or the page would be open to others.
        DataError: a file cannot be read or written, or the input has nothing to rank.
        EngineError: the page cannot be served.
    """
    target = Path(os.path.expanduser(out))
    log = Journal(Path(os.path.expanduser(journal)) if journal else _beside(target, ".journal.jsonl"))
    if not web and not (annotator or "").strip():
        raise ConfigError("the annotator is missing", location="annotator", hint="give --annotator NAME")
    _check_files(Path(os.path.expanduser(source)), target, log.path)
    answers = _read(source, target)
    check_writable(answers, target)

    def write() -> None:
        # Under the journal's lock: of two processes, the last to write has read the entries of both.
        with log.locked():
            write_ranks(target, answers, read_rankings(answers.prompts, log))

    def open_session(name: str) -> RankingSession:
        return RankingSession(answers.prompts, log.path, name, seed)

    if web:
        from reasongenrm.answers.web import serve

        read_rankings(answers.prompts, log)  # a journal of other answers is an error here, not on the page
        write()
        serve(open_session, host, port, changed=write, annotator=annotator or "", api_key_env=api_key_env)
    else:
        from reasongenrm.answers.terminal import rank_in_terminal

        session = open_session(annotator or "")
        write()
        rank_in_terminal(session, changed=write)
    show(summary(answers, target, log))


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


def _check_files(source: Path, target: Path, journal: Path) -> None:
    """Check that the files differ, and that the output is from this journal.

    Raises:
        ConfigError: a file would be overwritten.
    """
    files = [source, target, journal, _beside(target, ".dropped.jsonl")]
    if len({file.resolve() for file in files}) < len(files):
        raise ConfigError(
            "two of the files are the same", location=str(target), hint="give --out another name"
        )
    if target.exists() and not journal.exists():
        raise ConfigError(
            "the output exists, but its journal does not",
            location=str(target),
            hint=f"give --out another name, move the file away, or restore {journal}",
        )


def _read(source: str, target: Path) -> AnswersTable:
    """Read the input, write its dropped rows beside the output, and print notes on stderr.

    Raises:
        DataError: no prompt has two answers.
    """
    answers = read_answers(source)
    dropped = _beside(target, ".dropped.jsonl")
    if answers.drops:
        write_jsonl(dropped, map(to_json, answers.drops))
    else:
        dropped.unlink(missing_ok=True)  # of an earlier input
    for note in answers.notes:
        say(f"{source}: {note}")
    if not answers.prompts:
        hint = f"the reasons are in {dropped}" if answers.drops else "give each prompt at least two answers"
        raise DataError("no prompt has two answers to rank", location=source, hint=hint)
    return answers


def summary(answers: AnswersTable, target: Path, journal: Journal) -> str:
    """Return one line: rankings per annotator, dropped rows, and the agreement of the annotators."""
    ranked = read_rankings(answers.prompts, journal)
    counts = [f"{name} {len(orders)}" for name, orders in sorted(ranked.items())]
    parts = [f"{target}: {len(answers.prompts)} prompts; ranked by {', '.join(counts) or 'nobody'}"]
    if answers.drops:
        parts.append(f"{len(answers.drops)} dropped ({_beside(target, '.dropped.jsonl').name})")
    if len(ranked) > 1:
        parts.append(_agreement(target))
    return "; ".join(parts)


def _agreement(target: Path) -> str:
    from reasongenrm.data.ranked import agreement, mean_tau_b

    concordance, tau = agreement(str(target)), mean_tau_b(str(target))
    if concordance is None or concordance["mean_w"] is None:
        return "not enough rankings to measure agreement"
    line = f"agreement (prompts: {concordance['rated']}): Kendall's W {concordance['mean_w']:.3f}"
    return line if tau is None else f"{line}, mean pairwise tau-b {tau:.3f}"
