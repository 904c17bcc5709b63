"""The commands of training, ``anytime train`` and those beside it; ``python -m training`` too."""

import argparse
import os
import sys

# With -m Python looks into the current folder first, whose own ``model`` would stand in for the one that was installed.
if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
    del sys.path[0]

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import torch

from model.bundle import PRETRAINED_DIR, check_name, is_bundle, read_bundle
from model.manifest import Precision
from model.preprocessing import Preprocessing
from training import TrainingError
from training.bundle_commands import add_measure, add_specialise
from training.commands.arguments import DATA_HELP, add_run_arguments, add_seed, positive
from training.commands.asking import add_train_arguments, asked_for
from training.commands.exits import end_on_signals, run_command
from training.commands.listing import listing
from training.commands.planning import foresee
from training.commands.scores import by_subnetwork
from training.config import recipes_help
from training.data.data_set import DataSet, load_data
from training.data.small_versions import CACHE_FOLDER
from training.data.splits import Split
from training.data.ten_crop import around, ten_crops
from training.distributed import Group, joined_group, own_device
from training.evaluate import confusion, predict_checkpoint
from training.export.export import export_again, export_bundle
from training.importing.command import EXAMPLE, add_import
from training.pretrain import pretrain
from training.runs.checkpoint import Checkpoint, load_trained
from training.runs.files import check_writable
from training.runs.history import Followed, by_class
from training.runs.origin import data_of_bundle
from training.studies.compare import compare
from training.studies.reproduce import EXPERIMENTS, reproduce
from training.trainer import train

EXAMPLES = {  # from data to a served model, and what else there is
    "train": "anytime train --data photos --out runs/photos",
    "evaluate": "anytime evaluate --run runs/digits --split test",
    "export": "anytime export --run runs/digits --out runs/digits/bundle",
    "import": EXAMPLE,
    "data": "anytime data check photos",
    "specialise": "anytime specialise --bundle runs/digits/bundle --out runs/own",
    "measure": "anytime measure --bundle runs/digits/bundle --out runs/digits",
    "pretrain": "anytime pretrain --data cifar10 --out runs/cifar10",
    "reproduce": "anytime reproduce table4 --data cifar10 --out runs/table4",
    "compare": "anytime compare --data cifar10 --out runs/compared",
}


