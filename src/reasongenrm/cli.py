"""The command line: verbs, what their errors look like, and exit codes."""

from __future__ import annotations

import argparse
import errno
import sys

from reasongenrm import collector, console
from reasongenrm.errors import EngineError, ReasonGenRMError, write_hint
from reasongenrm.verbs.agree import add_agreement
from reasongenrm.verbs.app import add_app
from reasongenrm.verbs.distil import add_distil
from reasongenrm.verbs.judge import add_judges
from reasongenrm.verbs.scalar import add_heads
from reasongenrm.verbs.stages import add_stages

USERS_ERRORS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EMFILE),
}
"""Errors of files and folders that the user can correct, wherever they occur."""


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(prog="reasongenrm", description="Generative reasoning reward models.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for add in (add_stages, add_judges, add_heads, add_distil, add_agreement, add_app):
        add(verbs)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb; return 0, 1 where a gate of `agree` fails, 2 for an error that the user can correct, or 141 where a
    pipe's reader is gone.

    Args:
        argv: the arguments; by default those of this process, whose console is then kept clean until it exits.
    """
    if argv is None:
        collector.own_process()
        console.open_streams()
    try:
        return _run(argv)
    except console.OutputError as error:
        if error.closed_pipe:
            return 141  # as a shell reports a process that died of SIGPIPE
        console.say(f"reasongenrm: {error}")
        return 2
    finally:
        collector.stop()


def parsed_options(argv: list[str] | None) -> argparse.Namespace:
    """Return the options of a command line; exits with code 2, as argparse does, where it is not valid."""
    parser = command_parser()
    # argparse does not find overrides that follow an option.
    options, rest = parser.parse_known_args(argv)
    if rest:
        words = getattr(options, "recipe", getattr(options, "overrides", None))
        if words is None or any(word.startswith("-") for word in rest):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        words += rest
    return options


def _run(argv: list[str] | None) -> int:
    options = parsed_options(argv)
    if argv is None and options.clean:
        console.redirect_libraries()
    try:
        code = options.run(options) or 0  # a verb without a gate returns nothing
        console.stdout().flush()
    except ReasonGenRMError as error:
        note = console.log_note() if isinstance(error, EngineError) else ""
        console.say(f"reasongenrm: {error}{note}")
        return 2
    except OSError as error:
        if not error.filename or error.errno not in USERS_ERRORS:
            raise
        console.say(f"reasongenrm: {error.filename}: {error.strerror} ({write_hint(error)})")
        return 2
    except KeyboardInterrupt:
        console.say("reasongenrm: interrupted; the same command resumes from here")
        return 130
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
