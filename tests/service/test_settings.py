from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, read_settings, variable_name


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_an_empty_variable_is_one_that_is_not_set(
    blank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = Settings()
    for field in Settings.model_fields:
        monkeypatch.setenv(variable_name(field), blank)

    assert read_settings() == defaults


def test_white_space_around_a_value_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "HOST": "::1",
        "PORT": "0",
        "BUNDLE_DIR": "/a b",
        "DEVICE": "cpu",
        "PAGE": "false",
    }
    for name, value in (given | {"ADMIN_KEY": "a key", "DEFAULT_DEADLINE_MS": "2.5"}).items():
        monkeypatch.setenv(f"ANYTIME_{name}", f" {value}\n")

    settings = read_settings()

    assert (settings.host, settings.port, settings.bundle_dir) == ("::1", 0, Path("/a b"))
    assert (settings.device, settings.page) == ("cpu", False)
    assert settings.admin_key.get_secret_value() == "a key"
    assert settings.default_deadline_ms == 2.5


@pytest.mark.parametrize("name", ["BUNDLE_DIR", "ENGINE_DIR"])
@pytest.mark.parametrize("path", ["~/here", "$HOME/here", "${HOME}/here", "/me/$WHERE"])
def test_a_path_is_expanded_as_in_a_shell(
    name: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/me")
    monkeypatch.setenv("WHERE", "here")
    monkeypatch.setenv(f"ANYTIME_{name}", path)

    assert getattr(read_settings(), name.lower()) == Path("/me/here")


def test_what_stands_for_nothing_stays_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYTIME_BUNDLE_DIR", "~nobody-of-this-name/$NOTHING")

    assert read_settings().bundle_dir == Path("~nobody-of-this-name/$NOTHING")


NUMBERS = [
    name for name, field in Settings.model_fields.items() if field.annotation in (int, float)
]


@pytest.mark.parametrize(
    "value", ["1_0", "１０", "١٠", "nan", "inf", "Infinity", "0x1", "one", "1 0"]
)
@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_is_written_in_ascii_digits(
    field: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable_name(field), value)

    with pytest.raises(SettingsError) as caught:
        read_settings()

    assert str(caught.value).startswith(f"{variable_name(field)}: ")
    assert str(caught.value).endswith(f"a number, such as 25 or 0.5, got {value!r}")


def test_a_key_that_no_header_could_hold_is_refused_and_kept_to_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANYTIME_ADMIN_KEY", "two\nlines")

    with pytest.raises(SettingsError) as caught:
        read_settings()

    assert str(caught.value) == "ANYTIME_ADMIN_KEY: Input should be one line of printable text"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("trusted_proxies", "10.0.0.0/8 proxy.example", "proxy.example is no address or network"),
        ("cors_origins", "https://one.example https://two.example/path", "--cors-origins"),
        ("cors_origins", "*", "--cors-origins"),
        ("root_path", "anytime", "--root-path"),
        ("root_path", "/anytime/", "--root-path"),
        ("max_files", "65", "less than or equal to 64"),
    ],
)
def test_what_would_let_in_others_than_it_says_is_refused(name: str, value: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        read_settings({name: value})


def test_several_proxies_and_origins_are_named_with_spaces() -> None:
    settings = read_settings(
        {
            "trusted_proxies": "10.0.0.0/8 ::1 192.0.2.1",
            "cors_origins": "https://one.example http://two.example:8080",
            "root_path": "/shown/here",
        }
    )

    assert len(settings.trusted_proxies.split()) == 3
    assert len(settings.cors_origins.split()) == 2
