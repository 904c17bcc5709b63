"""What the parts of a measurement share: servers that run, and the load that is sent to them."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.servers import ROOT, Server, ServerFailed, System, running
from model.bundle import Bundle

COLLAPSED = 0.05  # no more is to be seen at higher rates
SETTLE_S = 0.5  # at the same rate before what is counted
TRIES = 3  # of a point whose generator lagged


@dataclass(slots=True)
class Session:
    """What the parts share: where things are, how long a point lasts, and what was found.

    Args:
        bundle: what is served.
        images: folder of labelled images.
        environments: folder of the peers' virtual environments.
        seconds: of a point.
        deadline_ms: of the requests, but for those asked one after the other.
        end_at: when the budget is spent, on the monotonic clock.
        server_cores: of the server, as taskset writes them.
        load_core: of the load generator.
    """

    bundle: Bundle
    images: Path
    environments: Path
    scratch: Path
    seconds: float
    deadline_ms: float
    end_at: float
    server_cores: str = "0"
    load_core: int = 1
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def policies(self) -> list[str]:
        """Ours, and each subnetwork alone."""
        names = [each.name for each in self.bundle.manifest.subnetworks]
        return ["anytime", *(f"static:{name}" for name in names)]

    @property
    def shallowest(self) -> str:
        """The subnetwork that costs least."""
        return self.bundle.manifest.subnetworks[0].name

    @property
    def deepest(self) -> str:
        """The subnetwork that costs most."""
        return self.bundle.manifest.subnetworks[-1].name

    def graph(self, name: str) -> Path:
        """Return the file of a subnetwork; of its precisions the one that ours keeps on a processor."""
        small = self.bundle.folder / f"{name}.int8.onnx"
        return (small if small.exists() else self.bundle.folder / f"{name}.onnx").resolve()

    @contextmanager
    def serving(self, system: System) -> Iterator[Server]:
        """Run a server."""
        image = next(self.images.glob("*/*.jp*g")).read_bytes()
        log = self.scratch / f"{system.name.replace(' ', '-').replace(':', '-')}.log"
        with running(system, core=self.server_cores, image=image, log=log) as server:
            yield server

    def load(self, server: Server, *arguments: object) -> subprocess.Popen[str]:
        """Start the load generator on a server."""
        command = server.load_command(
            self.bundle.folder, self.images, *arguments, core=self.load_core
        )
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def measure(self, server: Server, *arguments: object) -> list[dict[str, Any]]:
        """Return the load generator's figures of each phase.

        Raises:
            ServerFailed: there are none.
        """
        load = self.load(server, *arguments)
        output, _ = load.communicate()
        if load.returncode:
            raise ServerFailed(f"{server.system.name}: no load could be sent ({arguments})")
        phases: list[dict[str, Any]] = json.loads(output)
        return phases

    def point(
        self, server: Server, rate: float, seed: int, connections: int = 512
    ) -> dict[str, Any] | None:
        """Return the figures at a rate; None if the generator lagged at every try."""
        for attempt in range(TRIES):
            arguments: tuple[object, ...] = ("--deadline-ms", self.deadline_ms)
            arguments += ("--seed", 100 * seed + attempt, "--connections", connections)
            phases = ("--phase", f"{rate}:{SETTLE_S}", "--phase", f"{rate}:{self.seconds}")
            _, figures = self.measure(server, *phases, *arguments)
            if not figures["lagging"]:
                return {"system": server.system.name, "rate": rate, "seed": seed, **figures}
        print(f"  {server.system.name} at {rate}/s: thrown out, the generator lagged")
        return None
