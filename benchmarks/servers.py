"""Servers under measurement: each a process group of its own on its own core, from start to a clean end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

from benchmarks.load.dialects import DIALECTS

ROOT = Path(__file__).parents[1]
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
READY_WITHIN_S = 120.0  # Ray takes half a minute on one core
STOP_WITHIN_S = 10.0
PEER_DIALECTS = {
    "litserve": "base64",
    "bentoml": "form",
    "ray_serve": "plain",
    "mlserver": "mlserver",
    "triton": "triton",
}
PEER_ENVIRONMENTS = {
    # Its processes share one core while they start; one machine needs no tokens.
    "ray_serve": {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_AUTH_MODE": "disabled"},
}


class ServerFailed(Exception):
    """A server did not start; the message says which and shows the end of its output."""


@dataclass(frozen=True, slots=True)
class System:
    """A server with its set-up.

    Args:
        name: in tables.
        dialect: how it is asked.
        command: starts it, but for the port, which is added in the end.
        environment: in addition to this process's; ``{port}`` stands for the port.
    """

    name: str
    dialect: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def anytime(
    bundle: Path, policy: str, *, device: str = "cpu", settings: Mapping[str, str] = NO_SETTINGS
) -> System:
    """Return this project's server under a policy, on a device, with settings of its own."""
    return System(
        name=policy,
        dialect="anytime",
        command=(sys.executable, "-m", "service"),
        environment={
            "ANYTIME_BUNDLE_DIR": str(bundle),
            "ANYTIME_POLICY": policy,
            "ANYTIME_PORT": "{port}",
            "ANYTIME_DEVICE": device,
            "ANYTIME_DEFAULT_ON_MISS": "refuse",  # no other server here is asked for late answers
            "ANYTIME_THREADS": "1",
            "ANYTIME_LOG_SAMPLE": "0",  # no other server here writes a line a request
            **settings,
        },
    )


def bare(graph: Path) -> System:
    """Return the floor: a handler that decodes and runs."""
    command = (sys.executable, "-m", "benchmarks.peers.bare", "--graph", str(graph))
    return System(f"bare handler: {graph.stem}", "plain", (*command, "--port", "{port}"))


def peer(name: str, graph: Path, environments: Path) -> System:
    """Return another server; its virtual environment is made if it is not there."""
    python = _environment_of(name, environments)
    command = (str(python), "-m", f"benchmarks.peers.{name}", "--graph", str(graph))
    return System(
        f"{name}: {graph.stem}",
        PEER_DIALECTS[name],
        (*command, "--port", "{port}"),
        PEER_ENVIRONMENTS.get(name, {}),
    )


class Server:
    """A running server.

    Attributes:
        system: what runs.
        port: where it listens.
    """

    def __init__(self, system: System, port: int, process: subprocess.Popen[bytes]) -> None:
        self.system = system
        self.port = port
        self._process = process

    @property
    def pid(self) -> int:
        """Its first process."""
        return self._process.pid

    def load_command(self, bundle: Path, images: Path, *words: object, core: int) -> list[str]:
        """Return the command that sends it a load, on a core, in its dialect unless the words name another.

        Args:
            bundle: whose labels answers are compared with.
            images: folder of <class>/*.jpg.
            words: what ``benchmarks.load`` is told besides.
            core: of the load generator.
        """
        command = [sys.executable, "-m", "benchmarks.load", "--core", core, "--port", self.port]
        command += ["--dialect", self.system.dialect, "--bundle", bundle, "--images", images]
        return [str(word) for word in (*command, *words)]

    def memory_mib(self) -> float:
        """Return the memory of all its processes; what they share is counted once (PSS)."""
        return sum(self.memory_by_name().values())

    def memory_by_name(self, kind: str = "Pss") -> dict[str, float]:
        """Return the same, in MiB, of the processes of each name: that of the folder or module whose code they run.

        Args:
            kind: a line of ``smaps_rollup``; that of ``Pss_Anon`` is without files, whose memory other programs share.
        """
        mib: dict[str, float] = {}
        for process in _processes_of(self._process.pid):
            with suppress(OSError):  # it has ended
                folder = Path("/proc") / str(process)
                rollup = (folder / "smaps_rollup").read_text()
                name = _name_of((folder / "cmdline").read_text().split("\0"))
                kib = int(rollup.split(f"\n{kind}:")[1].split()[0])
                mib[name] = mib.get(name, 0.0) + kib / 1024
        return mib

    def entries(self, kind: str) -> int:
        """Return how many descriptors (``fd``) or threads (``task``) all its processes have."""
        count = 0
        for process in _processes_of(self._process.pid):
            with suppress(OSError):  # it has ended
                count += len(os.listdir(f"/proc/{process}/{kind}"))
        return count

    def is_ready(self, image: bytes) -> bool:
        """Return whether it answers a request."""
        dialect = DIALECTS[self.system.dialect]
        head, body = dialect.request(image, 10.0).split(b"\r\n\r\n", 1)
        _, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", dialect.path.format(deadline_ms=10_000), body, headers)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@contextmanager
def running(system: System, *, core: int | str, image: bytes, log: Path) -> Iterator[Server]:
    """Run a server on one core and a free port until the block ends; it answers before the block begins.

    Args:
        system: what to run.
        core: the core for all its processes, or several as taskset writes them.
        image: a JPEG file to try it with.
        log: gets its output.

    Raises:
        ServerFailed: it ended, or gave no answer in ``READY_WITHIN_S``.
    """
    port = _free_port()
    command = [word.format(port=port) for word in system.command]
    environment = {key: value.format(port=port) for key, value in system.environment.items()}
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", str(core), *command],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(system, port, process)
    try:
        _await_ready(server, process, image, log)
        yield server
    finally:
        _stop(process)


def _free_port() -> int:
    """Return a port with nobody on it, nor on the next two, which some peers take as well."""
    while True:
        with ExitStack() as stack, suppress(OSError):  # one of the two is taken
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port: int = first.getsockname()[1]
            for n in (1, 2):
                stack.enter_context(socket.create_server(("127.0.0.1", port + n)))
            return port


def _await_ready(server: Server, process: subprocess.Popen[bytes], image: bytes, log: Path) -> None:
    give_up_at = time.monotonic() + READY_WITHIN_S
    while not server.is_ready(image):
        if process.poll() is not None or time.monotonic() > give_up_at:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
            raise ServerFailed(f"{server.system.name} does not answer; its last words:\n{tail}")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and everything that it started."""
    started = _processes_of(process.pid)
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for left in started:
        with suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)


def _processes_of(leader: int) -> list[int]:
    """Return the processes in a leader's session and all their descendants."""
    parents: dict[int, int] = {}
    family: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # After the name in brackets: state, parent, process group, session.
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                parents[int(entry.name)] = int(fields[1])
                if int(fields[3]) == leader:
                    family.add(int(entry.name))
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sorted(family)


def _name_of(words: Sequence[str]) -> str:
    """Return what a command line runs: ``engine`` of engine/__main__.py, ``service`` of -m service."""
    for before, word in pairwise(words):
        if word.endswith(".py"):
            return Path(word).parent.name
        if before == "-m":
            return word
    return "other"


def _environment_of(peer_name: str, environments: Path) -> Path:
    """Return the interpreter of a peer's virtual environment, made from its pinned requirements."""
    folder = environments / peer_name
    python = folder / "bin" / "python"
    done = folder / "installed"
    requirements = Path(__file__).parent / "peers" / "requirements" / f"{peer_name}.txt"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
        subprocess.run(install, check=True)
        done.touch()
    return python
