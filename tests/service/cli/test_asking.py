"""``anytime classify``, ``info`` and ``bench``, with a real server and with a bundle in this process."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from service.cli.app import app
from service.cli.bench import Load
from service.cli.files import ImageFile, NoImages, find_images
from service.cli.tables import plot
from tests.server import ServerProcess

NOBODY = "http://127.0.0.1:1"


def anytime(*arguments: object, stdin: bytes = b"") -> tuple[int, list[str]]:
    """Run a command in this process; return its exit code and the lines that it wrote."""
    result = CliRunner().invoke(app, [str(each) for each in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output.splitlines()


def url_of(server: ServerProcess) -> str:
    return str(server.client.base_url)


@pytest.fixture
def photos(tmp_path: Path, picture: Image.Image) -> Path:
    """A folder of classes, and a file that is no image."""
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        picture.save(tmp_path / "photos" / label / "one.png")
    (tmp_path / "photos" / "cat" / "text.jpg").write_text("no image")
    return tmp_path / "photos"


def test_a_folder_is_answered_image_by_image_without_a_server(photos: Path) -> None:
    code, (titles, *rows) = anytime("classify", photos, "--deadline-ms", 60_000)

    assert code == 1  # of the file that is no image
    assert titles.split() == ["image", "label", "confidence", "subnetwork", "latency"]
    assert [row.split("/photos/")[1].split()[0] for row in rows] == [
        "cat/one.png",
        "cat/text.jpg",
        "dog/one.png",
    ]
    assert re.search(r"one.png +\w+ +\d+\.\d% +wide-full-mirrored +\d+\.\d\d ms  in time$", rows[0])
    assert re.search(r"text.jpg +not-an-image: ", rows[1])


def test_a_bundle_in_the_process_answers_as_a_server_does(
    server: ServerProcess, photos: Path
) -> None:
    question = ["classify", "-", "--json", "--subnetwork", "narrow-column-2", "--top-k", 2]
    image = (photos / "cat" / "one.png").read_bytes()

    _, (here,) = anytime(*question, stdin=image)
    _, (there,) = anytime(*question, "--url", url_of(server), stdin=image)

    one, other = json.loads(here), json.loads(there)
    for same in ("image", "label", "subnetwork", "bundle"):
        assert one[same] == other[same]
    # Each has chosen the precision that was faster when it started.
    assert one["confidence"] == pytest.approx(other["confidence"], abs=0.05)


def test_watching_shows_each_better_answer(server: ServerProcess, photos: Path) -> None:
    code, (_, *rows) = anytime(
        *("classify", photos / "cat" / "one.png", "--watch"),
        *("--url", url_of(server), "--deadline-ms", 60_000),
    )

    assert code == 0
    assert len(rows) > 1
    assert all(row.endswith("…") for row in rows[:-1])
    assert re.search(r"full-mirrored +\S+ ms  in time$", rows[-1])


def test_what_an_image_lacks_is_one_line_of_json_too(server: ServerProcess, photos: Path) -> None:
    code, (line,) = anytime(
        "classify", photos / "cat" / "text.jpg", "--json", "--url", url_of(server)
    )

    assert code == 1
    assert json.loads(line)["error"] == "not-an-image"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["classify", "/none"], 2, "/none: no such file or folder"),
        (["classify", __file__, "--url", "http://"], 2, "'http://' is no URL of a server"),
        (["classify", __file__, "--url", NOBODY], 1, "no connection to the server"),
        (["classify", __file__, "--bundle", "/none"], 1, "/none/manifest.json: No such file"),
        (["classify", __file__, "--bundle", "/none", "--url", NOBODY], 2, "choose one"),
        (["info", "/none"], 1, "/none/manifest.json: No such file"),
        (["info", NOBODY], 1, "no connection to the server"),
        (["bench", "nix", __file__], 2, "'nix' is no URL"),
        (["bench", NOBODY, "/none"], 2, "/none: no such file or folder"),
        (["bench", NOBODY, __file__], 1, "no connection to the server"),
        (["bench", NOBODY, __file__, "--rate", "1e9"], 2, "--rate"),
    ],
)
def test_what_cannot_be_asked_ends_in_one_line(
    arguments: list[str], code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    exit_code, said = anytime(*arguments)

    written = "\n".join(said) + capfd.readouterr().err
    assert exit_code == code
    assert message in written
    assert "Traceback" not in written


def test_a_parameter_that_cannot_be_is_misuse(
    server: ServerProcess, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _ = anytime("classify", photos, "--url", url_of(server), "--top-k", 99)

    assert code == 2
    assert capfd.readouterr().err.startswith("anytime: top_k is '99'; it must be")


@pytest.mark.parametrize("there", [True, False], ids=["server", "bundle"])
def test_info_lists_every_subnetwork_and_draws_it(there: bool, server: ServerProcess) -> None:
    names = [each["name"] for each in server.client.get("/subnetworks").json()["subnetworks"]]

    code, lines = anytime("info", *([url_of(server)] if there else []))

    assert code == 0
    rows = [line.split() for line in lines if line.endswith(" ms") and "%" in line]
    assert sorted(row[1] for row in rows) == sorted(names)
    drawn = set("".join(line.partition("│")[2] for line in lines)) - {" "}
    assert drawn <= {row[0][0] for row in rows}  # two in one place show one letter
    assert len(drawn) > 1


def test_a_plot_has_its_points_where_they_belong() -> None:
    lines = plot([(1.0, 0.0), (10.0, 0.5), (100.0, 1.0)], width=11, height=3)

    assert lines == ["          c", "     b", "a"]


def test_bench_says_what_became_of_all_that_was_offered(
    server: ServerProcess, photos: Path
) -> None:
    (photos / "cat" / "text.jpg").rename(photos / "text.jpg")
    load = Load(rate=50, seconds=0.5, deadline_s=5.0, seed=0, files=())

    code, lines = anytime(
        *("bench", url_of(server), photos),
        *("--seconds", load.seconds, "--deadline-ms", 5000),
    )

    assert code == 0
    assert lines[0] == f"{len(list(load.instants()))} requests in 0.5 s, deadline 5000 ms"
    shares = dict(re.findall(r"^  (\D+?) +([\d.]+)%$", "\n".join(lines), re.MULTILINE))
    ends = [float(shares[name]) for name in ("in time", "late", "not-an-image")]
    assert sum(ends) == pytest.approx(100, abs=0.2)  # each is rounded to a tenth
    assert ends[2] > 0


def test_the_instants_of_a_load_are_as_many_as_its_rate_says() -> None:
    load = Load(rate=100, seconds=60, deadline_s=1, seed=1, files=())

    instants = list(load.instants())

    assert instants == sorted(instants)
    assert instants == list(load.instants())
    assert len(instants) == pytest.approx(6000, abs=4 * 6000**0.5)  # Poisson


def test_images_are_found_in_files_folders_and_patterns(photos: Path) -> None:
    cat, dog, text = photos / "cat/one.png", photos / "dog/one.png", photos / "cat/text.jpg"

    assert find_images([str(dog), "-"]) == [ImageFile(str(dog)), ImageFile("-")]
    assert find_images([str(photos)]) == [
        ImageFile(str(cat), "cat"),
        ImageFile(str(text), "cat"),
        ImageFile(str(dog), "dog"),
    ]
    assert find_images([f"{photos}/*/*.png"]) == [ImageFile(str(cat)), ImageFile(str(dog))]


@pytest.mark.parametrize("name", ["none", "none*", "."])
def test_what_leads_to_no_image_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(NoImages, match=rf"^{re.escape(name)}: no "):
        find_images([name])
