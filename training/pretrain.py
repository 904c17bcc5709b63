"""A bundle like the shipped one from nothing: every network trained and exported, the front of all written.

Each step leaves its result in a folder of its own; stopped, it goes on where it was.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from model.bundle import Bundle, check_target, is_bundle, read_bundle
from model.manifest import Manifest, Provenance
from training import TrainingError
from training.config import RECIPES
from training.data.data_set import DataSet
from training.distributed import Group
from training.export.export import export_bundle
from training.importing.bundles import Data, import_bundle
from training.importing.held_out import held_out
from training.importing.joining import Beside
from training.importing.wrapping import Normalisation
from training.runs.checkpoint import Checkpoint, check_data
from training.specialise import specialise
from training.trainer import train

Report = Callable[[str], None]
LEAST_IMAGES = 10_000  # to learn from: fewer are too few steps in large mini-batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A network of the bundle, and how it comes to be.

    Attributes:
        name: what its subnetworks' names begin with.
        recipes: of its runs, each with the weights of the one before it.
        specialised: columns that get filters of their own, taught by the best subnetwork of the parts before.
        epochs: of each of those.
    """

    name: str
    recipes: tuple[str, ...]
    specialised: tuple[int, ...] = ()
    epochs: int = 0


PARTS = (
    Part(name="alone", recipes=("wide-entry-c1", "wide-entry-c1-last")),
    Part(name="wide", recipes=("wide-entry-c2", "wide-entry-c2-last")),
    Part(
        name="narrow",
        recipes=("cpu-narrow-c2-sandwich",),
        specialised=(1, 2),
        epochs=30,
    ),
)


def pretrain(
    data: DataSet, folder: Path, *, name: str, seed: int, device: torch.device, report: Report
) -> Manifest:
    """Train every part on ``data`` and write the front of all to ``folder/bundle``.

    Each subnetwork is looked at once more, answering to images and their mirror images.

    Raises:
        BundleError: something else than a bundle is at ``folder/bundle``.
        TrainingError: there are too few images, a run fails, or the folder holds something of other data.
    """
    target = folder / "bundle"
    _check_can_begin(target, data, name=name, seed=seed)
    bundles: dict[str, Bundle] = {}
    for number, part in enumerate(PARTS, start=1):
        report(f"{number} of {len(PARTS)}: {part.name}, by {', '.join(part.recipes)}")
        exported = folder / part.name / "bundle"
        if not is_bundle(exported):
            run = _trained(part, data, folder / part.name, seed, device, report)
            export_bundle(run, data, exported, name=part.name, precision="int8", device=device)
        bundle = _checked(exported, data, seed)
        if part.specialised:
            own = folder / f"{part.name}-specialised"
            if not is_bundle(own / "bundle"):
                specialise(
                    bundle,
                    data,
                    own,
                    columns=part.specialised,
                    epochs=part.epochs,
                    shifted=False,
                    teaching=max(
                        bundles.values(), key=lambda each: each.best.accuracy.estimate.value
                    ),
                    device=device,
                    report=report,
                )
            bundle = _checked(own / "bundle", data, seed)
        bundles[part.name] = bundle
    trained = {part: bundle.trained[1] for part, bundle in bundles.items()}
    if is_bundle(target):
        manifest = read_bundle(target).manifest
        if all(trained[each.name] == each.provenance for each in manifest.networks):
            return manifest
    validation, test = held_out(data)
    return import_bundle(
        (),
        Data(name=data.name, labels=data.classes, validation=validation, test=test),
        target,
        name=name,
        normalisation=Normalisation(),
        besides=[Beside(bundle, part) for part, bundle in bundles.items()],
        keep=(),
        leave_out=(),
        mirror=[
            f"{part}-{each.name}"
            for part, bundle in bundles.items()
            for each in bundle.manifest.subnetworks
        ],
        precision="int8",
        report=report,
    )


def _check_can_begin(target: Path, data: DataSet, *, name: str, seed: int) -> None:
    """See to it that the work will not be in vain, before it begins.

    Raises:
        BundleError: something else than a bundle is where it is to be.
        TrainingError: another bundle is there, or there are too few images.
    """
    if len(data.train) < LEAST_IMAGES:
        raise TrainingError(
            f"{data.name}: has {len(data.train)} images to learn from, too few to begin with nothing; from {LEAST_IMAGES} on "
            "that pays; `anytime train` goes on with a trained network"
        )
    check_target(target)
    if is_bundle(target):
        manifest = read_bundle(target).manifest
        is_own = {each.name for each in manifest.networks} <= {part.name for part in PARTS}
        if not manifest.networks or not is_own or manifest.name != name:
            raise TrainingError(
                f"{target}: another bundle is there, called {manifest.name}; choose another --out, or its --name"
            )
        for network in manifest.networks:
            _check_origin(target, network.provenance, data, seed)


def _check_origin(folder: Path, origin: Provenance, data: DataSet, seed: int) -> None:
    """See to it that a bundle is of this data and seed.

    Raises:
        TrainingError: it is not.
    """
    check_data(data, origin.dataset_sha256, f"{folder}: {origin.dataset}")
    if origin.seed != seed:
        raise TrainingError(
            f"{folder}: was trained with seed {origin.seed}, this is seed {seed}; go on with that, or choose another --out"
        )


def _checked(folder: Path, data: DataSet, seed: int) -> Bundle:
    """Return the bundle of a part; see ``_check_origin``."""
    bundle = read_bundle(folder)
    _check_origin(folder, bundle.trained[1], data, seed)
    return bundle


def _trained(
    part: Part, data: DataSet, folder: Path, seed: int, device: torch.device, report: Report
) -> Checkpoint:
    """Return the part's last run, all of which have ended."""
    before: Path | None = None
    for name in part.recipes:
        run = folder / name
        run.mkdir(parents=True, exist_ok=True)
        checkpoint = train(
            RECIPES[name],
            data,
            run,
            seed=seed,
            device=device,
            resume=True,
            group=Group(),
            begin_with=before,
            report=report,
        )
        before = run
    return checkpoint
