"""``python -m benchmarks.stalls``: take a core away from everybody else now and then, as a bad neighbour does.

Needs Linux and the right to a real-time priority. Stalls last 5 to 50 ms, evenly drawn; the gaps between them are
exponential. Ends with SIGTERM.
"""

import argparse
import os
import time
from random import Random

PRIORITY = 50  # of SCHED_FIFO: before every process that has none
STALL_S = (0.005, 0.050)


def main() -> None:
    """Stall a core until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stalls", description=__doc__)
    parser.add_argument("--core", type=int, required=True, help="to be stalled")
    parser.add_argument("--gap-ms", type=float, required=True, help="mean time between stalls")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    rng = Random(options.seed)
    while True:
        time.sleep(rng.expovariate(1000 / options.gap_ms))
        until = time.monotonic() + rng.uniform(*STALL_S)
        while time.monotonic() < until:
            pass


if __name__ == "__main__":
    main()
