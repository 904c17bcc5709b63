"""Try three replicas behind HAProxy under load: kill one, drain one, roll all to a new bundle, and have all reload one.

    python deploy/try_replicas.py [--bundle DIR] [--rate 100] [--seconds 5]

It needs haproxy, and ends with 1 if a request was lost or answered twice.
"""

import argparse
import asyncio
import csv
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

from name_server import NameServer
from PIL import Image

ROOT = Path(__file__).parents[1]
LOCAL = "127.0.0.1"
HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")  # of the replicas; one name and port leads to all
LONGEST_S = 60.0  # of one phase
REFUSALS = ("/problems/overloaded", "/problems/expired")
RECOVERED = 0.99  # of the requests of the last second in time


@dataclass(slots=True)
class Outcome:
    """What became of one request; the times are seconds since the load began."""

    due_at: float
    phase: str
    done_at: float = float("inf")
    status: int = 0
    bundle: str = ""
    is_refused: bool = False  # by a replica that had no time for it, and said so

    @property
    def is_lost(self) -> bool:
        """Whether no replica said anything."""
        return self.status != 200 and not self.is_refused


class Replica:
    """A server process at an address of its own."""

    def __init__(self, host: str, port: int, log: Path) -> None:
        self.host = host
        self.port = port
        self.log = log
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, bundle: Path) -> None:
        """Start it and return when it is ready."""
        variables = {
            "ANYTIME_HOST": self.host,
            "ANYTIME_PORT": str(self.port),
            "ANYTIME_BUNDLE_DIR": str(bundle),
            "ANYTIME_THREADS": "1",
            "ANYTIME_LOG_SAMPLE": "1",
            "ANYTIME_WARM_UP_S": "0.2",  # a reload takes ten times as long
        }
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "service"), cwd=ROOT, env=os.environ | variables, stdout=log
            )
        await ready(self.host, self.port, self.process)

    async def kill(self) -> None:
        """End it as a crash would, if it runs."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def stop(self) -> None:
        """End it as an operator would.

        Raises:
            RuntimeError: it did not end well.
        """
        assert self.process is not None
        self.process.terminate()
        if await self.process.wait():
            raise RuntimeError(f"a replica ended with {self.process.returncode}")

    async def reload(self, name: str) -> None:
        """Have it load what its bundle folder holds now; return when that answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        connection = await Connection.open(self.host, self.port)
        listed: dict[str, Any] = {}
        while listed.get("bundle", {}).get("name") != name:
            await asyncio.sleep(0.05)
            _, body = await connection.ask(b"GET /subnetworks HTTP/1.1\r\nHost: anytime\r\n\r\n")
            listed = json.loads(body)
        connection.close()


class Connection:
    """A keep-alive connection that asks one thing at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> "Connection":
        """Connect."""
        return cls(*await asyncio.open_connection(host, port))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return the status and body of the reply; status 0 if none came."""
        try:
            self._writer.write(request)
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            return int(head.split(b" ", 2)[1]), await self._reader.readexactly(length)
        except (OSError, EOFError, ValueError):
            return 0, b""

    def close(self) -> None:
        """Close it."""
        self._writer.close()


class Load:
    """Requests that leave when a seeded Poisson process says so, whatever becomes of those before.

    Args:
        port: of the proxy.
        rate: requests a second.
        deadline_ms: of each.
    """

    def __init__(self, port: int, *, rate: float, deadline_ms: float) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.phase = ""
        self.stopped = False
        self._port = port
        self._rate = rate
        self._query = f"/classify?deadline_ms={deadline_ms:g}".encode()
        self._rng = Random(0)
        self._idle: list[Connection] = []
        buffer = BytesIO()
        Image.new("RGB", (32, 32), "teal").save(buffer, "PNG")
        self._body = buffer.getvalue()

    def now(self) -> float:
        """Return the seconds since the load began."""
        return time.monotonic() - self._began_at

    async def run(self) -> None:
        """Send until told to stop; return when every request has ended."""
        self._began_at = time.monotonic()
        due_at = 0.0
        async with asyncio.TaskGroup() as group:
            while not self.stopped:
                due_at += self._rng.expovariate(self._rate)
                await asyncio.sleep(due_at - self.now())
                request_id = f"try-{len(self.outcomes)}"
                outcome = self.outcomes[request_id] = Outcome(due_at, self.phase)
                group.create_task(self._ask(request_id, outcome))

    async def _ask(self, request_id: str, outcome: Outcome) -> None:
        request = (
            b"POST %b HTTP/1.1\r\nHost: anytime\r\nX-Request-ID: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (self._query, request_id.encode(), len(self._body), self._body)
        )
        try:
            connection = (
                self._idle.pop() if self._idle else await Connection.open(LOCAL, self._port)
            )
        except OSError:
            outcome.done_at = self.now()
            return
        outcome.status, body = await connection.ask(request)
        outcome.done_at = self.now()
        if outcome.status == 200:
            outcome.bundle = json.loads(body)["bundle"]["name"]
        elif outcome.status:
            outcome.is_refused = json.loads(body)["type"] in REFUSALS
        if outcome.status:
            self._idle.append(connection)
        else:
            connection.close()


