"""API keys: the file, and who is known by it."""

from hashlib import sha256
from pathlib import Path

import pytest

from service.front.access.keys import (
    KeyEntry,
    KeysUnusable,
    Scope,
    make_api_key,
    read_keys,
    write_entry,
)


def entry(key: str, **fields: object) -> KeyEntry:
    digest = sha256(key.encode()).hexdigest()
    return KeyEntry.model_validate({"sha256": digest, "scopes": ["classify"]} | fields)


def test_what_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    web, watcher = make_api_key(), make_api_key()
    limits = {"requests_per_s": 2.5, "burst": 10, "concurrency": 4}
    (tmp_path / "keys.toml").write_text(
        write_entry("web", entry(web, scopes=["feedback", "classify"], **limits))
        + write_entry("watcher.2", entry(watcher, scopes=["metrics"]))
    )

    keyring = read_keys(tmp_path / "keys.toml")

    found = keyring.find(web.encode())
    assert found
    assert (found.name, found.place) == ("web", 0)
    assert found.scopes == {Scope.CLASSIFY, Scope.FEEDBACK}
    assert (found.requests_per_s, found.burst, found.concurrency) == (2.5, 10, 4)
    other = keyring.find(watcher.encode())
    assert other
    assert (other.name, other.requests_per_s, other.concurrency) == ("watcher.2", None, None)
    assert keyring.find(make_api_key().encode()) is None
    assert keyring.find(b"") is None


def test_the_file_never_holds_a_key() -> None:
    key = make_api_key()

    assert key not in write_entry("web", entry(key))


def test_no_two_keys_are_alike() -> None:
    assert len({make_api_key() for _ in range(100)}) == 100


def test_where_no_burst_is_said_a_second_of_requests_may_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(
        write_entry("fast", entry("a", requests_per_s=50.0))
        + write_entry("slow", entry("b", requests_per_s=0.1))
    )

    assert [key.burst for key in read_keys(tmp_path / "keys.toml").keys] == [50, 1]


SOME = 'sha256 = "' + 64 * "0" + '"\n'


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "holds no keys"),
        ("[", "is no TOML"),
        ("\udc80", "is no TOML"),
        (f"[web]\n{SOME}", "web.scopes: Field required"),
        (f'[web]\n{SOME}scopes = ["all"]\n', "web.scopes"),
        (f"[web]\n{SOME}scopes = []\n", "web.scopes"),
        ('[web]\nsha256 = "anytime_secret"\nscopes = ["admin"]\n', "web.sha256"),
        (f'[web]\n{SOME}scopes = ["admin"]\nburst = 0\n', "web.burst"),
        (f'[web]\n{SOME}scopes = ["admin"]\nrequests_per_s = nan\n', "web.requests_per_s"),
        (f'[web]\n{SOME}scopes = ["admin"]\nkey = "x"\n', "web.key"),
        (f'["a b"]\n{SOME}scopes = ["admin"]\n', "a b"),
        (2 * f'[web]\n{SOME}scopes = ["admin"]\n', "is no TOML"),
        (
            f'[a]\n{SOME}scopes = ["admin"]\n[b]\n{SOME}scopes = ["admin"]\n',
            "one key under two names",
        ),
        ("#" * (2**20 + 1), "is over 1048576 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_without_a_secret(
    tmp_path: Path, content: str, fault: str
) -> None:
    path = tmp_path / "keys.toml"
    path.write_bytes(content.encode(errors="surrogateescape"))

    with pytest.raises(KeysUnusable) as raised:
        read_keys(path)

    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert fault in message
    assert "\n" not in message
    assert "secret" not in message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeysUnusable, match=r"none.toml: No such file"):
        read_keys(tmp_path / "none.toml")


def test_a_name_that_would_not_be_read_again_is_refused() -> None:
    with pytest.raises(KeysUnusable, match="'a b' cannot be a key's name"):
        write_entry("a b", entry("key"))
