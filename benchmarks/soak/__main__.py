"""``python -m benchmarks.soak``: a server under all kinds of clients for a long time, and a ledger of every request.

Valid, invalid, slow, half-closing, vanishing and hostile clients ask at once, at a share of what the server holds. What
the clients saw is held against what the server counted, and its memory, descriptors and threads are watched. The clients
take time of the same cores: the capacity is measured with them, in a closed loop.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import uvloop
from PIL import Image

from benchmarks.conditions import describe_conditions
from benchmarks.servers import ROOT, Server, anytime, running
from benchmarks.soak.clients import KINDS, Client, Site, read_corpus, valid
from benchmarks.soak.ledger import ANSWERED, Look, agrees, counted, fetched, look_at, slope
from model.bundle import PRETRAINED_DIR, read_bundle

CLOSED_LOOP = 8  # clients that ask without a pause, to measure the capacity
CAPACITY_S = 8
PATIENT_MS = 10_000.0  # their deadline: none of them is refused
LOOKS = 120  # at the server, in each phase
TOLD_EVERY = 10  # looks
MOST_UNDER_WAY = 4000  # requests; what is due beyond that is not sent, and counted
SETTLE_S = 3.0  # for counts of the fronts to reach the engine, and for connections to end
ASK_APART = """
import http.client, json, sys, time
port, deadline_ms = sys.argv[1:]
image, began_at = sys.stdin.buffer.read(), time.monotonic()
server = http.client.HTTPConnection("127.0.0.1", int(port))
server.request("POST", f"/classify?deadline_ms={deadline_ms}", image)
reply = server.getresponse()
in_time = json.loads(reply.read()).get("in_time", False)
print(json.dumps({"status": reply.status, "in_time": in_time, "ms": round(1e3 * (time.monotonic() - began_at), 1)}))
"""


async def capacity(site: Site) -> int:
    """Return how many requests with time to spare a closed loop gets answered by the fastest subnetwork, in its best second."""
    listed = json.loads(fetched(site.port, "/subnetworks"))["subnetworks"]
    patient = replace(
        site, deadline_ms=PATIENT_MS, query=f"&subnetwork={listed[0]['name']}", idle=[]
    )
    began_at = time.monotonic()
    answered: Counter[int] = Counter()

    async def ask() -> None:
        while (second := int(time.monotonic() - began_at)) < CAPACITY_S:
            if await valid(patient) == "in_time":
                answered[second] += 1

    await asyncio.gather(*(ask() for _ in range(CLOSED_LOOP)))
    for _, writer in patient.idle:
        writer.close()
    return max(answered.values())


async def send(site: Site, rate: float, seconds: float) -> dict[str, Counter[str]]:
    """Send requests of all kinds at a rate, and return the fates of each kind."""
    ledger: dict[str, Counter[str]] = {kind.__name__: Counter() for kind in KINDS}
    under_way: set[asyncio.Task[None]] = set()

    async def one(kind: Client) -> None:
        try:
            fate = await kind(site)
        except (OSError, EOFError, ValueError, TimeoutError):
            fate = "broken"
        ledger[kind.__name__][fate] += 1

    began_at = due_at = time.monotonic()
    while due_at < began_at + seconds:
        await asyncio.sleep(max(due_at - time.monotonic(), 0))
        (kind,) = site.rng.choices(list(KINDS), weights=list(KINDS.values()))
        if len(under_way) < MOST_UNDER_WAY:
            task = asyncio.create_task(one(kind))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        else:
            ledger[kind.__name__]["unsent"] += 1
        due_at += site.rng.expovariate(rate)
    while under_way:
        await asyncio.wait(under_way)
    return ledger


async def watch(server: Server, looks: list[Look], every_s: float) -> None:
    """Look at the server now and then, until cancelled."""
    while True:
        look = await asyncio.to_thread(look_at, server)
        looks.append(look)
        if len(looks) % TOLD_EVERY == 0:
            memory = {name: round(mib, 1) for name, mib in look.anonymous_by_name.items()}
            told = {"after_s": round(look.at - looks[0].at), "anonymous_mib": memory}
            told |= {"descriptors": look.descriptors, "threads": look.threads}
            print(json.dumps(told), file=sys.stderr, flush=True)
        await asyncio.sleep(every_s)


async def phase(server: Server, site: Site, rate: float, seconds: float) -> dict[str, Any]:
    """Send a load, and return what the clients and the server say of it."""
    before, first, looks = counted(site.port), look_at(server), list[Look]()
    sent_again = site.sent_again
    watching = asyncio.create_task(watch(server, looks, seconds / LOOKS))
    began_at = time.monotonic()
    ledger = await send(site, rate, seconds)
    took_s = time.monotonic() - began_at
    watching.cancel()
    while site.idle:
        site.idle.pop()[1].close()
    await asyncio.sleep(SETTLE_S)
    last, after = look_at(server), counted(site.port)
    seen = sum(ledger.values(), Counter[str]())
    told = after - before
    held = {each: ledger["valid"][each] for each in ("in_time", "late", "expired")}
    lasting = sorted(set(first.anonymous_by_name) & set(last.anonymous_by_name))
    at = [look.at for look in looks]
    return {
        "rate_per_s": round(rate),
        "seconds": seconds,
        "sent_per_s": round(sum(seen.values()) / took_s),
        "ledger": {kind: dict(fates) for kind, fates in ledger.items()},
        "seen": {each: seen[each] for each in ANSWERED},
        "told": {each: told[each] for each in (*ANSWERED, "abandoned")},
        "vanished": seen["vanished"],
        "broken": seen["broken"],
        "unsent": seen["unsent"],
        "sent_again": site.sent_again - sent_again,
        "deadline_held": held["in_time"] / max(sum(held.values()), 1),
        "memory_mib": [round(look.memory_mib, 1) for look in (first, last)],
        "anonymous_mib": [round(look.anonymous_mib, 1) for look in (first, last)],
        "slope_percent_an_hour": {
            "memory": slope(at, [look.memory_mib for look in looks]),
            "anonymous": slope(at, [look.anonymous_mib for look in looks]),
        },
        "anonymous_by_process": {
            each: {
                "mib": [round(look.anonymous_by_name[each], 1) for look in (first, last)],
                "slope": slope(at, [look.anonymous_by_name.get(each, 0.0) for look in looks]),
            }
            for each in lasting
        },
        "descriptors": [first.descriptors, last.descriptors],
        "threads": [first.threads, last.threads],
    }


async def burst_of_large_images(site: Site, count: int) -> dict[str, Any]:
    """Send so many JPEGs of 1500 × 1500 at once, a second later one small image; say what became of them."""
    noise = np.random.default_rng(0).integers(0, 256, (94, 94, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(noise).resize((1500, 1500)).save(file, "JPEG", quality=90)
    large = Site(site.port, [file.getvalue()], [], site.deadline_ms, site.rng)
    asked = [asyncio.create_task(valid(large)) for _ in range(count)]
    await asyncio.sleep(1.0)
    began_at = time.monotonic() - 1.0
    # Apart from these clients, whose event loop is as busy as the server.
    command = (sys.executable, "-c", ASK_APART, str(site.port), f"{site.deadline_ms:g}")
    apart = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await apart.communicate(images_of(32)[0])
    fates = Counter(await asyncio.gather(*asked))
    took_s = time.monotonic() - began_at
    return {
        "kib_each": round(len(file.getvalue()) / 1024),
        "large": dict(fates),
        "all_ended_after_s": round(took_s, 1),
        "small_a_second_later": json.loads(told),
    }


async def soak(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the capacity, if it is not known, then send each phase."""
    site = Site(
        server.port,
        images_of(options.side),
        read_corpus(ROOT / "tests/hostile/corpus"),
        options.deadline_ms,
        Random(options.seed),
    )
    holds = options.holds or await capacity(site)
    report: dict[str, Any] = {"deadline_ms": options.deadline_ms, "holds_per_s": holds}
    report["phases"] = []
    for share, seconds in options.phase:
        report["phases"].append(
            {"share": share, **await phase(server, site, share * holds, seconds)}
        )
        print(json.dumps(report["phases"][-1]), file=sys.stderr, flush=True)
    if options.large:
        report["burst"] = await burst_of_large_images(site, options.large)
    return report


