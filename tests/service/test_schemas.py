from urllib.parse import quote

import pytest

from service.problems import InvalidParameter
from service.schemas import ClassifyQuery, QueryParser
from service.settings import Settings

parse = QueryParser(
    Settings(default_deadline_ms=20, default_top_k=3),
    model="cifar10",
    subnetworks=["column-1", "full"],
    classes=10,
)


def test_defaults_come_from_the_settings() -> None:
    assert parse(b"") == ClassifyQuery(
        model="cifar10",
        deadline_ms=20,
        on_miss="answer",
        subnetwork=None,
        top_k=3,
        stop_at_confidence=None,
    )


def test_every_parameter_is_read() -> None:
    query = parse(
        b"model=cifar10&deadline_ms=2.5&on_miss=refuse&subnetwork=full&top_k=10&stop_at_confidence=0.9"
    )

    assert query == ClassifyQuery(
        model="cifar10",
        deadline_ms=2.5,
        on_miss="refuse",
        subnetwork="full",
        top_k=10,
        stop_at_confidence=0.9,
    )


def test_the_default_top_k_is_at_most_the_number_of_classes() -> None:
    few = QueryParser(Settings(default_top_k=5), model="few", subnetworks=["full"], classes=2)

    assert few(b"").top_k == 2


@pytest.mark.parametrize(
    "number", ["0.5", ".5", "0.50", "%2B0.5", "5e-1", "5E-1", "00.5"], ids=lambda text: text
)
def test_a_number_is_a_decimal_one_with_or_without_an_exponent(number: str) -> None:
    assert parse(f"stop_at_confidence={number}&deadline_ms={number}".encode()) == ClassifyQuery(
        model="cifar10",
        deadline_ms=0.5,
        on_miss="answer",
        subnetwork=None,
        top_k=3,
        stop_at_confidence=0.5,
    )


NO_NUMBERS = ["1_0", "１", "١", "²", "1 0", " 1", "1\n", "0x1", "infinity", "1,0", "1e", ".", "--1"]


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("name", ["deadline_ms", "stop_at_confidence", "top_k"])
def test_a_number_in_other_digits_or_of_another_form_is_none(name: str, value: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(f"{name}={quote(value)}".encode())

    assert caught.value.members["parameter"] == name
    assert caught.value.members["value"] == value
    assert " number " in caught.value.members["allowed"]


@pytest.mark.parametrize("value", ["0", "-0.1", "1.01", "nan", "inf", "sure", ""])
def test_a_confidence_is_a_fraction(value: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(f"stop_at_confidence={value}".encode())

    assert f"stop_at_confidence is {value!r}" in caught.value.detail
    assert "a number over 0, at most 1" in caught.value.detail


@pytest.mark.parametrize(
    "value", ["0", "1e-9", "-1", "nan", "inf", "86400001", "five", "", "5ms", "0x5"]
)
def test_a_deadline_is_a_number_of_milliseconds_up_to_a_day(value: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(f"deadline_ms={value}".encode())

    assert f"deadline_ms is {value!r}" in caught.value.detail
    assert "a number from 0.001 to 86400000" in caught.value.detail


@pytest.mark.parametrize("value", ["0", "11", "-1", "2.0", "", "many", "²", "9" * 5000])
def test_top_k_is_at_most_the_number_of_classes(value: str) -> None:
    with pytest.raises(InvalidParameter, match="a whole number from 1 to 10"):
        parse(f"top_k={value}".encode())


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        (b"subnetwork=column-9", "subnetwork is 'column-9'; it must be one of column-1, full"),
        (b"on_miss=give-up", "on_miss is 'give-up'; it must be one of answer, refuse"),
        (b"deadline=5", "there is no parameter 'deadline'; there are model, deadline_ms"),
        (b"top_k=1&top_k=2", "top_k is given more than once, again as '2'"),
        (b"\xff=1", "there is no parameter"),
    ],
)
def test_a_bad_parameter_is_named_with_its_value_and_what_is_allowed(
    query: bytes, detail: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(query)

    assert detail in caught.value.detail
    name, _, value = query.decode("latin-1").rpartition("&")[2].partition("=")
    members = caught.value.members
    assert (members["parameter"].encode("latin-1", "replace"), members["value"]) == (
        name.encode("latin-1", "replace"),
        value,
    )
    assert members["allowed"]
