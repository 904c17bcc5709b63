"""``python -m tests.hostile.fuzz --inputs 1000000``: hostile inputs for every reader, until one is wrong.

They are made of the corpus: bits flipped, bytes changed, parts cut out, doubled, or exchanged with another's, numbers made
extreme. The seed makes a run again. Where a reader crashes the process, the last input is in ``--keep``. It ends with a
table: inputs, the share that was read rather than refused, the longest time for one, and how much the process has grown.
"""

import argparse
import faulthandler
import resource
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.hostile.readers import READERS
from tests.hostile.seeds import read_corpus

EXTREMES = [
    b"\0",
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"-1",
    b"1e999",
    b"nan",
    b"\r\n",
    b"%00",
    b"[" * 64,
    b'"',
    b"9" * 30,
]
MOST_CHANGES = 6
MOST_BYTES = 65_536
SLOW_S = 1.0  # for an input of a few kilobytes, on a machine that does other things too
GROWTH_FROM = 0.2  # of the inputs; by then every cache is filled


def mutate(content: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """Return an input that is like another one, but for a few changes."""
    data = bytearray(content)
    for _ in range(rng.randint(1, MOST_CHANGES)):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 8, rng.randint(1, 256)))
        match rng.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.randrange(256)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length] * rng.choice((1, 1, 2, 16))
            case 4:
                data[at:at] = rng.choice(EXTREMES)
            case 5:
                number = rng.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1))
                data[at : at + 4] = struct.pack(rng.choice("<>") + "I", number)
            case 6:
                other = rng.choice(others)
                begin = rng.randrange(len(other) + 1)
                data[at : at + length] = other[begin : begin + length]
            case _:
                del data[rng.randrange(len(data) + 1) :]
    return bytes(data[:MOST_BYTES])


def fuzz(reader: str, inputs: int, *, seed: int, keep: Path | None = None) -> str:
    """Give a reader many inputs; return a line of the table.

    Raises:
        Exception: what the reader raised that is no refusal of its own.
    """
    read, seeds, rng = READERS[reader], read_corpus(reader), Random(f"{reader} {seed}")
    taken, longest_s, grown_from = 0, 0.0, 0
    for n in range(inputs):
        if n == int(inputs * GROWTH_FROM):
            grown_from = _peak_kib()
        content = mutate(rng.choice(seeds), seeds, rng)
        if keep is not None:
            keep.write_bytes(content)
        began_at = time.perf_counter()
        taken += read(content)
        longest_s = max(longest_s, time.perf_counter() - began_at)
    grown = (_peak_kib() - grown_from) / 1024
    return (
        f"{reader:<10} {inputs:>9,} {taken / inputs:>7.1%} {1e3 * longest_s:>10.1f} {grown:>8.1f}"
    )


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Fuzz all readers, or one."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=__doc__)
    parser.add_argument("--reader", choices=READERS, action="append")
    parser.add_argument("--inputs", type=int, default=100_000, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("/dev/shm/hostile-input"))
    options = parser.parse_args()
    faulthandler.enable()
    print(f"{'reader':<10} {'inputs':>9} {'read':>7} {'longest ms':>10} {'grown MiB':>8}")
    for reader in options.reader or READERS:
        try:
            print(fuzz(reader, options.inputs, seed=options.seed, keep=options.keep), flush=True)
        except Exception as error:
            sys.exit(f"{reader}: {type(error).__name__}: {error}; the input is {options.keep}")


if __name__ == "__main__":
    main()