async def ready(host: str, port: int, process: asyncio.subprocess.Process) -> None:
    """Return when the process that listens on a port takes requests.

    Raises:
        RuntimeError: it has ended.
    """
    status = 0
    while status != 200:
        await asyncio.sleep(0.05)
        if process.returncode is not None:
            raise RuntimeError(f"a process ended with {process.returncode}")
        try:
            connection = await Connection.open(host, port)
        except OSError:
            continue
        status, _ = await connection.ask(b"GET /health/ready HTTP/1.1\r\nHost: anytime\r\n\r\n")
        connection.close()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server((LOCAL, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def renamed(bundle: Path, folder: Path, name: str) -> Path:
    """Return a copy of a bundle under another name."""
    copy = shutil.copytree(bundle, folder / name)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["name"] = name
    text = json.dumps(manifest).encode()
    (copy / "manifest.json").write_bytes(text)
    (copy / "manifest.json.sha256").write_text(f"{sha256(text).hexdigest()}  manifest.json\n")
    return copy


def lead(link: Path, to: Path) -> None:
    """Have a link lead elsewhere, at one instant."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(to)
    fresh.rename(link)


async def tell(admin: Path, command: str) -> str:
    """Return HAProxy's answer to a command on its admin socket."""
    reader, writer = await asyncio.open_unix_connection(admin)
    writer.write(command.encode() + b"\n")
    answer = (await reader.read()).decode()
    writer.close()
    return answer


async def servers(admin: Path) -> list[dict[str, str]]:
    """Return HAProxy's statistics of every replica."""
    lines = (await tell(admin, "show stat")).removeprefix("# ").splitlines()
    rows = csv.DictReader(lines)
    return [row for row in rows if row["pxname"] == "replicas" and row["svname"] != "BACKEND"]


async def drained(admin: Path, name: str) -> None:
    """Return when a replica that gets no more requests has none in progress."""
    while "0" not in [row["scur"] for row in await servers(admin) if row["svname"] == name]:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def try_replicas(options: argparse.Namespace, folder: Path) -> int:
    """Run every phase under load; return the exit code."""
    port, replica_port, admin = free_port(), free_port(), folder / "haproxy.sock"
    replicas = [Replica(host, replica_port, folder / f"{host}.log") for host in HOSTS]
    names = NameServer(list(HOSTS))
    variables = {
        "BIND": f"{LOCAL}:{port}",
        "PRIVATE": f"{LOCAL}:{free_port()}",
        "ADMIN": str(admin),
        "REPLICAS": f"replicas.example:{replica_port}",
        "NAMESERVER": names.address,
    }
    bundles = {name: renamed(options.bundle, folder, name) for name in ("first", "second", "third")}
    current = folder / "current"
    lead(current, bundles["first"])
    load = Load(port, rate=options.rate, deadline_ms=options.deadline_ms)
    event_at: dict[str, float] = {}

    async def phase(name: str, act: Callable[[], Awaitable[None]]) -> None:
        load.phase, event_at[name] = name, load.now()
        await act()
        await asyncio.sleep(options.seconds)

    async def kill() -> None:
        await replicas[0].kill()

    async def drain() -> None:
        address = f"{replicas[1].host}:{replica_port}"
        (name,) = [row["svname"] for row in await servers(admin) if row["addr"] == address]
        await tell(admin, f"set server replicas/{name} state drain")
        await drained(admin, name)
        await replicas[1].stop()
        await replicas[1].start(current)
        await tell(admin, f"set server replicas/{name} state ready")

    async def roll() -> None:
        lead(current, bundles["second"])
        for replica in replicas:
            await replica.stop()  # no word to the proxy: readiness and repeats must do
            await replica.start(current)

    async def reload() -> None:
        lead(current, bundles["third"])
        await asyncio.gather(*(replica.reload("third") for replica in replicas))

    config = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
    with names, (folder / "haproxy.log").open("wb") as log:
        proxy = await asyncio.create_subprocess_exec(
            "haproxy", "-f", str(config), env=os.environ | variables, stdout=log
        )
        try:
            await asyncio.gather(*(replica.start(current) for replica in replicas))
            await ready(LOCAL, port, proxy)
            sending = asyncio.create_task(load.run())
            await asyncio.sleep(0)
            await phase("steady", lambda: asyncio.sleep(0))
            await phase("kill -9 one", kill)
            await phase("start it again", lambda: replicas[0].start(current))
            await phase("drain one", drain)
            await phase("roll all", roll)
            await phase("all reload", reload)
            load.stopped = True
            await sending
        finally:
            proxy.terminate()
            await proxy.wait()
            for replica in replicas:
                await replica.kill()
    return report(load, event_at, [replica.log for replica in replicas], options)


def recovery_s(outcomes: list[Outcome], event_at: float, deadline_s: float) -> float:
    """Return how long after an event the last second with too few answers in time ended; 0 if there was none."""
    worst = 0.0
    for end in outcomes:
        window = [each for each in outcomes if end.due_at - 1 < each.due_at <= end.due_at]
        in_time = sum(each.done_at - each.due_at <= deadline_s for each in window)
        if in_time < RECOVERED * len(window):
            # The window holds on to a late request for a second after it: count to the request.
            late = [each for each in window if each.done_at - each.due_at > deadline_s]
            worst = max(worst, late[-1].due_at - event_at)
    return worst


def report(
    load: Load, event_at: dict[str, float], logs: list[Path], options: argparse.Namespace
) -> int:
    """Print a line for each phase; return 1 if a request was lost or answered twice."""
    answered_by: Counter[str] = Counter()
    for log in logs:
        for line in log.read_text().splitlines():
            fields = json.loads(line)
            if fields["event"] == "request" and fields["outcome"] in ("in_time", "late"):
                answered_by[fields["request_id"]] += 1
    deadline_s = options.deadline_ms / 1e3
    print(
        f"{'phase':16}{'requests':>9}{'lost':>6}{'twice':>7}{'refused':>9}{'in time':>9}{'recovered after':>17}"
    )
    failed = False
    for name, at in event_at.items():
        outcomes = {i: each for i, each in load.outcomes.items() if each.phase == name}
        lost = sum(each.is_lost for each in outcomes.values())
        refused = sum(each.is_refused for each in outcomes.values())
        twice = sum(answered_by[i] > 1 for i in outcomes)
        in_time = sum(each.done_at - each.due_at <= deadline_s for each in outcomes.values())
        recovered = recovery_s(list(outcomes.values()), at, deadline_s)
        print(
            f"{name:16}{len(outcomes):9}{lost:6}{twice:7}{refused:9}{in_time / len(outcomes):9.2%}{recovered:15.2f} s"
        )
        failed |= bool(lost or twice)
    bundles = Counter(each.bundle for each in load.outcomes.values() if each.bundle)
    statuses = Counter(each.status for each in load.outcomes.values())
    print("answers by bundle:", dict(bundles), "by status:", dict(statuses))
    return int(failed)


def main() -> int:
    """Read the command line, try, report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--bundle", type=Path, default=ROOT / "model" / "pretrained" / "cifar10")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each phase, after its event")
    parser.add_argument("--deadline-ms", type=float, default=100.0)
    options = parser.parse_args()
    if options.seconds > LONGEST_S:
        parser.error(f"--seconds is {options.seconds:g}, at most {LONGEST_S:g}")
    if shutil.which("haproxy") is None:
        parser.error("haproxy is not installed")
    with tempfile.TemporaryDirectory(prefix="anytime-") as folder:
        return asyncio.run(try_replicas(options, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
