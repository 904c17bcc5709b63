"""SIGTERM ends a command as Ctrl-C does, wherever it is."""

import signal
import sys

AGAIN_S = 0.01


def end_on_signals() -> None:
    """Let SIGTERM raise ``KeyboardInterrupt``, as SIGINT does, so that what was begun is cleared up.

    Python drops what is raised in a finaliser or in the callback of a weak reference, torch has many, and the signal
    would be lost with it: there it is raised once more, shortly after.
    """
    for each in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(each, signal.default_int_handler)
    sys.unraisablehook = _raise_again


def _raise_again(unraisable: "sys.UnraisableHookArgs") -> None:
    if unraisable.exc_type is KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(unraisable)
