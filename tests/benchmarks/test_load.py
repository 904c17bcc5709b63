import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.load.planning import Phase, plan, read_images
from tests.server import ServerProcess

ROOT = Path(__file__).parents[2]


def test_equal_seeds_give_equal_loads_and_others_do_not() -> None:
    first, again, other = (
        plan([Phase(500, 2.0)], arrivals="gamma", deadlines_s=[0.005, 0.1], images=10, seed=seed)
        for seed in (1, 1, 2)
    )

    assert first == again
    assert first != other


def test_phases_follow_one_another_in_order_of_time() -> None:
    planned = plan(
        [Phase(100, 1.0), Phase(1000, 0.5)],
        arrivals="poisson",
        deadlines_s=[0.025],
        images=5,
        seed=0,
    )

    assert [each.at for each in planned] == sorted(each.at for each in planned)
    assert all(each.phase == (each.at >= 1.0) for each in planned)
    assert planned[-1].at < 1.5


def test_phases_that_take_turns_send_the_same_images_at_the_same_instants() -> None:
    phases = [Phase(100, 1.0)] * 4
    planned = plan(phases, arrivals="poisson", deadlines_s=[0.025, 0.1], images=50, seed=0, turns=2)

    first, second, third, fourth = (
        [
            (round(each.at - phase, 9), each.deadline_s, each.image)
            for each in planned
            if each.phase == phase
        ]
        for phase in range(4)
    )
    assert first == second != third == fourth


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        (Phase(1.0, 1e6), "at most"),
        (Phase(1e7, 1.0), "at most"),
        (Phase(1e-9, 1.0), "no request falls"),
    ],
)
def test_loads_without_measure_are_refused(phase: Phase, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan([phase], arrivals="poisson", deadlines_s=[0.1], images=1, seed=0)


def test_an_image_has_the_class_of_its_folder(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(name.encode())

    images, labels = read_images(tmp_path, ["bird", "dog", "cat"], count=10, seed=0)

    assert dict(zip(images, labels, strict=True)) == {b"dog": 1, b"cat": 2}


def test_images_of_a_class_that_the_bundle_does_not_know_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.jpg").touch()

    with pytest.raises(ValueError, match="knows no class cat"):
        read_images(tmp_path, ["dog"], count=1, seed=0)


def test_several_queries_take_turns_a_phase_each(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    (tmp_path / "cat").mkdir()
    shutil.copy(ROOT / "docs" / "samples" / "cat.jpg", tmp_path / "cat")
    bundle, names = ROOT / "model" / "pretrained" / "cifar10", ("narrow-column-1", "alone-column-1")
    server = start_server(bundle_dir=bundle)
    server.wait_for("ready")
    words = f"--port {server.client.base_url.port} --bundle {bundle} --deadline-ms 30000".split()
    words += ["--images", str(tmp_path), *["--phase", "50:0.1"] * 3]
    words += ["--query", *(f"subnetwork={name}" for name in names)]

    load = [sys.executable, "-m", "benchmarks.load", *words]
    phases = json.loads(subprocess.run(load, cwd=ROOT, capture_output=True, check=True).stdout)

    answered_by = [list(phase["subnetworks"]) for phase in phases]
    assert answered_by == [[names[0]], [names[1]], [names[0]]]
