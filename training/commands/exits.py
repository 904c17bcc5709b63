"""How a command ends: its exit code, one line on stderr where it cannot go on, and SIGTERM as Ctrl-C."""

import argparse
import os
import signal
import sys

from model.bundle import BundleError
from training import TrainingError, first_line

AGAIN_S = 0.01


def run_command(options: argparse.Namespace) -> int:
    """Run the command that was parsed; return its exit code.

    ``options`` may say as ``to_go_on`` what goes on after Ctrl-C, and as ``to_save_memory`` what needs less of it.
    """
    try:
        options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads the output has seen enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (TrainingError, BundleError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ExceptionGroup as errors:  # several of those
        ours, others = errors.split((TrainingError, BundleError))
        if others or ours is None:
            raise
        for each in ours.exceptions:
            print(f"error: {each}", file=sys.stderr)
        return 1
    except OSError as error:  # a disk that fills up does not say which file it was
        where = error.filename or getattr(options, "out", "the data")
        print(f"error: {where}: {error.strerror or error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        how = getattr(options, "to_save_memory", "")
        print(f"error: out of memory{how} ({first_line(error)})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        how = getattr(options, "to_go_on", "run it again to go on")
        print(f"stopped; {how}", file=sys.stderr)
        return 130
    return 0


def _is_out_of_memory(error: Exception) -> bool:
    """Say whether memory ran out, on a GPU or not; of the latter torch has no error of its own."""
    is_own = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return is_own or "can't allocate memory" in str(error)


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
