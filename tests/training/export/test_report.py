"""The report of a bundle is one file, and shows what its subnetworks are worth and what they mistake."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Annotation

from model.bundle import REPORT_FILE, read_bundle
from model.manifest import Manifest
from tests.training.conftest import TrainedRun
from training.data.data_set import DataSet
from training.export.report import Seen, draw_front, worth_their_time, write_report


@pytest.fixture
def manifest(bundle_folder: Path) -> Manifest:
    return read_bundle(bundle_folder).manifest


def answering(labels: np.ndarray, n_right: int, latency_ms: float) -> Seen:
    """Right on the first images, and sure of it."""
    right = np.arange(len(labels)) < n_right
    return Seen(np.where(right, labels, (labels + 1) % 10), np.where(right, 0.9, 0.6), latency_ms)


def test_an_export_leaves_a_report_that_fetches_nothing(
    bundle_folder: Path, manifest: Manifest
) -> None:
    report = (bundle_folder / REPORT_FILE).read_text()

    for each in manifest.subnetworks:
        assert f"<td>{each.name}</td>" in report
        assert f"{100 * each.accuracy.estimate.value:.1f} %" in report
    assert not re.search(r"<(script|link|iframe)|(src|href)=\"(?!data:|#)|url\((?!#)", report)


def test_the_report_shows_what_more_time_gets_right(
    trained: TrainedRun, manifest: Manifest, tmp_path: Path
) -> None:
    labels = trained.data.test.labels.numpy()
    both = manifest.subnetworks[0], manifest.subnetworks[-1]
    assert both[0].accuracy.estimate.value < both[1].accuracy.estimate.value
    first, last = (each.name for each in both)
    seen = {first: answering(labels, 100, 1.0), last: answering(labels, len(labels), 2.0)}

    write_report(
        tmp_path / "report.html",
        manifest.model_copy(update={"subnetworks": both}),
        trained.data,
        seen,
    )

    report = (tmp_path / "report.html").read_text()
    gained = len(labels) - 100
    assert f"Of the images that {first} gets wrong, {last} gets {gained} right; 0" in report
    assert report.count('<img src="data:image/png;base64,') == 8
    assert "It makes no mistake on these images." in report


def test_every_name_stands_inside_the_drawing_of_the_front(manifest: Manifest) -> None:
    few = np.arange(1)
    seen = {each.name: answering(few, 1, 27.0 + i) for i, each in enumerate(manifest.subnetworks)}

    figure = draw_front(manifest, seen, worth_their_time(manifest, seen))

    figure.draw_without_rendering()
    (axes,) = figure.axes
    frame = axes.get_window_extent()
    names = [each for each in axes.texts if isinstance(each, Annotation)]
    assert [each.get_text() for each in names] == [each.name for each in manifest.subnetworks]
    for each in names:
        edges = each.get_window_extent()
        assert frame.x0 < edges.x0
        assert edges.x1 < frame.x1


def test_class_names_are_shown_as_they_are(
    trained: TrainedRun, manifest: Manifest, tmp_path: Path
) -> None:
    names = ("<b>zero</b>", "$1$", *trained.data.classes[2:])
    data: DataSet = replace(trained.data, classes=names)
    labels = data.test.labels.numpy()
    seen = {each.name: answering(labels, 50, 1.0) for each in manifest.subnetworks}

    write_report(
        tmp_path / "report.html", manifest.model_copy(update={"labels": names}), data, seen
    )

    report = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;zero&lt;/b&gt;" in report
    assert "<b>zero" not in report
    assert "Its commonest mistakes: " in report
    assert "&lt;b&gt;zero&lt;/b&gt; taken for $1$, " in report
