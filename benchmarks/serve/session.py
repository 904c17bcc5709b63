"""What the parts of a measurement share: servers that run, and the load that is sent to them."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from benchmarks.servers import ROOT, Server, ServerFailed, System, anytime, running
from model.bundle import Bundle

COLLAPSED = 0.05  # no more is to be seen at higher rates
SETTLE_S = 0.5  # at the same rate before what is counted
TRIES = 3  # of a point whose generator lagged
# Of a load in which several take turns: the speed of a machine may change within seconds.
TURN_S = 0.5
TURN_SETTLE_S = 0.25  # before it, at the same rate, until what the turn before has left is gone
TURN_LOADS = 4  # at most, of a point


@dataclass
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
    def subnetworks(self) -> list[str]:
        """All, the one that costs least first."""
        return [each.name for each in self.bundle.manifest.subnetworks]

    @property
    def shallowest(self) -> str:
        """The subnetwork that costs least."""
        return self.subnetworks[0]

    @property
    def deepest(self) -> str:
        """The subnetwork that costs most."""
        return self.subnetworks[-1]

    def graph(self, name: str) -> Path:
        """Return the file of a subnetwork, in the precision that ours has found to be the faster one here."""
        ending = ".int8.onnx" if self._precisions[name] == "int8" else ".onnx"
        return (self.bundle.folder / f"{name}{ending}").resolve()

    @cached_property
    def _precisions(self) -> dict[str, str]:
        """That of each subnetwork."""
        with self.serving(anytime(self.bundle.folder, "anytime")) as server:
            url = f"http://127.0.0.1:{server.port}/subnetworks"
            listed = httpx.get(url).raise_for_status().json()["subnetworks"]
        return {each["name"]: each["precision"] for each in listed}

    def leave_out(self, what: str) -> None:
        """Have the report say what was not measured, and why."""
        print(f"  {what}", flush=True)
        self.found.setdefault("failures", []).append(what)

    @contextmanager
    def serving(self, system: System, *, cores: str | None = None) -> Iterator[Server]:
        """Run a server, on its own cores unless others are named."""
        image = next(self.images.glob("*/*.jp*g")).read_bytes()
        log = self.scratch / f"{system.name.replace(' ', '-').replace(':', '-')}.log"
        with running(system, core=cores or self.server_cores, image=image, log=log) as server:
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

    def turns(
        self,
        server: Server,
        rates: Sequence[float],
        queries: Sequence[str],
        *,
        rounds: int,
        connections: int = 512,
    ) -> list[list[dict[str, Any]]]:
        """Return the figures of each round of a load in which several take turns, but for those in which the generator lagged.

        Every other round takes them in the opposite order, so that each comes behind others as often. It is sent again where
        fewer than half of the rounds are left.

        Args:
            server: is sent all of them.
            rates: of each.
            queries: what each asks.
            rounds: each with one turn of each; an even number.
            connections: of the load.
        """
        there_and_back = [*range(len(rates)), *reversed(range(len(rates)))]
        phases = [
            f"{rates[turn]}:{seconds}"
            for turn in there_and_back * (rounds // 2)
            for seconds in (TURN_SETTLE_S, TURN_S)
        ]
        words = [word for phase in phases for word in ("--phase", phase)]
        words += ["--query", *(queries[turn] for turn in there_and_back for _ in range(2))]
        common = ("--deadline-ms", self.deadline_ms, "--connections", connections)
        kept: list[list[dict[str, Any]]] = []
        for seed in range(TURN_LOADS):
            counted = self.measure(server, *words, *common, "--seed", 1000 * seed)[1::2]
            n = len(rates)
            every = [counted[first : first + n] for first in range(0, len(counted), n)]
            every[1::2] = [each[::-1] for each in every[1::2]]
            kept += [each for each in every if not any(turn["lagging"] for turn in each)]
            if len(kept) >= rounds / 2:
                break
        return kept

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
