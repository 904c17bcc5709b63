"""Answers a second on one core and on two, in a closed loop light enough to share the two with a server: ``wrk``."""

import re
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from shutil import which

from benchmarks.load.dialects import DIALECTS
from benchmarks.serve.session import Session
from benchmarks.servers import Server, ServerFailed, System, anytime, bare

WRK = "wrk"
ROUNDS, TURN_S = 8, 1
CONNECTIONS = (32, 64)
DEADLINE_S = 10.0  # nothing is to be shed
CORES = {"one core": "0", "two cores": "0,1"}  # of the server
PER_SECOND = re.compile(r"^Requests/sec: +([\d.]+)", re.MULTILINE)
FAULTS = re.compile(r"^ *(?:Non-2xx|Socket errors).*", re.MULTILINE)


def measure_two_cores(session: Session) -> None:
    """Compare the shallowest subnetwork with a bare handler, each on one core and on both, all by turns.

    ``wrk`` has the other core, or both with the server.
    """
    if not which(WRK):
        session.leave_out("answers a second on two cores: wrk is not installed")
        return
    name = session.shallowest
    systems = {
        "bare handler": bare(session.graph(name)),
        "/classify": anytime(session.bundle.folder, f"static:{name}"),
    }
    image = next(session.images.glob("*/*.jp*g")).read_bytes()
    try:
        session.found["two_cores"] = _by_turns(session, systems, image)
    except ServerFailed as failure:
        session.leave_out(f"answers a second on one core and on two: {failure}")


def _by_turns(
    session: Session, systems: Mapping[str, System], image: bytes
) -> list[dict[str, object]]:
    """Return what every server answers by turns; the idle ones take half a per cent of a core each, at most.

    Raises:
        ServerFailed: one gave something else than answers.
    """
    found: list[dict[str, object]] = []
    with ExitStack() as stack:
        servers = {
            (what, cores): stack.enter_context(session.serving(system, cores=CORES[cores]))
            for (what, system), cores in product(systems.items(), CORES)
        }
        for connections, number in product(CONNECTIONS, range(ROUNDS)):
            for (what, cores), server in servers.items():
                own = str(session.load_core) if cores == "one core" else CORES[cores]
                per_s = _answers_per_s(server, image, own, connections, session.scratch)
                found.append(
                    {
                        "server": what,
                        "cores": cores,
                        "connections": connections,
                        "round": number,
                        "per_s": per_s,
                    }
                )
    return found


def _answers_per_s(
    server: Server, image: bytes, cores: str, connections: int, scratch: Path
) -> float:
    """Return what a closed loop of ``wrk`` gets for a turn.

    Raises:
        ServerFailed: something else than answers too.
    """
    dialect = DIALECTS[server.system.dialect]
    script, body = (
        scratch / f"{server.system.dialect}.lua",
        scratch / f"{server.system.dialect}.body",
    )
    body.write_bytes(dialect.wrap(image))
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "{dialect.content_type}"\n'
        f'wrk.body = io.open("{body}", "rb"):read("*all")\n'
    )
    url = f"http://127.0.0.1:{server.port}{dialect.path.format(deadline_ms=1e3 * DEADLINE_S)}"
    command = ["taskset", "--cpu-list", cores, WRK, "-t1", f"-c{connections}", f"-d{TURN_S}s"]
    run = subprocess.run(
        [*command, "-s", str(script), url], capture_output=True, text=True, check=False, timeout=60
    )
    per_s, fault = PER_SECOND.search(run.stdout), FAULTS.search(run.stdout)
    if per_s is None or fault:
        said = fault.group().strip() if fault else run.stderr.strip()
        raise ServerFailed(f"{server.system.name}: wrk got no answers alone: {said}")
    return float(per_s.group(1))
