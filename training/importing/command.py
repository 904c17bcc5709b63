"""``anytime import``: a bundle of networks that were made elsewhere."""

import argparse
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import get_args

import numpy as np

from model.bundle import check_name, check_target, read_bundle
from model.preprocessing import Interpolation, Preprocessing
from training import TrainingError
from training.commands.arguments import DATA_HELP, IMAGE_SIZES, within
from training.commands.exits import end_on_signals, run_command
from training.commands.listing import listing
from training.importing.bundles import Data, ImportPrecision, import_bundle
from training.importing.files import Layout, Network, read_network
from training.importing.images import LabelledImages, class_numbers, find_folder, read_labels
from training.importing.joining import Beside, check_alike
from training.importing.wrapping import Normalisation
from training.runs.files import check_writable

EXAMPLE = (
    "anytime import small.onnx medium.onnx large.onnx --labels labels.txt --images photos/val "
    "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --crop 256 --out bundles/mine"
)
DESCRIPTION = """\
Write a bundle of classifiers that were made elsewhere, for the server to choose among by the time that is left.

A file is ONNX, or a program that torch.export.save wrote (.pt2). It takes the images, N×channels×H×W or N×H×W×channels, and
gives a number for each class: logits or probabilities, which is found out. Normalisation goes into the graph, a batch that is
fixed is opened, and every network is measured on the images, in ONNX Runtime on this machine's CPU. One that is beaten is left
out: by another that is no slower, takes no more multiply-adds, and is less accurate by no more than chance explains, image by image. A
temperature each makes their confidences mean the same.

With --with the subnetworks of bundles are compared with the files, or with each other, and those on the front of all are kept as they are:
columns, temperatures, graphs in 8-bit integers.

Pixels and normalisation have to be those of the networks' training; a network that then does no better than guessing is told.
"""
OF_BYTES = "; divide what is of pixels from 0 to 255 by 255"


def run(arguments: list[str]) -> int:
    """Run the command as ``main`` does, and end it at SIGTERM too."""
    end_on_signals()
    return main(arguments)


def main(arguments: list[str]) -> int:
    """Run the command, whose name is the first argument; return its exit code."""
    parser = argparse.ArgumentParser(prog="anytime")
    add_import(parser.add_subparsers(required=True))
    return run_command(parser.parse_args(arguments))


