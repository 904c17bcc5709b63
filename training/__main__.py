"""The command line of training: ``python -m training {train,evaluate,export}``."""

import argparse
import sys
from pathlib import Path

import torch

from training.config import RECIPES
from training.data import load_data
from training.errors import TrainingError
from training.trainer import train


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    """Describe the commands."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("train", help="train a network by a named recipe")
    command.add_argument("--recipe", required=True, choices=sorted(RECIPES))
    command.add_argument("--data", default="digits")
    command.add_argument("--out", required=True, type=Path)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--resume", action="store_true")
    command.set_defaults(run=_train)
    return parser


def _train(options: argparse.Namespace) -> None:
    """Train."""
    recipe = RECIPES[options.recipe]
    data = load_data(options.data, seed=options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train(recipe, data, options.out, seed=options.seed, device=device, resume=options.resume)


if __name__ == "__main__":
    sys.exit(main())
