"""Subnetworks of bundles beside others: what they are called in the bundle that they join, and what is known of them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from model.bundle import Bundle, BundleError, check_name
from model.manifest import Manifest, Network, Precision, Provenance, Subnetwork
from training import TrainingError
from training.data.folders import named
from training.importing.comparing import Candidate


@dataclass(frozen=True, slots=True)
class Beside:
    """A bundle whose subnetworks are compared with others.

    Attributes:
        name: what theirs begin with in the new bundle; nothing if they keep their names.
    """

    bundle: Bundle
    name: str = ""

    @property
    def manifest(self) -> Manifest:
        """That of the bundle."""
        return self.bundle.manifest

    def candidates(self) -> list[Candidate]:
        """Return its subnetworks, named as in the new bundle."""
        return [
            Candidate(
                name=self._named(each.name),
                graph=self.bundle.graph_path(each),
                macs=each.macs,
                parameters=each.parameters,
                known=each.model_copy(
                    update={"name": self._named(each.name), "network": self._network_of(each)}
                ),
                int8=self.bundle.graph_path(each.int8) if each.int8 else None,
                temperature=each.calibration.temperature,
                views=each.views,
            )
            for each in self.manifest.subnetworks
        ]

    def networks(self) -> Iterator[Network]:
        """Give the FractalNets that its subnetworks are of, named as in the new bundle; none if that has one alone."""
        for each in self.manifest.networks:
            yield each.model_copy(update={"name": self._named(each.name)})
        architecture, provenance = self.manifest.architecture, self.manifest.provenance
        if self.name and architecture and provenance:
            yield Network(name=self.name, architecture=architecture, provenance=provenance)

    def _named(self, name: str) -> str:
        return f"{self.name}-{name}" if self.name else name

    def _network_of(self, subnetwork: Subnetwork) -> str | None:
        """Return what the FractalNet of a subnetwork is called in the new bundle."""
        if subnetwork.network:
            return self._named(subnetwork.network)
        is_trained_here = bool(self.name and subnetwork.columns)
        return self.name if is_trained_here else None


def check_alike(besides: Sequence[Beside]) -> None:
    """See to it that bundles can be one, before the work of measuring them.

    Raises:
        TrainingError: they differ in labels or in what is done to images, or cannot be told apart by name.
    """
    for each in besides:
        if each.name:
            try:
                check_name(each.name)
            except BundleError as error:
                raise TrainingError(f"--with {each.name}={each.bundle.folder}: {error}") from error
    if len(besides) > 1 and not all(each.name for each in besides):
        nameless = next(each for each in besides if not each.name)
        raise TrainingError(
            f"{nameless.bundle.folder}: of several bundles each needs a name for its subnetworks to begin with: "
            f"--with NAME={nameless.bundle.folder}"
        )
    for each in besides[1:]:
        _check_pair(besides[0], each)


def _check_pair(first: Beside, other: Beside) -> None:
    one, two = first.manifest, other.manifest
    where = f"{other.bundle.folder}: "
    if one.labels != two.labels:
        is_shuffled = sorted(one.labels) == sorted(two.labels)
        how = "in another order than" if is_shuffled else "not"
        raise TrainingError(
            f"{where}its labels ({named(two.labels)}) are {how} those of {first.bundle.folder} ({named(one.labels)}); "
            "train both on the same classes"
        )
    if one.preprocessing != two.preprocessing:
        raise TrainingError(
            f"{where}takes images {two.preprocessing.description}, {first.bundle.folder} "
            f"{one.preprocessing.description}; a bundle decodes an image once"
        )
    if (one.precision == "float16") != (two.precision == "float16"):
        raise TrainingError(
            f"{where}is in {two.precision}, {first.bundle.folder} in {one.precision}, and a bundle computes in one of them; "
            "anytime export writes a bundle in another precision"
        )


def inherited(besides: Sequence[Beside], kept: Collection[str | None]) -> dict[str, Any]:
    """Return what a manifest says of the FractalNets that its subnetworks are of.

    Args:
        kept: the names of those whose subnetworks are kept.
    """
    networks = [each for beside in besides for each in beside.networks() if each.name in kept]
    alone = next((each.manifest for each in besides if not each.name), None)
    return {
        "architecture": alone.architecture if alone else None,
        "provenance": alone.provenance if alone else None,
        "networks": tuple(networks),
    }


def joint_precision(besides: Sequence[Beside], subnetworks: Sequence[Subnetwork]) -> Precision:
    """Return what the networks of a bundle are in."""
    if any(each.int8 for each in subnetworks):
        return "int8"
    precisions = {each.manifest.precision for each in besides}
    return precisions.pop() if len(precisions) == 1 else "float32"


def origins(besides: Sequence[Beside]) -> Iterator[tuple[Beside, Provenance]]:
    """Give how the networks of bundles were trained."""
    for each in besides:
        if each.manifest.provenance:
            yield each, each.manifest.provenance
        for network in each.manifest.networks:
            yield each, network.provenance
