"""From a data set to a bundle: train a fractal network with drop-path, evaluate its subnetworks, export them."""


class TrainingError(Exception):
    """Training, evaluation or export cannot go on; the message is one line that says why and what to do."""


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its name where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def epochs_in_words(epochs: int) -> str:
    """Return so many epochs for people: one is no plural."""
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"
