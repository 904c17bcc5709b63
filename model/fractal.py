"""FractalNet: the expansion rule f_{C+1}(z) = [f_C ∘ f_C](z) ⊕ conv(z), written once (§3, Eq. 1-2).

Every way to run the network (all columns, one column, any set, a drop-path sample) is the same forward with another
``Path``. Only the convolutions that the path needs are executed: a masked one would still feed batch norm.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial

from torch import Tensor, nn

from model.layers import ConvLayer, LayerFactory, NormMode, build_stem, filters
from model.path import BlockPath, Path
from model.presets import Architecture


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
        in_channels: of the input.
        out_channels: of the join at this fractal's end; a linear projection widens thinner columns to it (Table 1).
        widths: channels of the layers of columns 1..C.
        active: the columns to build; the others have no layers here.
        layer: builds a layer with the given input and output channels.
    """

    def __init__(
        self,
        column: int,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int],
        active: Collection[int],
        layer: Callable[[int, int], nn.Module],
    ) -> None:
        super().__init__()
        self.column = column
        self.rows = 2 ** (len(widths) - column)
        self.widen: nn.Module = nn.Identity()
        if column in active:
            width = widths[column - 1]
            self.conv = layer(in_channels, width)
            if width != out_channels:
                self.widen = filters(width, out_channels, 1)
        if max(active) > column:
            middle = widths[column]  # of the join between the two: column k + 1 is its widest
            self.first, self.second = (
                Fractal(column + 1, before, after, widths=widths, active=active, layer=layer)
                for before, after in ((in_channels, middle), (middle, out_channels))
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
        outputs = [self.widen(self.conv(x, mode))] if self.column in kept else []
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
        layer: what the columns are made of; by default convolutions as the architecture says.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        active: Collection[int] | None = None,
        modes: Sequence[NormMode] | None = None,
        layer: LayerFactory | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.active = frozenset(active or architecture.all_columns)
        self.layer = layer or partial(ConvLayer, convolution=architecture.convolution)
        self.full_path = self.path_of(self.active)
        both: Sequence[NormMode] = ("alone",) if len(self.active) == 1 else ("joint", "alone")
        self.stem = build_stem(architecture.stem, architecture.in_channels)
        self.blocks = nn.ModuleList(
            Fractal(
                1,
                architecture.fractal_inputs[block],
                channels,
                widths=architecture.widths(block),
                active=self.active,
                layer=partial(self.layer, dropout=dropout, modes=modes or both),
            )
            for block, (channels, dropout) in enumerate(
                zip(architecture.channels, architecture.dropout, strict=True)
            )
        )
        self.entries = nn.ModuleList(
            ConvLayer(
                before,
                after,
                dropout=dropout,
                modes=modes or both,
                convolution=architecture.convolution,
                is_pooled=True,
            )
            for before, after, dropout in zip(
                architecture.block_inputs, architecture.channels, architecture.dropout, strict=True
            )
            if architecture.has_entry
        )
        self.pool = nn.Identity() if architecture.has_entry else nn.MaxPool2d(2)
        self.classifier = nn.Linear(architecture.channels[-1], architecture.classes)
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    @property
    def whitening(self) -> nn.Conv2d | None:
        """The stem's convolution where its filters come from the training images."""
        stem = self.architecture.stem
        first = self.stem[0] if stem and stem.is_whitening else None
        assert first is None or isinstance(first, nn.Conv2d)
        return first

    def path_of(self, active: Collection[int]) -> Path:
        """Return the path of the subnetwork with these columns."""
        return self.architecture.path_of(active)

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
        x = self.stem(x)  # (N, C, H, W) of the first block
        for index, (block, block_path) in enumerate(zip(self.blocks, path.blocks, strict=True)):
            if self.entries:
                x = self.entries[index](x, mode)  # (N, channels, H/2, W/2)
            outputs = block(x, block_path, self.architecture.rows, mode)
            x = join([self.pool(output) for output in outputs])  # (N, channels, H/2, W/2)
        x = x.amax((2, 3)) if self.entries else x.mean((2, 3))  # (N, channels)
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
