"""The parameters of a request that choose its answer, by the names that ``/classify`` has for them. Pure."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from service.front.open_inference.tensors import InvalidInference
from service.settings import LONGEST_MS, NUMBER

# Parameters that choose the answer, as those of /classify.
CHOICES = ("deadline_ms", "on_miss", "subnetwork", "stop_at_confidence")
TIMEOUT = "timeout"  # Triton's, in microseconds; 0 is none
# What clients send along, and what has no meaning here: requests are answered in the order of their deadlines.
WITHOUT_EFFECT = {
    "binary_data_output", "content_type", "headers", "priority", "sequence_id", "sequence_start", "sequence_end",
    "triton_enable_empty_final_response",
}  # fmt: skip

LONGEST_VALUE = 200  # characters of a parameter

GRPC_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
UNIT_MS = {"H": 3_600_000.0, "M": 60_000.0, "S": 1000.0, "m": 1.0, "u": 1e-3, "n": 1e-6}

Parameters = Mapping[str, Any]


def choices_of(
    parameters: Parameters,
    headers: Mapping[bytes, bytes],
    remaining_ms: float | None = None,
    query: bytes = b"",
) -> tuple[tuple[str, str], ...]:
    """Return what chooses the answer, by the names that ``/classify`` has for it.

    A deadline may be given in several ways: the earliest counts.

    Args:
        parameters: of the request.
        headers: X-Deadline-Ms, in milliseconds, and grpc-timeout, as gRPC writes it, are looked at.
        remaining_ms: what gRPC says is left, if it says; of gRPC's more than a day is as a day.
        query: of the URL, with more parameters.

    Raises:
        InvalidInference: a parameter is unknown, or given twice otherwise than as a deadline, or a deadline is no number.
    """
    choices: dict[str, str] = {}
    deadlines_ms = [] if remaining_ms is None else [min(remaining_ms, LONGEST_MS)]
    in_query = parse_qsl(query.decode("latin-1"), keep_blank_values=True) if query else ()
    for name, value in (*parameters.items(), *in_query):
        if name in WITHOUT_EFFECT or value is None:
            continue
        if name not in (*CHOICES, TIMEOUT):
            known = ", ".join((*CHOICES, TIMEOUT))
            raise InvalidInference(f"there is no parameter {name!r}; there are {known}")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InvalidInference(
                f"the parameter {name!r} is {value!r:.40}; it must be a number or a text"
            )
        if len(str(value)) > LONGEST_VALUE:
            raise InvalidInference(f"the parameter {name!r} is {value!r:.40}…, which is too long")
        if name == TIMEOUT:
            timeout_us = _number("the parameter 'timeout'", str(value))
            if timeout_us < 0:
                raise InvalidInference(
                    f"the parameter 'timeout' is {value!r:.40}; it must be microseconds, 0 for none"
                )
            if timeout_us:
                deadlines_ms.append(timeout_us / 1e3)
        elif name == "deadline_ms":
            deadlines_ms.append(_number("the parameter 'deadline_ms'", str(value)))
        elif name in choices:
            raise InvalidInference(f"the parameter {name!r} is given twice, again as {value!r:.40}")
        else:
            choices[name] = str(value)
    if header := headers.get(b"x-deadline-ms"):
        deadlines_ms.append(_number("the header X-Deadline-Ms", header.decode("latin-1")))
    if header := headers.get(b"grpc-timeout"):
        deadlines_ms.append(min(_grpc_timeout_ms(header.decode("latin-1")), LONGEST_MS))
    if deadlines_ms:
        choices["deadline_ms"] = f"{min(deadlines_ms):.15g}"
    return tuple(choices.items())


def _number(what: str, text: str) -> float:
    if not NUMBER.fullmatch(text):
        raise InvalidInference(f"{what} is {text!r:.40}; it must be a number")
    return float(text)


def _grpc_timeout_ms(text: str) -> float:
    found = GRPC_TIMEOUT.fullmatch(text)
    if found is None:
        raise InvalidInference(
            f"the header grpc-timeout is {text!r:.40}; it must be up to 8 digits and a unit of H, M, S, m, u, n"
        )
    return int(found[1]) * UNIT_MS[found[2]]
