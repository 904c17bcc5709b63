"""What every test has: settings, and the real server to start."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import settings

from tests.server import ServerProcess, started

settings.register_profile("tests", deadline=None, derandomize=True)  # no test depends on the clock
settings.load_profile("tests")


@pytest.fixture
def start_server() -> Iterator[Callable[..., ServerProcess]]:
    """Start a server with settings, soon ready if they do not say otherwise; it is ended after the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(started({"warm_up_s": 0.5} | settings))
