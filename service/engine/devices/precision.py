"""Which precision each subnetwork is served in: the faster on this machine of those that are as accurate."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from model.manifest import Accuracy, Subnetwork

AS_ACCURATE = 0.005  # of the validation images: what int8 may lose to float; 5,000 tell no smaller loss from chance

Profile = dict[str, dict[int, float]]
"""Run latencies in seconds, by what is run and by batch size."""


@dataclass(frozen=True, slots=True)
class Served:
    """A subnetwork in the precision that it is served in."""

    subnetwork: Subnetwork
    precision: Literal["float", "int8"]

    @property
    def run_name(self) -> str:
        """What the device runs for it."""
        name = self.subnetwork.name
        return int8_name(name) if self.precision == "int8" else name

    @property
    def accuracy(self) -> Accuracy:
        """Its accuracy in that precision."""
        int8 = self.subnetwork.int8
        return int8.accuracy if int8 and self.precision == "int8" else self.subnetwork.accuracy


def int8_name(subnetwork: str) -> str:
    """Return what the run of a subnetwork in int8 is called; no subnetwork can be called so."""
    return f"{subnetwork}/int8"


def choose_precisions(subnetworks: Iterable[Subnetwork], profile: Profile) -> tuple[Served, ...]:
    """Choose for each subnetwork by the run latencies, which a GPU has in float only."""
    return tuple(
        Served(each, "int8" if _is_better_in_int8(each, profile) else "float")
        for each in subnetworks
    )


def _is_better_in_int8(subnetwork: Subnetwork, profile: Profile) -> bool:
    """Say whether int8 is there, as accurate, and faster: for an image, in the mean over the batch sizes."""
    own_name = int8_name(subnetwork.name)
    if subnetwork.int8 is None or own_name not in profile:
        return False
    loss = subnetwork.accuracy.validation.value - subnetwork.int8.accuracy.validation.value
    in_float, in_int8 = (
        sum(latency_s / size for size, latency_s in profile[name].items())
        for name in (subnetwork.name, own_name)
    )
    return loss <= AS_ACCURATE and in_int8 < in_float
