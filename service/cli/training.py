"""``anytime train`` and the other commands of ``python -m training``, whose arguments are passed on as they are."""

from importlib import import_module

import typer

from service.cli.exits import importing

COMMANDS = {
    "data": "Look at a folder of images before training on it.",
    "train": "Train a network.",
    "evaluate": "Score every column alone and the full network.",
    "export": "Write the bundle that the server serves.",
    "import": "Make a bundle of ONNX classifiers of one's own.",
    "specialise": "Give columns of a bundle filters of their own, taught by its best subnetwork.",
    "measure": "Measure a bundle: accuracy against cost and latency, and what budgets buy.",
    "pretrain": "Train a bundle like the shipped one from nothing.",
    "reproduce": "Train a table or figure of the paper and compare.",
    "compare": "Train in different ways at equal cost, to choose one.",
}
UNTOUCHED = {"allow_extra_args": True, "ignore_unknown_options": True}


def add_training(app: typer.Typer) -> None:
    """Add the commands to an application."""
    for name, summary in COMMANDS.items():
        app.command(name, help=summary, context_settings=UNTOUCHED, add_help_option=False)(_run)


def _run(context: typer.Context) -> None:
    """Run a command of training."""
    # By its name: the two packages stand side by side, and the server runs without torch. To import takes none either.
    module, extras = (
        ("importing.command", "import") if context.info_name == "import" else ("__main__", "train")
    )
    with importing(f"cpu,{extras}"):
        training = import_module(f"training.{module}")
    raise typer.Exit(training.run([context.info_name, *context.args]))
