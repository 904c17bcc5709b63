"""``anytime keys`` and ``anytime sign``, and a server that takes no bundle but a signed one."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from model.bundle import BundleError, read_bundle
from service.board import KEYS as MOST_KEYS
from service.cli.app import app
from service.front.access.keys import KeyEntry, Scope, read_keys, write_entry
from service.settings import SettingsError, read_settings


def run(*arguments: object, typed: str = "") -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], input=typed)


@pytest.mark.parametrize("password", ["", "a long one"])
def test_a_key_is_made_and_signs_a_bundle(tmp_path: Path, bundle_dir: Path, password: str) -> None:
    key, folder = tmp_path / "release.key", shutil.copytree(bundle_dir, tmp_path / "bundle")

    made = run("keys", "signing", key, typed=f"{password}\n{password}\n")
    signed = run("sign", folder, "--key", key, typed=f"{password}\n")

    assert made.exit_code == signed.exit_code == 0
    assert key.stat().st_mode & 0o777 == 0o600
    public_key = made.stdout.split()[-1]
    assert read_settings({"bundle_keys": public_key}).bundle_keys == public_key
    assert read_bundle(folder, keys=[public_key])
    with pytest.raises(BundleError, match="minisig: No such file"):
        read_bundle(bundle_dir, keys=[public_key])


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "release.key").write_text("precious")

    made = run("keys", "signing", tmp_path / "release.key", typed="\n\n")

    assert made.exit_code == 1
    assert (tmp_path / "release.key").read_text() == "precious"


def test_a_wrong_password_is_said_in_one_line(
    tmp_path: Path, bundle_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "release.key"
    run("keys", "signing", key, typed="right\nright\n")

    signed = run("sign", bundle_dir, "--key", key, typed="wrong\n")

    assert signed.exit_code == 1
    assert f"{key}: is no secret key that can be used (wrong password" in capfd.readouterr().err


def test_an_api_key_is_shown_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    limits = ("--requests-per-s", 2.5, "--burst", 4, "--concurrency", 3)

    first = run("keys", "new", "web", "--file", file)
    second = run(
        "keys", "new", "all", "--file", file, "--scope", "admin", "--scope", "metrics", *limits
    )

    assert file.stat().st_mode & 0o777 == 0o600
    assert first.stdout.strip() not in file.read_text()
    keyring = read_keys(file)
    web, both = (keyring.find(each.stdout.strip().encode()) for each in (first, second))
    assert web
    assert both
    assert (web.name, web.requests_per_s) == ("web", None)
    assert web.scopes == {Scope.CLASSIFY}
    assert both.name == "all"
    assert both.scopes == {Scope.ADMIN, Scope.METRICS}
    assert (both.requests_per_s, both.burst, both.concurrency) == (2.5, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("web",), "has a key 'web' already"),
        (("a b",), "'a b' cannot be a key's name"),
        (("new", "--burst", "5"), "--burst says nothing without --requests-per-s"),
        (("new", "--requests-per-s", "1", "--burst", "1000001"), "less than or equal to 1000000"),
        (("new", "--concurrency", "1000001"), "less than or equal to 1000000"),
        (
            ("new", "--scope", "all"),
            "'all' is not one of 'classify', 'feedback', 'metrics', 'admin'",
        ),
    ],
)
def test_a_key_that_cannot_be_made_is_one_line_and_changes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], fault: str
) -> None:
    file = tmp_path / "keys.toml"
    run("keys", "new", "web", "--file", file)
    before = file.read_text()

    made = run("keys", "new", "--file", file, *arguments)

    assert made.exit_code in (1, 2)
    assert fault in capfd.readouterr().err + made.stderr
    assert file.read_text() == before


def test_a_key_too_many_is_refused_and_the_file_stays_one_that_can_be_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.toml"
    tables = []
    for n in range(MOST_KEYS):
        entry = KeyEntry(sha256=f"{n:064x}", scopes=frozenset([Scope.CLASSIFY]))
        tables.append(write_entry(f"key-{n}", entry))
    file.write_text("\n".join(tables))

    made = run("keys", "new", "web", "--file", file)

    assert made.exit_code == 1
    assert f"holds {MOST_KEYS} keys" in capfd.readouterr().err
    assert len(read_keys(file).keys) == MOST_KEYS


def test_what_is_no_public_key_is_no_setting() -> None:
    with pytest.raises(SettingsError, match="'RWQ' is no public key of minisign"):
        read_settings({"bundle_keys": "RWQ"})
