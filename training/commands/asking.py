"""What a run is asked for on the command line: its data, its recipe, and what replaces a part of that."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from model.drop_path import DropPath
from training.commands.arguments import DATA_HELP, IMAGE_SIZES, add_seed, positive, within
from training.commands.planning import Choice, choose
from training.config import RECIPES, Augmentation, Fit, Mixing
from training.runs.checkpoint import CHECKPOINT_FILE, check_holds_no_run, load_checkpoint


def add_train_arguments(command: argparse.ArgumentParser) -> None:
    """Add what a run is trained on, and how, and what replaces a part of its recipe."""
    command.add_argument(
        "--recipe",
        choices=RECIPES,
        metavar="NAME",
        help="how to train, see above (default: chosen by number and size of the images and by the device)",
    )
    command.add_argument("--data", default="digits", help=DATA_HELP + " (default: %(default)s)")
    command.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave images that cannot be read out, instead of refusing them",
    )
    command.add_argument("--out", required=True, type=Path, help="folder of the run's checkpoint")
    add_seed(command)
    command.add_argument("--epochs", type=positive(int), help="instead of the recipe's")
    command.add_argument("--batch-size", type=positive(int), help="instead of the recipe's")
    command.add_argument(
        "--image-size",
        type=within(IMAGE_SIZES),
        help="instead of the recipe's: height and width that the images of class folders are brought to",
    )
    command.add_argument(
        "--fit",
        choices=get_args(Fit),
        help="instead of the recipe's: stretch the images of class folders to the square, or scale them evenly and crop",
    )
    command.add_argument(
        "--learning-rate",
        type=positive(float),
        help="instead of the recipe's; the others change in proportion",
    )
    command.add_argument(
        "--drop-path", choices=get_args(DropPath), help="instead of the recipe's way to draw paths"
    )
    command.add_argument(
        "--augmentation",
        choices=get_args(Augmentation),
        help="instead of the recipe's: mirrored images, or mirrored and shifted ones, padded with zeros (+) or their reflection (++; slight: half as far), or parts of them in another light (crop), with RandAugment (rand)",
    )
    command.add_argument(
        "--mixing",
        choices=get_args(Mixing),
        help="instead of the recipe's: learn from images as they are, from blends of two (mixup), or from parts of two (cutmix)",
    )
    command.add_argument(
        "--begin-with",
        type=Path,
        metavar="FOLDER",
        help="of a run or a bundle whose weights to begin with; its classes may be others",
    )
    command.add_argument(
        "--tensorboard",
        action="store_true",
        help="write the figures of each epoch for TensorBoard too, into the folder tensorboard in --out (extra: tensorboard)",
    )
    command.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in --out, if there is one"
    )


def asked_for(options: argparse.Namespace, device: torch.device) -> Choice:
    """Return what a run is asked to train; what is not said is chosen, unless a checkpoint to resume has it.

    Raises:
        TrainingError: its parts do not fit together, or the checkpoint to resume cannot be read or was not asked for.
    """
    if not options.resume:
        check_holds_no_run(options.out)  # before the data are read, which may take minutes
    if options.recipe:
        choice = Choice(recipe=RECIPES[options.recipe])
    elif options.resume and (options.out / CHECKPOINT_FILE).exists():
        choice = Choice(recipe=load_checkpoint(options.out).recipe)
    else:
        told = {"image_size": options.image_size, "fit": options.fit}
        choice = choose(options.data, device, **told)
    changed = ("epochs", "batch_size", "drop_path", "fit", "augmentation", "mixing")
    own = {name: getattr(options, name) for name in changed}
    recipe = replace(choice.recipe, **{name: value for name, value in own.items() if value})
    if options.learning_rate:
        recipe = recipe.at_rate(options.learning_rate)
    if options.image_size:
        recipe = recipe.at_size(options.image_size)
    recipe.check()
    return replace(choice, recipe=recipe, begin_with=options.begin_with or choice.begin_with)