def run(arguments: list[str] | None = None) -> int:
    """Run one command as ``main`` does, and end it at SIGTERM too."""
    end_on_signals()
    return main(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    return run_command(_parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    """Describe the commands."""
    parser = argparse.ArgumentParser(
        prog="anytime",
        description="Train a fractal network with drop-path, score its subnetworks, export them to a bundle.",
        epilog="examples:\n" + "\n".join(f"  {each}" for each in EXAMPLES.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    folder = commands.add_parser("data", help="look at a folder of images before training on it")
    folder.add_argument("what", choices=["check"], help="what cannot be read, what is there twice")
    folder.add_argument(
        "folder", type=Path, help="<class>/*, or train/<class>/* and test/<class>/*"
    )
    folder.set_defaults(command=_check)

    fit = commands.add_parser(
        "train",
        help="train a network",
        description=recipes_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_train_arguments(fit)
    fit.set_defaults(
        command=_train,
        to_go_on="continue with --resume",
        to_save_memory="; lower --batch-size or --image-size",
    )

    evaluate = commands.add_parser("evaluate", help="score every column alone and the full network")
    add_run_arguments(evaluate, "a trained run")
    evaluate.add_argument(
        "--split",
        choices=("validation", "test"),
        default="validation",
        help="the images to score on; test only for a figure to publish (default: validation)",
    )
    evaluate.add_argument(
        "--ten-crop",
        action="store_true",
        help="average the answers to ten parts of each image, its corners and middle and their mirror images; "
        "ten times the work",
    )
    evaluate.set_defaults(command=_evaluate)

    claims = commands.add_parser(
        "reproduce",
        help="train a table or figure of the paper and compare",
        description="Train the networks of a table or figure side by side; write a Markdown table beside the paper's, "
        "and a plot of every column over training. Stopped, it goes on where it was.",
    )
    claims.add_argument("experiment", choices=EXPERIMENTS, help="what to train and compare")
    claims.add_argument("--data", required=True, help=DATA_HELP)
    claims.add_argument(
        "--epochs", type=positive(int), help="instead of the paper's, 400 and on ImageNet 70"
    )
    claims.add_argument(
        "--short",
        action="store_true",
        help="train with Muon over one cycle, for a few epochs; the paper's SGD takes hundreds",
    )
    add_seed(claims)
    claims.add_argument("--out", required=True, type=Path, help="folder of runs and results")
    claims.set_defaults(command=_reproduce)

    whole = commands.add_parser(
        "pretrain",
        help="train a bundle like the shipped one from nothing",
        description="Train three networks, export them, have the best one teach the shallowest, and write the front of all to "
        "the folder bundle in --out. For photographs by the ten thousand, which are brought to 32×32 pixels: mirrored ones are "
        "learnt and looked at too. About three hours of one core for CIFAR-10; stopped, it goes on where it was.",
    )
    whole.add_argument("--data", required=True, help=DATA_HELP)
    add_seed(whole)
    whole.add_argument("--name", help="the bundle's name (default: that of --out)")
    whole.add_argument("--out", required=True, type=Path, help="folder of runs and of the bundle")
    whole.set_defaults(command=_pretrain)

    ways = commands.add_parser(
        "compare",
        help="train in different ways at equal cost, to choose one",
        description="Train the narrow network with Muon and with SGD, with every kind of drop-path, distilled, averaged "
        "and smoothed, for as many epochs each as cost the same; write a Markdown table of the validation errors. "
        "Stopped, it goes on where it was.",
    )
    ways.add_argument("--data", required=True, help=DATA_HELP)
    ways.add_argument(
        "--columns", type=int, choices=range(2, 7), default=4, help="of the network (default: 4)"
    )
    ways.add_argument(
        "--epochs",
        type=positive(int),
        default=20,
        help="of mixed drop-path; the others get what costs the same (default: %(default)s)",
    )
    add_seed(ways)
    ways.add_argument("--out", required=True, type=Path, help="folder of runs and table")
    ways.set_defaults(command=_compare)

    export = commands.add_parser("export", help="write the bundle that the server serves")
    add_run_arguments(export, "a trained run, or of a bundle to write in another precision")
    export.add_argument(
        "--out",
        required=True,
        type=Path,
        help=f"folder of the bundle; the shipped ones are in {PRETRAINED_DIR.parent.name}/{PRETRAINED_DIR.name}",
    )
    export.add_argument("--name", help="the bundle's name (default: that of --out)")
    export.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="float32",
        help="float16-filters stores filters in half precision, half the size, and computes in float32; float16 computes "
        "in it too, for GPUs; int8 adds graphs in 8-bit integers, which the server runs where they are faster "
        "(default: %(default)s)",
    )
    export.set_defaults(command=_export)

    add_import(commands)
    add_specialise(commands)
    add_measure(commands)
    for name, command in commands.choices.items():
        command.epilog = f"example: {EXAMPLES[name]}"
    return parser


def _data_of(
    run: Path,
    checkpoint: Checkpoint,
    source: str | None,
    preprocessing: Preprocessing | None = None,
) -> DataSet:
    """Load the data of a run, from where it was or from another place; its images as they were seen, or otherwise."""
    return load_data(
        source or checkpoint.source or checkpoint.dataset,
        cache=run / CACHE_FOLDER,
        seed=checkpoint.seed,
        preprocessing=preprocessing or checkpoint.recipe.preprocessing,
        skip_unreadable=checkpoint.skips_unreadable,
    )


@contextmanager
def _joined(load: Callable[[], DataSet]) -> Iterator[tuple[DataSet, torch.device, Group]]:
    """Join the processes of a run for the block; give the data, loaded in each, its device, and the group."""
    with joined_group() as group:
        with group.together():
            data, device = load(), own_device()
        yield data, device, group


def _check(options: argparse.Namespace) -> None:
    """Print what a folder of images holds."""
    from training.data.check import check_folder  # with SciPy and PyWavelets, which take a second

    print(check_folder(options.folder))


def _train(options: argparse.Namespace) -> None:
    """Train, or go on training."""
    choice = asked_for(options, own_device())
    recipe = choice.recipe

    def load() -> DataSet:
        data = load_data(
            options.data,
            seed=options.seed,
            preprocessing=recipe.preprocessing,
            views=recipe.views,
            skip_unreadable=options.skip_unreadable,
            cache=options.out / CACHE_FOLDER,
        )
        if options.image_size not in (None, data.image_size):
            raise TrainingError(
                f"{data.name}: its images are {data.image_size}×{data.image_size} and stay so; leave out --image-size"
            )
        return data

    with _joined(load) as (data, device, group):
        if group.rank == 0:
            for note in data.notes:
                print(f"note: {note}", file=sys.stderr)
            expected, fitting = foresee(recipe, data, device)
            print("; ".join(filter(None, (choice.why, expected))), flush=True)
            if choice.why and not options.batch_size and group.size == 1:
                recipe = replace(recipe, batch_size=fitting)
        with Followed(options.out, on_board=options.tensorboard) as followed:
            train(
                recipe,
                data,
                options.out,
                seed=options.seed,
                device=device,
                resume=options.resume,
                group=group,
                begin_with=choice.begin_with,
                report=partial(print, flush=True),
                follow=followed,
            )


def _evaluate(options: argparse.Namespace) -> None:
    """Print what each column alone and the full network cost and are worth."""
    checkpoint = load_trained(options.run)
    data = _data_of(options.run, checkpoint, options.data)
    shown, views = data, None
    if options.ten_crop:
        shown = _data_of(options.run, checkpoint, options.data, around(data.preprocessing))
        views = partial(ten_crops, size=data.image_size)
    split: Split = getattr(shown, options.split)
    answers = predict_checkpoint(checkpoint, data, split, own_device(), views=views)
    print(
        f"{options.run}: {checkpoint.recipe.name}, epoch {checkpoint.epoch}, "
        f"{len(split)} {options.split} images of {data.name}{', ten crops of each' if views else ''}"
    )
    print(by_subnetwork(answers, split.labels, checkpoint.recipe.architecture_for(data)))
    *_, name = answers
    print(f"\n{name}, by class:")
    print(by_class(confusion(answers[name], split.labels), data.classes))


def _reproduce(options: argparse.Namespace) -> None:
    """Train an experiment's networks and print its table."""
    experiment = EXPERIMENTS[options.experiment]
    load = partial(load_data, options.data, seed=options.seed, cache=options.out / CACHE_FOLDER)
    with _joined(partial(load, preprocessing=experiment.preprocessing, views=experiment.views)) as (
        data,
        device,
        group,
    ):
        cropped = None
        if experiment.has_ten_crops and group.rank == 0:
            cropped = load(preprocessing=around(data.preprocessing)).test
        reproduce(
            options.experiment,
            data,
            options.out,
            cropped=cropped,
            epochs=options.epochs or experiment.epochs,
            is_short=options.short,
            seed=options.seed,
            device=device,
            group=group,
            report=partial(print, flush=True),
        )


def _pretrain(options: argparse.Namespace) -> None:
    """Train every network of a bundle and print what it holds."""
    name = options.name or options.out.resolve().name
    check_name(name)
    check_writable(options.out)
    data = load_data(options.data, seed=options.seed, cache=options.out / CACHE_FOLDER)
    for note in data.notes:
        print(f"note: {note}", file=sys.stderr)
    manifest = pretrain(
        data,
        options.out,
        name=name,
        seed=options.seed,
        device=own_device(),
        report=partial(print, flush=True),
    )
    print(f"{options.out / 'bundle'}: bundle {name}, the front of all networks")
    print(listing(manifest))


def _compare(options: argparse.Namespace) -> None:
    """Train in every way and print their table."""
    load = partial(load_data, options.data, seed=options.seed, cache=options.out / CACHE_FOLDER)
    with _joined(load) as (data, device, group):
        compare(
            options.columns,
            data,
            options.out,
            epochs=options.epochs,
            seed=options.seed,
            device=device,
            group=group,
            report=partial(print, flush=True),
        )


def _export(options: argparse.Namespace) -> None:
    """Write a bundle and print what it holds."""
    check_writable(options.out.resolve().parent)
    name = options.name or options.out.resolve().name
    if is_bundle(options.run):
        bundle = read_bundle(options.run)
        data = data_of_bundle(bundle, options.data)
        manifest = export_again(bundle, data, options.out, name=name, precision=options.precision)
    else:
        checkpoint = load_trained(options.run)
        manifest = export_bundle(
            checkpoint,
            _data_of(options.run, checkpoint, options.data),
            options.out,
            name=name,
            precision=options.precision,
            device=own_device(),
        )
    print(f"{options.out}: bundle {name}, every file checked and measured through ONNX Runtime")
    print(listing(manifest))


if __name__ == "__main__":
    sys.exit(run())
