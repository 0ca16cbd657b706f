"""`reasongenrm answers rank`: one person ranks answers in a terminal; and the files of a ranking, which the page has too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from reasongenrm.answers.session import RankingSession, ranking_journal, read_rankings
from reasongenrm.answers.table import check_writable, read_answers, write_ranks
from reasongenrm.console import say, show
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Drop
from reasongenrm.store import to_json, write_jsonl


def rank(
    source: str,
    out: str,
    *,
    annotator: str | None = None,
    seed: int = 17,
    journal: str | None = None,
) -> None:
    """Let a person rank the answers of a file, and write the ranks as a recipe reads them with `kind: ranked`.

    The output is rewritten after every ranking; the same command resumes. Rows that cannot be ranked are listed in
    `<out>.dropped.jsonl`. At the end it prints a summary.

    Args:
        source, out, seed, journal: see `RankingFiles`.
        annotator: name of the person who ranks.

    Raises:
        ConfigError: the annotator is missing, or the files do not fit.
        DataError: a file cannot be read or written, or the input has nothing to rank.
    """
    from reasongenrm.answers.terminal import rank_in_terminal

    if not (annotator or "").strip():
        raise ConfigError("the annotator is missing", location="annotator", hint="give --annotator NAME")
    files = RankingFiles(source, out, seed=seed, journal=journal)
    session = files.open_session(annotator or "")
    files.write()
    rank_in_terminal(session, changed=files.write)
    show(files.summary())


class RankingFiles:
    """Input, output and journal of a ranking.

    Args:
        source: see `table.read_answers`.
        out: `.jsonl`, or else CSV.
        seed: of the order of prompts and answers.
        journal: `<out>.journal.jsonl` if not given.

    Raises:
        ConfigError: the files do not fit.
        DataError: a file cannot be read or written, or the input has nothing to rank.
    """

    def __init__(self, source: str, out: str, *, seed: int = 17, journal: str | None = None) -> None:
        self.target, self._seed = Path(os.path.expanduser(out)), seed
        path = Path(os.path.expanduser(journal)) if journal else beside(self.target, ".journal.jsonl")
        self.journal = ranking_journal(path)
        check_files(
            [Path(os.path.expanduser(source)), self.target, beside(self.target, ".dropped.jsonl")], path
        )
        self.answers = read_answers(source)
        write_drops(self.answers.drops, self.target)
        for note in self.answers.notes:
            say(f"{source}: {note}")
        if not self.answers.prompts:
            hint = "give each prompt at least two answers"
            if self.answers.drops:
                hint = f"the reasons are in {beside(self.target, '.dropped.jsonl')}"
            raise DataError("no prompt has two answers to rank", location=source, hint=hint)
        check_writable(self.answers, self.target)
        read_rankings(self.answers.prompts, self.journal)  # a journal of other answers is an error here

    def open_session(self, annotator: str) -> RankingSession:
        """Return the session of an annotator.

        Raises:
            ConfigError: the name cannot be used.
            DataError: the journal cannot be read.
        """
        return RankingSession(self.answers.prompts, self.journal.path, annotator, self._seed)

    def write(self) -> None:
        """Write the output from the journal.

        Raises:
            ConfigError, DataError: the journal cannot be used, or the output cannot be written.
        """
        # Under the journal's lock: of two processes, the last to write has read the entries of both.
        with self.journal.locked():
            write_ranks(self.target, self.answers, read_rankings(self.answers.prompts, self.journal))

    def summary(self) -> str:
        """Return one line: rankings per annotator, dropped rows, and the agreement of the annotators."""
        ranked = read_rankings(self.answers.prompts, self.journal)
        counts = [f"{name} {len(orders)}" for name, orders in sorted(ranked.items())]
        parts = [
            f"{self.target}: {len(self.answers.prompts)} prompts; ranked by {', '.join(counts) or 'nobody'}"
        ]
        if drops := self.answers.drops:
            parts.append(f"{len(drops)} dropped ({beside(self.target, '.dropped.jsonl').name})")
        if len(ranked) > 1:
            parts.append(self.agreement())
        return "; ".join(parts)

    def agreement(self) -> str:
        """Return the agreement of the annotators, from the output, in words."""
        from reasongenrm.data.ranked import agreement, mean_tau_b

        concordance, tau = agreement(str(self.target)), mean_tau_b(str(self.target))
        if concordance is None or concordance["mean_w"] is None:
            return "not enough rankings to measure agreement"
        line = f"agreement (prompts: {concordance['rated']}): Kendall's W {concordance['mean_w']:.3f}"
        return line if tau is None else f"{line}, mean pairwise tau-b {tau:.3f}"


def beside(target: Path, ending: str) -> Path:
    """Return the path of a file beside an output."""
    return target.with_name(target.name + ending)


def check_files(files: Sequence[Path], journal: Path) -> None:
    """Check that the files differ, and that the output is from this journal.

    Args:
        files: the input, the output, and other files that are written.
        journal: the journal.

    Raises:
        ConfigError: a file would be overwritten.
    """
    target = files[1]
    if len({file.resolve() for file in (*files, journal)}) <= len(files):
        raise ConfigError(
            "two of the files are the same", location=str(target), hint="give the output another name"
        )
    if target.exists() and not journal.exists():
        raise ConfigError(
            "the output exists, but its journal does not",
            location=str(target),
            hint=f"give the output another name, move the file away, or restore {journal}",
        )


def write_drops(drops: Sequence[Drop], target: Path) -> None:
    """Write the rows that cannot be used, with their reasons, to `<target>.dropped.jsonl`; without any, remove it.

    Raises:
        DataError: the file cannot be written.
    """
    path = beside(target, ".dropped.jsonl")
    if drops:
        write_jsonl(path, map(to_json, drops))
    else:
        path.unlink(missing_ok=True)  # of an earlier input