def images_of(side: int) -> list[bytes]:
    """Return the samples as JPEG files of so many pixels each way."""
    files = []
    for path in sorted((ROOT / "docs/samples").glob("*.jpg")):
        file = BytesIO()
        with Image.open(path) as image:
            image.convert("RGB").resize((side, side)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def main() -> int:
    """Run a server, soak it, and print the report."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its server ends with it
    system = anytime(options.bundle, "anytime")
    os.sched_setaffinity(0, {options.core})
    to = {"core": options.server_core, "log": options.log}
    with running(system, image=images_of(options.side)[0], **to) as server:
        report = uvloop.run(soak(server, options))
    print(json.dumps({"conditions": describe_conditions(read_bundle(options.bundle)), **report}))
    is_even = all(
        agrees(each["seen"], each["told"], each["vanished"] + each["broken"])
        for each in report["phases"]
    )
    return 0 if is_even else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=PRETRAINED_DIR / "cifar10")
    parser.add_argument(
        "--phase", type=_phase, action="append", metavar="SHARE:SECONDS", default=[],
        help="of the capacity, for so long; several follow each other",
    )  # fmt: skip
    parser.add_argument(
        "--side", type=int, default=768,
        help="pixels of the images each way; of smaller ones the server holds more than these clients send",
    )  # fmt: skip
    parser.add_argument("--deadline-ms", type=float, default=100.0)
    parser.add_argument(
        "--holds", type=int, default=0, help="requests a second: the capacity, where it is known"
    )
    parser.add_argument(
        "--large", type=int, default=0, help="JPEGs of 1500 × 1500 at once, in the end"
    )
    parser.add_argument("--core", type=int, default=1, help="of the clients")
    parser.add_argument("--server-core", default="0", help="or several, as taskset writes them")
    parser.add_argument("--log", type=Path, default=Path("soak.log"), help="gets its output")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _phase(text: str) -> tuple[float, float]:
    share, seconds = text.split(":")
    return float(share), float(seconds)


if __name__ == "__main__":
    sys.exit(main())
