"""Programs of ``torch.export`` as ONNX; the one part of importing that needs torch."""

import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from torch import Tensor, fx

from training import TrainingError, first_line
from training.graphs.graph import quiet_exporter


def to_onnx(path: Path) -> onnx.ModelProto:
    """Return the ONNX form of a program that ``torch.export.save`` wrote.

    What is open of its images' shape stays open; else it is for as many images as its example has.

    Raises:
        TrainingError: it is none, or torch cannot export it.
    """
    try:
        with TemporaryDirectory() as folder, quiet_exporter():
            program = torch.export.load(path)
            module = program.module(check_guards=False)
            assert isinstance(module, fx.GraphModule)
            module._forward_pre_hooks.clear()  # the tracer cannot follow their checks of open shapes
            open_dims = _open_dims(module)
            _follow_sizes(module)
            arguments, keywords = program.example_inputs or ((), {})
            file = Path(folder, "program.onnx")
            torch.onnx.export(
                _ByPosition(module, len(arguments), tuple(keywords)),
                (*arguments, *keywords.values()),
                file,
                dynamo=False,
                do_constant_folding=False,
                training=torch.onnx.TrainingMode.PRESERVE,  # a program has one mode
                input_names=["input"],
                output_names=["output"],
                dynamic_axes={"input": open_dims},
            )
            return onnx.load(file)
    except (RuntimeError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path}: torch cannot make ONNX of it: {first_line(error)}") from error


class _ByPosition(torch.nn.Module):
    """A program whose tensors come one after the other, those by keyword too, as the exporter hands them over."""

    def __init__(self, program: fx.GraphModule, positional: int, keywords: tuple[str, ...]) -> None:
        super().__init__()
        self.program = program
        self._positional = positional
        self._keywords = keywords
        self.training = program.training

    def forward(self, *tensors: Tensor) -> Any:
        """Run the program."""
        first, others = tensors[: self._positional], tensors[self._positional :]
        return self.program(*first, **dict(zip(self._keywords, others, strict=True)))


def _open_dims(module: fx.GraphModule) -> dict[int, str]:
    """Return the dimensions of a program's first input that are open, with names."""
    images = next((node for node in module.graph.nodes if node.op == "placeholder"), None)
    shape = getattr(images and images.meta.get("val"), "shape", ())
    return {n: f"dim{n}" for n, size in enumerate(shape) if isinstance(size, torch.SymInt)}


def _follow_sizes(module: fx.GraphModule) -> None:
    """Have what depends on an open size call tensors' methods: in what calls operators, the tracer takes sizes for fixed."""
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.sym_size.int:
            node.op, node.target = "call_method", "size"
        elif isinstance(node.target, torch._ops.OpOverload) and any(map(_is_size, node.args)):
            name = node.target.overloadpacket.__name__.removeprefix("_unsafe_")
            if hasattr(Tensor, name):
                node.op, node.target = "call_method", name
    module.recompile()


def _is_size(argument: Any) -> bool:
    """Return whether an argument of a node is an open size, or has one in it."""
    if isinstance(argument, fx.Node):
        return isinstance(argument.meta.get("val"), torch.SymInt)
    return isinstance(argument, list | tuple) and any(map(_is_size, argument))
