"""The command line of training: ``python -m training {train,evaluate,export}``."""

import argparse
import sys
from pathlib import Path

import torch

from model.bundle import PRETRAINED_DIR
from training.checkpoint import load_checkpoint
from training.config import RECIPES
from training.data import load_data
from training.errors import TrainingError

DATA_HELP = "digits (needs no download), or a folder with train/<class>/* and test/<class>/* images"

EXAMPLES = """\
From data to a served model:
  python -m training train --recipe tiny --out runs/digits
  python -m training evaluate --run runs/digits --split test
  python -m training export --run runs/digits --out runs/digits/bundle
  ANYTIME_BUNDLE_DIR=runs/digits/bundle python -m service
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; continue with --resume", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    """Describe the commands."""
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train a fractal network with drop-path, score its subnetworks, export them to a bundle.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a network by a named recipe",
        description=_recipes_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("--recipe", required=True, choices=sorted(RECIPES), help="how to train")
    train.add_argument("--data", default="digits", help=DATA_HELP + " (default: %(default)s)")
    train.add_argument("--out", required=True, type=Path, help="folder of the run's checkpoint")
    train.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    train.set_defaults(command=_train)

    evaluate = commands.add_parser("evaluate", help="score every column alone and the full network")
    _add_run_arguments(evaluate)
    evaluate.add_argument(
        "--split",
        choices=("validation", "test"),
        default="validation",
        help="the images to score on; test only for a figure to publish (default: validation)",
    )
    evaluate.set_defaults(command=_evaluate)

    export = commands.add_parser("export", help="write the bundle that the server serves")
    _add_run_arguments(export)
    export.add_argument(
        "--out",
        required=True,
        type=Path,
        help=f"folder of the bundle; the shipped ones are in {PRETRAINED_DIR.parent.name}/{PRETRAINED_DIR.name}",
    )
    export.add_argument("--name", help="the bundle's name (default: that of --out)")
    export.set_defaults(command=_export)
    return parser


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that find a trained run and its data again."""
    parser.add_argument("--run", required=True, type=Path, help="folder of a trained run")
    parser.add_argument(
        "--data",
        default="digits",
        help="what the run was trained on: " + DATA_HELP + " (default: %(default)s)",
    )


def _recipes_help() -> str:
    """List the recipes with what tells them apart."""
    lines = [
        f"  {name:<18} {r.epochs} epochs, batch {r.batch_size}, {r.schedule} schedule at {r.learning_rate}, "
        f"{r.drop_path} drop-path, augmentation {r.augmentation}; C={r.architecture.columns}, "
        f"channels {r.architecture.channels}"
        for name, r in sorted(RECIPES.items())
    ]
    return (
        "Train a network; after each epoch its columns are scored and a checkpoint is written.\n\nrecipes:\n"
        + "\n".join(lines)
    )


def _train(options: argparse.Namespace) -> None:
    """Train, or go on training."""
    from training.distributed import join_group
    from training.trainer import train

    recipe = RECIPES[options.recipe]
    data = load_data(options.data, seed=options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train(
        recipe,
        data,
        options.out,
        seed=options.seed,
        device=device,
        resume=options.resume,
        group=join_group(),
    )


def _evaluate(options: argparse.Namespace) -> None:
    """Print accuracy and loss of the columns and the full network."""
    from training.evaluate import evaluate_checkpoint

    checkpoint = load_checkpoint(options.run)
    data = load_data(options.data, seed=checkpoint.seed)
    for name, (accuracy, loss) in evaluate_checkpoint(checkpoint, data, options.split).items():
        print(f"{name:<12} {options.split} accuracy {accuracy:.2%}  loss {loss:.4f}")


def _export(options: argparse.Namespace) -> None:
    """Write a bundle and print what it holds."""
    from training.export import export_bundle

    checkpoint = load_checkpoint(options.run)
    data = load_data(options.data, seed=checkpoint.seed)
    manifest = export_bundle(checkpoint, data, options.out, name=options.name or options.out.name)
    print(f"{'subnetwork':<16} {'MMACs':>8} {'validation':>11} {'test':>8}")
    for s in manifest.subnetworks:
        accuracy = s.accuracy
        print(
            f"{s.name:<16} {s.macs / 1e6:>8.2f} {accuracy.validation.value:>11.2%} {accuracy.test.value:>8.2%}"
        )


if __name__ == "__main__":
    sys.exit(main())