def add_import(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of a parser."""
    command = commands.add_parser(
        "import",
        help="make a bundle of ONNX classifiers of one's own",
        description=DESCRIPTION,
        epilog=f"example: {EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("files", nargs="*", type=Path, metavar="FILE", help=".onnx or .pt2")
    compared_on = command.add_mutually_exclusive_group(required=True)
    compared_on.add_argument(
        "--images",
        type=Path,
        help="folder of images to compare them on, <class>/*; or with val/<class>/*, and test/<class>/* to publish figures of",
    )
    compared_on.add_argument(
        "--data",
        help="what the bundles of --with were trained on: they are compared on its validation images, and the figures of its test images "
        "are published; " + DATA_HELP,
    )
    command.add_argument(
        "--labels",
        type=Path,
        help="the names of the classes, a line each, in the order of the networks' outputs (default: the class folders' names "
        "in order, as torchvision and Keras take them)",
    )
    command.add_argument("--out", required=True, type=Path, help="folder of the bundle")
    command.add_argument("--name", help="the bundle's name (default: that of --out)")
    command.add_argument(
        "--with",
        dest="besides",
        action="append",
        default=[],
        metavar="[NAME=]BUNDLE",
        help="a bundle whose subnetworks are compared and kept, too, as NAME-column-1 and so on; several times for several bundles. "
        "Labels, size and crop are theirs",
    )
    command.add_argument(
        "--keep",
        metavar="NAME[,NAME]",
        default="",
        help="subnetworks to keep whatever beats them; 'all' for all",
    )
    command.add_argument(
        "--leave-out",
        metavar="NAME[,NAME]",
        default="",
        help="subnetworks to leave out whatever they beat, for a smaller bundle",
    )
    command.add_argument(
        "--mirror",
        metavar="NAME[,NAME]",
        default="",
        help="subnetworks to compare once more, as NAME-mirrored, which answer with the mean of what they say of an image and of its "
        "mirror image: more accurate for twice the work. Not where a mirrored image is of another class, as text is",
    )
    command.add_argument(
        "--size",
        type=within(IMAGE_SIZES),
        help="height and width in pixels, where the files do not say them",
    )
    command.add_argument(
        "--crop",
        type=within(IMAGE_SIZES),
        metavar="SIDE",
        help="scale an image's shorter side to this, and take the middle; 256 for what torchvision does to 224. Without it, "
        "images are stretched to the square",
    )
    command.add_argument(
        "--interpolation",
        choices=get_args(Interpolation),
        help="between pixels, as in training (default: bilinear)",
    )
    command.add_argument(
        "--mean",
        type=_numbers,
        metavar="X[,X,X]",
        default=(0.0,),
        help="what is subtracted from pixels from 0 to 1, for red, green and blue, or one number for all (default: 0)",
    )
    command.add_argument(
        "--std",
        type=_numbers,
        metavar="X[,X,X]",
        default=(1.0,),
        help="what they are then divided by (default: 1, so that they stay from 0 to 1; from -1 to 1: 0.5 of both; "
        "from 0 to 255: --std 0.00392157)",
    )
    command.add_argument(
        "--layout",
        choices=get_args(Layout),
        help="where the channels are, if a file does not say it",
    )
    command.add_argument(
        "--precision",
        choices=get_args(ImportPrecision),
        default="float32",
        help="int8 adds graphs in 8-bit integers, which the server runs where they are faster and as accurate "
        "(default: as the files are)",
    )
    command.set_defaults(command=_import)


def _import(options: argparse.Namespace) -> None:
    """Write the bundle, and print what it holds."""
    name = options.name or options.out.resolve().name
    check_name(name)
    check_target(options.out)
    check_writable(options.out.resolve().parent)
    besides = [_beside(text) for text in options.besides]
    if not besides and not options.files:
        raise TrainingError(
            "no networks; name .onnx or .pt2 files, or bundles by --with NAME=BUNDLE"
        )
    check_alike(besides)
    networks = _read(options.files, options.layout)
    normalisation = _normalisation(options)
    data = _data(options, networks, besides)
    manifest = import_bundle(
        networks,
        data,
        options.out,
        name=name,
        normalisation=normalisation,
        besides=besides,
        keep=None if options.keep == "all" else _names(options.keep),
        leave_out=_names(options.leave_out),
        mirror=_names(options.mirror),
        precision=options.precision,
        report=partial(print, flush=True),
    )
    print(
        f"{options.out}: bundle {name}, every file measured on {len(data.validation.labels)} images "
        f"({data.validation.preprocessing.description})"
    )
    print(listing(manifest))


def _names(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(filter(None, text.split(",")))


def _beside(text: str) -> Beside:
    """Read a bundle that was given as its folder, or as NAME=FOLDER."""
    name, is_named, folder = text.rpartition("=")
    if is_named and not name:
        raise TrainingError(f"--with {text}: has no name before the '='; say NAME=BUNDLE")
    return Beside(read_bundle(Path(folder)), name)


def _read(files: list[Path], layout: Layout | None) -> list[Network]:
    """Read every file, and tell of all that cannot be served at once."""
    networks: dict[str, Network] = {}
    faults: list[Exception] = []
    for path in files:
        try:
            network = read_network(path, layout)
        except OSError as error:
            faults.append(TrainingError(f"{path}: {error.strerror or error}"))
            continue
        except TrainingError as error:
            faults.append(error)
            continue
        if network.name in networks:
            faults.append(
                TrainingError(f"{path}: another file is called {network.name} too; rename one")
            )
        networks[network.name] = network
    if faults:
        raise ExceptionGroup("files that cannot be served", faults)
    return list(networks.values())


def _numbers(text: str) -> tuple[float, ...]:
    """Parse one number, or three between commas."""
    try:
        numbers = tuple(map(float, text.split(",")))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3):
        raise argparse.ArgumentTypeError(f"{text} is neither one number nor three")
    return numbers


def _normalisation(options: argparse.Namespace) -> Normalisation:
    """Return what pixels are shifted and scaled by."""
    for number in options.mean:
        if not 0 <= number <= 1:
            raise TrainingError(
                f"--mean is {number:g}; of pixels from 0 to 1 it is from 0 to 1{OF_BYTES}"
            )
    for number in options.std:
        if not 0 < number <= 1:
            raise TrainingError(
                f"--std is {number:g}; of pixels from 0 to 1 it is over 0 and at most 1{OF_BYTES}"
            )
    return Normalisation(options.mean, options.std)


def _data(options: argparse.Namespace, networks: list[Network], besides: list[Beside]) -> Data:
    """Find the images, and see to it that labels, size and channels fit the networks."""
    own = (options.labels, options.size, options.crop, options.interpolation)
    if besides and any(each is not None for each in own):
        raise TrainingError(
            f"{besides[0].bundle.folder}: brings its labels and what is done to images; leave out --labels, --size, --crop and "
            "--interpolation"
        )
    data = _held_out(options.data, besides) if options.data else _found(options, networks, besides)
    size = data.validation.preprocessing.size
    for network in networks:
        if network.side not in (None, size):
            raise TrainingError(
                f"{network.source.file}: takes {network.side}×{network.side}; a bundle decodes an image once, here to "
                f"{size}×{size}"
            )
    return data


def _held_out(source: str, besides: list[Beside]) -> Data:
    """Return what the networks of bundles were held to in their training."""
    try:
        held_out = import_module("training.importing.held_out")
    except ModuleNotFoundError as error:
        raise TrainingError(
            f"{error.name} is not installed, which --data needs: pip install 'anytime-inference[cpu,train]'; or give --images"
        ) from error
    data, validation, test = held_out.load_held_out(source, besides)
    return Data(name=data.name, labels=data.classes, validation=validation, test=test)


def _found(options: argparse.Namespace, networks: list[Network], besides: list[Beside]) -> Data:
    """Return the images of a folder, with the classes of the networks."""
    folder = find_folder(options.images)
    for note in folder.notes:
        print(f"note: {note}")
    labels = read_labels(options.labels) if options.labels else folder.classes
    if besides:
        labels = besides[0].manifest.labels
    numbers, how = class_numbers(folder.classes, labels, options.images)
    print(f"{options.images}: {how}")
    preprocessing = (
        besides[0].manifest.preprocessing if besides else _preprocessing(options, networks)
    )
    parts = [
        None
        if images is None
        else LabelledImages(
            tuple(path for path, _ in images),
            np.array([numbers[folder_number] for _, folder_number in images]),
            preprocessing,
        )
        for images in (folder.validation, folder.test)
    ]
    validation, test = parts
    assert validation is not None
    return Data(name=options.images.resolve().name, labels=labels, validation=validation, test=test)


def _preprocessing(options: argparse.Namespace, networks: list[Network]) -> Preprocessing:
    """Return what is done to images, at the size that the networks take."""
    sides = [network.side for network in networks if network.side]
    if not sides and not options.size:
        raise TrainingError(
            f"{networks[0].source.file}: takes images of any size; say with --size what it was trained on"
        )
    size = options.size or sides[0]
    if options.crop and options.crop < size:
        raise TrainingError(
            f"--crop is {options.crop}; at least the size, {size}, is to be left of it"
        )
    return Preprocessing(
        size=size,
        shorter_side=options.crop,
        interpolation=options.interpolation or "bilinear",
    )
