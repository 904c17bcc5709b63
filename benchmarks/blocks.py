"""``python -m benchmarks.blocks``: does choosing columns anew in each block move the front of accuracy and latency?

Paths whose blocks keep different columns are searched for on validation images, with batch norm re-estimated for each,
and scored on images that the search has not seen; each block is a graph of its own, timed by itself, so that a path's
latency is the sum of its blocks' runs. Whole subnetworks are beside them.
"""

import argparse
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from model.fractal import FractalNet, join
from model.path import Path as ColumnPath
from model.path import column_path
from training.augment import channel_statistics
from training.checkpoint import load_checkpoint, restore_network
from training.data import load_data
from training.evaluate import predict, score

SETS = tuple(frozenset(s) for s in ((1,), (2,), (1, 2), (3,), (1, 3), (2, 3), (1, 2, 3), (1, 2, 3, 4)))
SEARCH_IMAGES, NORM_IMAGES = 1000, 1500
RUNS = 60
Choice = tuple[frozenset[int], ...]


def path_of(choice: Choice, columns: int) -> ColumnPath:
    blocks = tuple(column_path(kept, blocks=1, columns=columns).blocks[0] for kept in choice)
    return ColumnPath(blocks, is_alone=False)


@torch.no_grad()
def with_norms(network: FractalNet, path: ColumnPath, images: list[Tensor]) -> None:
    """Re-estimate the joint batch norm along a path."""
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    for batch in images:
        network(batch, path)
    network.eval()


class Block(nn.Module):
    def __init__(self, network: FractalNet, index: int, kept: frozenset[int]) -> None:
        super().__init__()
        self.block, self.pool = network.blocks[index], network.pool
        self.path = column_path(kept, blocks=1, columns=network.architecture.columns).blocks[0]
        self.rows = network.architecture.rows

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.block(x, self.path, self.rows, "joint")
        return join([self.pool(output) for output in outputs])


def time_blocks(network: FractalNet, folder: Path) -> dict[tuple[int, frozenset[int]], float]:
    found = {}
    side, channels = network.architecture.image_size, [network.architecture.in_channels, *network.architecture.channels]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    for index, (before, _) in enumerate(pairwise(channels)):
        x = torch.randn(1, before, side >> index, side >> index)
        for kept in SETS:
            file = folder / f"{index}-{'-'.join(map(str, sorted(kept)))}.onnx"
            torch.onnx.export(Block(network, index, kept).eval(), (x,), file, dynamo=False, input_names=["x"])
            session = ort.InferenceSession(file, options)
            times = []
            for _ in range(RUNS):
                at = time.perf_counter()
                session.run(None, {"x": x.numpy()})
                times.append(time.perf_counter() - at)
            found[index, kept] = 1e3 * median(times[10:])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)
    data = load_data(options.data, seed=1)
    network = restore_network(load_checkpoint(options.run), data)
    normalise = channel_statistics(data.train)
    columns, blocks = network.architecture.columns, network.architecture.blocks
    norm = [normalise(images) for images, _ in data.train.batches(torch.split(torch.arange(NORM_IMAGES), 500))]
    search = data.validation.take(torch.arange(SEARCH_IMAGES))
    rest = data.validation.take(torch.arange(SEARCH_IMAGES, len(data.validation)))
    with TemporaryDirectory() as folder:
        block_ms = time_blocks(network, Path(folder))
    cost = lambda choice: sum(block_ms[i, kept] for i, kept in enumerate(choice))
    scored: dict[Choice, float] = {}

    def try_out(choice: Choice) -> None:
        if choice not in scored:
            path = path_of(choice, columns)
            with_norms(network, path, norm)
            scored[choice] = score(predict(network, search, normalise, path), search.labels).accuracy

    def front(values: dict[Choice, float]) -> list[Choice]:
        best: list[Choice] = []
        for choice in sorted(values, key=cost):
            if not best or values[choice] > values[best[-1]]:
                best.append(choice)
        return best

    whole = [(kept,) * blocks for kept in SETS]
    for choice in tqdm(whole):
        try_out(choice)
    until = time.monotonic() + 60 * options.minutes
    bar = tqdm()
    while time.monotonic() < until:
        fresh = [
            near
            for choice in front(scored)
            for index in range(blocks)
            for kept in SETS
            if (near := (*choice[:index], kept, *choice[index + 1 :])) not in scored
        ]
        if not fresh:
            break
        np.random.default_rng(len(scored)).shuffle(fresh := list(dict.fromkeys(fresh)))
        for choice in fresh[:20]:
            try_out(tuple(frozenset(k) for k in choice))
            bar.update()
    chosen = list(dict.fromkeys([*whole, *front(scored)]))
    final = {}
    for choice in chosen:
        path = path_of(choice, columns)
        with_norms(network, path, norm)
        final[choice] = score(predict(network, rest, normalise, path), rest.labels).accuracy
    print(f"{len(scored)} paths tried; validation images not searched on: {len(rest)}")
    for choice in sorted(chosen, key=cost):
        name = " ".join("".join(map(str, sorted(kept))) for kept in choice)
        print(f"{cost(choice):6.2f} ms  {100 * final[choice]:.2f} %  {'whole' if choice in whole else 'blocks'}  {name}")


if __name__ == "__main__":
    main()
