"""What ``/docs`` says is so: the document itself, and the running server held against it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.front.documentation import EXAMPLES
from service.problems import CATALOGUE
from tests.server import ServerProcess

# Problems with a status over 500 are answers too, when the load is too high; 500 itself never is.
CONFIGURATION = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", "503", "504"]
"""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


@pytest.fixture(scope="module")
def paths(server: ServerProcess) -> dict[str, Any]:
    described: dict[str, Any] = server.client.get("/openapi.json").json()["paths"]
    return described


@pytest.mark.parametrize("path", ["/classify", "/classify/stream"])
def test_every_parameter_is_described_with_an_example(paths: dict[str, Any], path: str) -> None:
    parameters = paths[path]["post"]["parameters"]

    assert {each["name"] for each in parameters} == {
        "deadline_ms",
        "on_miss",
        "model",
        "subnetwork",
        "top_k",
        "stop_at_confidence",
        "X-Request-ID",
    }
    assert all(each["description"] and "example" in each for each in parameters)


def test_every_problem_of_an_endpoint_is_in_the_response_of_its_status(
    paths: dict[str, Any],
) -> None:
    told = {
        slug
        for operations in paths.values()
        for operation in operations.values()
        for status, response in operation["responses"].items()
        for slug, example in response["content"]
        .get("application/problem+json", {})
        .get("examples", {})
        .items()
        if str(example["value"]["status"]) == status
    }

    # Any path and method may be asked for: this is no endpoint's problem.
    assert told == set(CATALOGUE) - {"method-not-allowed"}


@pytest.mark.parametrize("slug", CATALOGUE)
def test_every_problem_has_an_example(slug: str) -> None:
    assert type(EXAMPLES[slug]) is CATALOGUE[slug]


def test_the_server_answers_as_it_is_described(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    program = [sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"]
    run = [*program, "run", f"{server.client.base_url}/openapi.json"]
    bounds = ["--max-examples", "5", "--phases", "examples,coverage,fuzzing", "--seed", "1"]

    result = subprocess.run(
        [*run, *bounds, "--checks", ",".join(CHECKS), "--no-color"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stdout + result.stderr
    assert "Tested: 10" in result.stdout
