"""Buffers, padding and warnings of the runs on a GPU, on the CPU's memory; graphs themselves need a GPU."""

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from model.bundle import Bundle
from model.sessions import open_session
from service.engine.devices import cuda as captured
from service.engine.devices.cuda import CapturedRuns, WaitingCopies
from tests.service.conftest import random_batch

SIZES = [1, 2, 4]


@pytest.fixture(scope="module")
def session(bundle: Bundle) -> ort.InferenceSession:
    return open_session(bundle.graph_path(bundle.manifest.subnetworks[0]), threads=1)


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def runs(session: ort.InferenceSession, warnings: list[str]) -> CapturedRuns:
    return CapturedRuns(
        session, SIZES, device_type="cpu", copies=WaitingCopies(), warn=warnings.append
    )


def padded_answer(
    session: ort.InferenceSession, batch: list[NDArray[np.uint8]], size: int
) -> NDArray[np.float32]:
    full = np.zeros((size, *batch[0].shape), np.uint8)
    full[: len(batch)] = batch
    answers: NDArray[np.float32] = session.run(["probabilities"], {"images": full})[0]
    return answers[: len(batch)]


@pytest.mark.parametrize(("n", "size"), [(1, 1), (2, 2), (3, 4), (4, 4)])
def test_a_batch_is_padded_to_the_next_size_and_answered_alone(
    runs: CapturedRuns, session: ort.InferenceSession, bundle: Bundle, n: int, size: int
) -> None:
    batch = random_batch(n, bundle)

    assert_array_equal(runs(batch), padded_answer(session, batch, size))


def test_what_was_in_the_buffers_before_changes_no_answer(
    runs: CapturedRuns, bundle: Bundle
) -> None:
    batch = random_batch(3, bundle)
    first = runs(batch)
    runs(random_batch(4, bundle))

    assert_array_equal(runs(batch), first)


def test_an_answer_stays_what_it_was_when_the_next_batch_runs(
    runs: CapturedRuns, bundle: Bundle
) -> None:
    answers = runs(random_batch(4, bundle))
    before = answers.copy()
    runs(random_batch(3, bundle))

    assert_array_equal(answers, before)


class RefusesGraphs:
    """A session where something in the network cannot be captured."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.graphs: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        graph = options.get_run_config_entry(captured.GRAPH_ID)
        self.graphs.append(graph)
        if graph != str(captured.NO_GRAPH):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self._session.run_with_iobinding(binding, options)


def test_where_nothing_can_be_captured_all_batches_are_padded_to_the_largest_size(
    session: ort.InferenceSession, warnings: list[str], bundle: Bundle
) -> None:
    refuses = RefusesGraphs(session)
    runs = CapturedRuns(
        refuses, SIZES, device_type="cpu", copies=WaitingCopies(), warn=warnings.append
    )

    for n in (2, 1, 4):
        batch = random_batch(n, bundle)
        assert_array_equal(runs(batch), padded_answer(session, batch, 4))
    why = "operation not permitted when stream is capturing"
    assert warnings == [f"no CUDA graph of batch size {size}: {why}" for size in (2, 4, 1)]


def test_runs_of_single_kernels_come_before_the_one_that_is_captured(
    session: ort.InferenceSession, bundle: Bundle
) -> None:
    refuses = RefusesGraphs(session)
    runs = CapturedRuns(refuses, SIZES, device_type="cpu", copies=WaitingCopies(), warn=print)
    runs(random_batch(2, bundle))

    tried = refuses.graphs.index("2")
    assert refuses.graphs[:tried] == [str(captured.NO_GRAPH)] * captured.PLAIN_RUNS
