"""The one exception that the command line turns into a line and an exit code."""


class TrainingError(Exception):
    """Training, evaluation or export cannot go on; the message is one line that says why and what to do."""
