"""The commands that take a bundle and its data: ``anytime specialise`` and ``anytime measure``."""

import argparse
from functools import partial
from pathlib import Path

from model.bundle import read_bundle
from training.commands.arguments import DATA_HELP, positive
from training.commands.listing import listing
from training.distributed import own_device
from training.runs.files import check_writable
from training.runs.origin import data_of_bundle
from training.specialise import specialise
from training.studies.anytime import evaluate_anytime


def add_specialise(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of a parser."""
    command = commands.add_parser(
        "specialise",
        help="give columns of a bundle filters of their own, taught by its best subnetwork",
        description="Train columns of a bundle on, each alone and taught by the best subnetwork, and write a bundle with "
        "them in their places, of the subnetworks that are on its front. Stopped, it goes on where it was.",
    )
    _add_bundle(command)
    command.add_argument(
        "--columns",
        type=positive(int),
        nargs="+",
        default=[1, 2, 3],
        help="to train on, 1 is the shallowest (default: 1 2 3)",
    )
    command.add_argument(
        "--epochs", type=positive(int), help="of each column, instead of the recipe's"
    )
    command.add_argument(
        "--shifted",
        action="store_true",
        help="show them shifted images too: for columns of a million parameters and more",
    )
    command.add_argument(
        "--teacher",
        type=Path,
        metavar="BUNDLE",
        help="another bundle, whose best subnetwork teaches them instead",
    )
    command.add_argument("--out", required=True, type=Path, help="folder of runs and of the bundle")
    command.set_defaults(command=_specialise)


def add_measure(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of a parser."""
    command = commands.add_parser(
        "measure",
        help="measure a bundle: accuracy against cost and latency, and what budgets buy",
        description="Measure every subnetwork of a bundle on this machine; write a table and a plot of accuracy against "
        "multiply-adds and latency, and the curve of a shared budget with exits by confidence.",
    )
    _add_bundle(command)
    command.add_argument("--out", required=True, type=Path, help="folder of table and plot")
    command.set_defaults(command=_measure)


def _add_bundle(command: argparse.ArgumentParser) -> None:
    command.add_argument("--bundle", required=True, type=Path, help="folder of an exported bundle")
    command.add_argument("--data", default="digits", help=DATA_HELP + " (default: %(default)s)")


def _specialise(options: argparse.Namespace) -> None:
    """Train columns on alone and print what the new bundle holds."""
    bundle = read_bundle(options.bundle)
    manifest = specialise(
        bundle,
        data_of_bundle(bundle, options.data),
        options.out,
        columns=options.columns,
        epochs=options.epochs,
        shifted=options.shifted,
        teaching=read_bundle(options.teacher) if options.teacher else bundle,
        device=own_device(),
        report=partial(print, flush=True),
    )
    print(listing(manifest))


def _measure(options: argparse.Namespace) -> None:
    """Measure a bundle and print its table."""
    bundle = read_bundle(options.bundle)
    data = data_of_bundle(bundle, options.data)
    check_writable(options.out)
    print(evaluate_anytime(bundle, data, options.out))
