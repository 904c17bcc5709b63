"""What the supervisor tells the processes that it starts, and how it sees that one has stopped."""

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from service.control import Control, tell


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Control]]:
    """The supervisor's end, and a child's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, Control(theirs)


def test_a_child_is_told_every_line_with_its_descriptors_and_then_the_end(
    ends: tuple[socket.socket, Control],
) -> None:
    ours, control = ends
    heard: list[tuple[dict[str, Any], list[int]]] = []
    here, there = socket.socketpair()
    tell(ours, {"is": "first"}, [here.fileno(), there.fileno()])
    tell(ours, {"is": "plain"})
    tell(ours, {"is": "with"}, [here.fileno()])
    ours.shutdown(socket.SHUT_WR)

    async def listen() -> None:
        gone = asyncio.get_running_loop().create_future()
        control.watch(lambda *line: heard.append(line), lambda: gone.set_result(None))
        await gone

    first, descriptors = control.first()
    asyncio.run(listen())

    assert [first, *(line for line, _ in heard)] == [
        {"is": "first"},
        {"is": "plain"},
        {"is": "with"},
    ]
    assert [len(descriptors), *(len(each) for _, each in heard)] == [2, 0, 1]
    here.sendall(b"!")
    with socket.socket(fileno=descriptors[1]) as passed, here, there:
        assert passed.recv(1) == b"!"
    for each in (descriptors[0], *heard[1][1]):
        os.close(each)


def test_a_child_whose_server_has_ended_before_the_first_line_ends_without_a_word(
    ends: tuple[socket.socket, Control], capfd: pytest.CaptureFixture[str]
) -> None:
    ours, control = ends
    ours.shutdown(socket.SHUT_WR)

    with pytest.raises(SystemExit) as ended:
        control.first()

    assert ended.value.code == 0
    assert capfd.readouterr().err == ""


def test_a_child_without_room_for_a_descriptor_says_so_and_ends(
    ends: tuple[socket.socket, Control], capfd: pytest.CaptureFixture[str]
) -> None:
    ours, control = ends
    tell(ours, {"is": "engine"}, [ours.fileno()])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno(), limits[1]))
        try:
            with pytest.raises(SystemExit) as ended:
                control.first()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert ended.value.code == 1
    assert "no file descriptor left" in capfd.readouterr().err


def test_a_child_that_has_ended_is_told_nothing() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        tell(ours, {"is": "reload"})
