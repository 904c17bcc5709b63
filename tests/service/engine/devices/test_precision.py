"""A subnetwork is served in int8 where that is faster on this machine, and as accurate."""

import pytest

from model.manifest import Accuracy, Calibration, FileRecord, Measured, Quantised, Subnetwork
from service.engine.devices.precision import Profile, choose_precisions

IN_FLOAT: Profile = {"full": {1: 4.0, 8: 20.0}}
FASTER: Profile = {"full/int8": {1: 1.5, 8: 8.0}}
SLOWER: Profile = {"full/int8": {1: 5.0, 8: 25.0}}


def full_network(*, float_accuracy: float = 0.88, int8_accuracy: float | None = 0.88) -> Subnetwork:
    def accuracy(value: float) -> Accuracy:
        measured = Measured(value=value, n=5000)
        return Accuracy(validation=measured, test=measured)

    calibration = Calibration(temperature=1.0, ece_before=0.01, ece_after=0.01, n=5000)
    graph = FileRecord(name="full.onnx", sha256="0" * 64, size_bytes=1)
    int8 = int8_accuracy and Quantised(
        accuracy=accuracy(int8_accuracy),
        calibration=calibration,
        agreement=Measured(value=0.99, n=5000),
        graph=graph,
    )
    return Subnetwork(
        name="full",
        columns=(1, 2),
        depth=4,
        parameters=1,
        macs=1,
        accuracy=accuracy(float_accuracy),
        calibration=calibration,
        graph=graph,
        int8=int8 or None,
    )


def test_int8_is_served_where_it_is_faster_with_its_own_accuracy() -> None:
    (served,) = choose_precisions([full_network(int8_accuracy=0.879)], IN_FLOAT | FASTER)

    assert (served.precision, served.run_name) == ("int8", "full/int8")
    assert served.accuracy.validation.value == 0.879


@pytest.mark.parametrize(
    ("subnetwork", "profile"),
    [
        pytest.param(full_network(), IN_FLOAT | SLOWER, id="int8 is slower here"),
        pytest.param(full_network(int8_accuracy=0.87), IN_FLOAT | FASTER, id="int8 is worse"),
        pytest.param(full_network(), IN_FLOAT, id="int8 was not measured, as on a GPU"),
        pytest.param(full_network(int8_accuracy=None), IN_FLOAT, id="the bundle has no int8"),
    ],
)
def test_everything_else_is_served_in_float(subnetwork: Subnetwork, profile: Profile) -> None:
    (served,) = choose_precisions([subnetwork], profile)

    assert (served.precision, served.run_name) == ("float", "full")
    assert served.accuracy.validation.value == 0.88


def test_what_is_faster_is_decided_over_all_batch_sizes() -> None:
    mixed: Profile = {
        "full/int8": {1: 3.9, 8: 24.0}
    }  # an image: 3.9 and 3.0 ms, in float 4.0 and 2.5

    (served,) = choose_precisions([full_network()], IN_FLOAT | mixed)

    assert served.precision == "float"
