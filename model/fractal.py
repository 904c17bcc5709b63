"""FractalNet: the expansion rule f_{C+1}(z) = [f_C ∘ f_C](z) ⊕ conv(z), written once (§3, Eq. 1-2).

Every way to run the network (all columns, one column, any set, a drop-path sample) is the same forward with another
``Path``. Only the convolutions that the path needs are executed: a masked one would still feed batch norm.
"""

from collections.abc import Collection, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from model.path import BlockPath, Path, column_path
from model.presets import Architecture

NormMode = Literal["joint", "alone"]
"""Which batch norm a layer uses: "joint" with other columns beside it, "alone" when its column is the network."""


class Layer(Protocol):
    """What a fractal is made of: a module called with (N, C, H, W) and the batch-norm mode."""

    def __call__(self, x: Tensor, mode: NormMode) -> Tensor:
        """Return (N, out_channels, H, W)."""


class LayerFactory(Protocol):
    """Builds the layers of a fractal; ``ConvLayer`` is the paper's, any other of this shape may replace it (§3)."""

    def __call__(
        self, in_channels: int, out_channels: int, *, dropout: float, modes: Sequence[NormMode]
    ) -> nn.Module:
        """Return a module that is a ``Layer``."""


class ConvLayer(nn.Module):
    """Convolution 3×3 → dropout → batch norm → ReLU, with one batch norm for each mode.

    A column alone and a column beside others see differently distributed inputs; one set of statistics for both
    spoils both, so scale, shift and statistics are kept apart. Filters are shared.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, dropout: float, modes: Sequence[NormMode]
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.norms = nn.ModuleDict({mode: nn.BatchNorm2d(out_channels) for mode in modes})
        nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, x: Tensor, mode: NormMode) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        normed: Tensor = self.norms[mode](self.dropout(self.conv(x)))
        return torch.relu(normed)


def join(inputs: Sequence[Tensor]) -> Tensor:
    """Merge the active inputs of a join: their element-wise mean (§3, §3.1).

    Args:
        inputs: one or more tensors of one shape (N, C, H, W).

    Returns:
        (N, C, H, W). The mean is over the inputs given, never over the dropped ones.

    Raises:
        ValueError: no input survived; drop-path must keep at least one.
    """
    if not inputs:
        raise ValueError("a join got no input; at least one must survive")
    total = inputs[0]
    for extra in inputs[1:]:
        total = total + extra
    return total / len(inputs) if len(inputs) > 1 else total


class Fractal(nn.Module):
    """Columns k..C of a block: conv(z) in column k beside two smaller fractals, one after the other.

    Args:
        column: k, the column of this fractal's own layer.
        columns: C, the columns of the block.
        active: the columns to build; the others have no layers here.
    """

    def __init__(
        self,
        column: int,
        columns: int,
        in_channels: int,
        out_channels: int,
        *,
        active: Collection[int],
        layer: LayerFactory,
        dropout: float,
        modes: Sequence[NormMode],
    ) -> None:
        super().__init__()
        self.column = column
        self.rows = 2 ** (columns - column)
        if column in active:
            self.conv = layer(in_channels, out_channels, dropout=dropout, modes=modes)
        if max(active) > column:
            self.first, self.second = (
                Fractal(
                    column + 1,
                    columns,
                    channels,
                    out_channels,
                    active=active,
                    layer=layer,
                    dropout=dropout,
                    modes=modes,
                )
                for channels in (in_channels, out_channels)
            )

    def forward(self, x: Tensor, path: BlockPath, end: int, mode: NormMode) -> list[Tensor]:
        """Return the outputs of the columns that the join at row ``end`` keeps, shallowest first.

        Args:
            x: (N, in_channels, H, W).
            path: the columns kept at each row's join.
            end: the row at which this fractal ends.
            mode: the batch norm to use.

        Returns:
            One (N, out_channels, H, W) for each kept column of this fractal.
        """
        kept = path[end]
        outputs = [self.conv(x, mode)] if self.column in kept else []
        if max(kept) > self.column:
            middle = join(self.first(x, path, end - self.rows // 2, mode))
            outputs += self.second(middle, path, end, mode)
        return outputs


class FractalNet(nn.Module):
    """B fractal blocks, each halving the image, and a linear classifier (§4.1).

    Args:
        architecture: blocks, columns, channels and classes.
        active: the columns to build; all by default. With one column this is a plain network of that depth.
        modes: the batch norms to build; by default both where several columns share the layers.
        layer: what the columns are made of.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        active: Collection[int] | None = None,
        modes: Sequence[NormMode] | None = None,
        layer: LayerFactory = ConvLayer,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.active = frozenset(active or architecture.all_columns)
        self.layer = layer
        self.full_path = self.path_of(self.active)
        both: Sequence[NormMode] = ("alone",) if len(self.active) == 1 else ("joint", "alone")
        inputs = (architecture.in_channels, *architecture.channels[:-1])
        self.blocks = nn.ModuleList(
            Fractal(
                1,
                architecture.columns,
                before,
                after,
                active=self.active,
                layer=layer,
                dropout=dropout,
                modes=modes or both,
            )
            for before, after, dropout in zip(
                inputs, architecture.channels, architecture.dropout, strict=True
            )
        )
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(architecture.channels[-1], architecture.classes)
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def path_of(self, active: Collection[int]) -> Path:
        """Return the path of the subnetwork with these columns."""
        return column_path(
            active, blocks=self.architecture.blocks, columns=self.architecture.columns
        )

    def forward(self, x: Tensor, path: Path | None = None) -> Tensor:
        """Classify normalised images along a path; by default along every column that was built.

        Args:
            x: (N, in_channels, H, W), normalised.
            path: the columns kept at each join.

        Returns:
            Logits (N, classes).
        """
        path = path or self.full_path
        mode: NormMode = "alone" if path.is_alone else "joint"
        for block, block_path in zip(self.blocks, path.blocks, strict=True):
            outputs = block(x, block_path, self.architecture.rows, mode)
            x = join([self.pool(output) for output in outputs])  # (N, channels, H/2, W/2)
        x = x.flatten(1) if self.architecture.final_size == 1 else x.mean((2, 3))
        logits: Tensor = self.classifier(x)
        return logits

    def extract(self, active: Collection[int]) -> "FractalNet":
        """Return a copy with only the layers of ``active`` and only the batch norm that it uses."""
        modes: tuple[NormMode] = ("alone",) if len(frozenset(active)) == 1 else ("joint",)
        subnetwork = FractalNet(self.architecture, active=active, modes=modes, layer=self.layer).to(
            self.classifier.weight.device
        )
        values = self.state_dict()
        subnetwork.load_state_dict({name: values[name] for name in subnetwork.state_dict()})
        return subnetwork.train(self.training)
