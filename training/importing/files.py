"""A network's file as it is: whether it is ONNX, what it takes and gives, and how it is read."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, external_data_helper, inliner

from model.graph_file import STANDARD_DOMAINS
from model.manifest import Source
from training import TrainingError, first_line

Layout = Literal["nchw", "nhwc"]

OLDEST_OPSET = 7  # ONNX Runtime's oldest, and the first that broadcasts as NumPy does
INPUT_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.DOUBLE: "float64",
    TensorProto.UINT8: "uint8",
}
OUTPUT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
ARCHIVE, HDF5 = (
    b"PK",
    b"\x89HDF",
)  # the first bytes of PyTorch's and Keras' files, and of Keras' older ones
EXPORT_IT = "export it with torch.onnx.export or tf2onnx, or save it with torch.export.save as .pt2"


@dataclass(frozen=True, slots=True)
class Network:
    """A classifier of one's own, before anything is done to it.

    Attributes:
        source: its file.
        model: the graph with its weights; functions are unfolded.
        input: the name of the one tensor that it takes, (N, channels, H, W) or (N, H, W, channels).
        type: that tensor's, of ``TensorProto``.
        layout: where the channels are.
        channels: 3, or 1 for grey.
        side: height and width in pixels, where the file says them.
        batch: the number of images that it is fixed to; None where that is open.
        output: the one tensor that it gives.
    """

    source: Source
    model: onnx.ModelProto
    input: str
    type: int
    layout: Layout
    channels: int
    side: int | None
    batch: int | None
    output: onnx.ValueInfoProto

    @property
    def name(self) -> str:
        """What its subnetwork is called: the stem of its file, with hyphens for what is in no name."""
        stem = Path(self.source.file).stem
        return re.sub("[^A-Za-z0-9_]+", "-", stem).strip("-_") or "network"

    @property
    def takes(self) -> str:
        """What it takes, in words."""
        side, batch = self.side or "?", self.batch or "N"
        dims = (self.channels, side, side) if self.layout == "nchw" else (side, side, self.channels)
        shape = ", ".join(map(str, (batch, *dims)))
        raw = ", bytes as they are whatever --mean and --std" if self.takes_bytes else ""
        return f"{self.input!r}, {INPUT_TYPES[self.type]} ({shape}){raw}"

    @property
    def takes_bytes(self) -> bool:
        """Whether its images are bytes, which it normalises itself."""
        return self.type == TensorProto.UINT8


def read_network(path: Path, layout: Layout | None) -> Network:
    """Read a file, and see whether it can be a classifier of images.

    Args:
        path: of an ONNX file, or of a program of ``torch.export.save``.
        layout: where the channels are, if the file does not tell.

    Raises:
        TrainingError: it cannot; one line says why.
    """
    model = _read(path)
    _check_opset(path, model)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [each for each in graph.input if each.name not in weights]
    if len(inputs) != 1:
        raise TrainingError(
            f"{path}: takes {len(inputs)} inputs ({_names(inputs)}); a classifier takes one, the images"
        )
    if len(graph.output) != 1:
        raise TrainingError(
            f"{path}: gives {len(graph.output)} outputs ({_names(graph.output)}); a classifier gives one, a number "
            "for each class; export it without the others"
        )
    (given,), (output,) = inputs, graph.output
    kind = given.type.tensor_type.elem_type
    if kind not in INPUT_TYPES:
        raise TrainingError(
            f"{path}: takes {_type_name(kind)}; images are {', '.join(INPUT_TYPES.values())}"
        )
    kind_given = output.type.tensor_type.elem_type
    if kind_given not in OUTPUT_TYPES:
        raise TrainingError(
            f"{path}: gives {_type_name(kind_given)}; a classifier gives a float for each class"
        )
    shape = [dim.dim_value or None for dim in given.type.tensor_type.shape.dim]
    found, channels = _layout_of(path, shape, layout)
    height, width = shape[2:] if found == "nchw" else shape[1:3]
    if height and width and height != width:
        raise TrainingError(f"{path}: takes {height}×{width}; images are squares here")
    return Network(
        Source(file=path.name, sha256=_sha256(path)),
        model,
        input=given.name,
        type=kind,
        layout=found,
        channels=channels,
        side=height or width,
        batch=shape[0],
        output=output,
    )


def _read(path: Path) -> onnx.ModelProto:
    """Return what a file holds, with its weights."""
    if path.is_dir():
        raise TrainingError(f"{path}: is a folder; name the ONNX files in it")
    with path.open("rb") as file:
        head = file.read(4)
    if path.suffix == ".pt2" and head.startswith(ARCHIVE):
        model = _to_onnx(path)
    elif head.startswith((ARCHIVE, HDF5)):
        raise TrainingError(f"{path}: is no ONNX file but one of PyTorch's or Keras'; {EXPORT_IT}")
    else:
        model = _read_onnx(path)
    return inliner.inline_local_functions(model) if model.functions else model


def _to_onnx(path: Path) -> onnx.ModelProto:
    """Return the ONNX form of a program of PyTorch's, which needs torch."""
    try:
        pytorch = import_module("training.importing.pytorch")
    except ModuleNotFoundError as error:
        raise TrainingError(
            f"{error.name} is not installed, which a .pt2 file needs: pip install 'anytime-inference[cpu,train]'"
        ) from error
    model: onnx.ModelProto = pytorch.to_onnx(path)
    return model


def _read_onnx(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise TrainingError(f"{path}: is no ONNX file; {EXPORT_IT}") from error
    if not model.graph.node:
        raise TrainingError(f"{path}: is no ONNX file, or one without operators; {EXPORT_IT}")
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # its own checks raise several kinds
        files = {
            entry.value
            for tensor in model.graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        raise TrainingError(
            f"{path}: its weights are in {', '.join(sorted(files))}, which is missing or damaged; it belongs beside "
            f"the file ({first_line(error)})"
        ) from error
    return model


def _check_opset(path: Path, model: onnx.ModelProto) -> None:
    for opset in model.opset_import:
        if opset.domain in STANDARD_DOMAINS and opset.version < OLDEST_OPSET:
            raise TrainingError(
                f"{path}: is of opset {opset.version}; {OLDEST_OPSET} is the oldest that ONNX Runtime runs; export it again"
            )


def _layout_of(path: Path, shape: list[int | None], told: Layout | None) -> tuple[Layout, int]:
    """Return where the channels are, and how many; a dimension that is open is None."""
    if len(shape) != 4:
        dims = ", ".join("?" if dim is None else str(dim) for dim in shape)
        raise TrainingError(
            f"{path}: takes ({dims}); images are (N, channels, H, W) or (N, H, W, channels)"
        )
    channels: dict[Layout, int | None] = {"nchw": shape[1], "nhwc": shape[3]}
    fitting = [layout for layout in get_args(Layout) if channels[layout] in (1, 3)]
    if told:
        fitting = [told]
    if not fitting:
        if None in channels.values():
            raise TrainingError(
                f"{path}: does not say where the channels are; say it with --layout"
            )
        raise TrainingError(
            f"{path}: takes {' or '.join(map(str, channels.values()))} channels; images have 3, or 1 in grey"
        )
    layout = fitting[0]
    found = channels[layout] or 3
    if found not in (1, 3):
        raise TrainingError(
            f"{path}: has {found} channels in {layout}; images have 3, or 1 in grey"
        )
    return layout, found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names(values: Iterable[onnx.ValueInfoProto]) -> str:
    return ", ".join(each.name for each in values)


def _type_name(kind: int) -> str:
    return TensorProto.DataType.Name(kind).lower() if kind else "no tensor"
