"""The command line ``anytime``; ``python -m service`` is its ``serve``."""

import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process with its exit code.

    Args:
        arguments: those after the program's name; the process's own if none are given.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["serve"]:
        _end_quietly_on_signals()
    try:
        from service.cli.app import app
    except ModuleNotFoundError as error:
        sys.exit(f"anytime: {error.name} is not installed: pip install 'anytime-inference[cpu]'")
    try:
        app(words, prog_name="anytime")
    except (
        OSError
    ) as error:  # stdout cannot be written to; all others are foreseen where they come from
        sys.exit(f"anytime: {error}")


def _end_quietly_on_signals() -> None:
    """See to it that a server ends without a word while it still imports, which takes a second."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: sys.exit(0))  # nothing was accepted yet
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # no bundle was read yet
