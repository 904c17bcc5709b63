"""Programs of ``torch.export`` as ONNX; the one part of importing that needs torch."""

import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch

from training import TrainingError, first_line
from training.graphs.graph import quiet_exporter


def to_onnx(path: Path) -> onnx.ModelProto:
    """Return the ONNX form of a program that ``torch.export.save`` wrote, for as many images as its example has.

    Raises:
        TrainingError: it is none, or torch cannot export it.
    """
    try:
        with TemporaryDirectory() as folder, quiet_exporter():
            program = torch.export.load(path)
            arguments, keywords = program.example_inputs or ((), {})
            file = Path(folder, "program.onnx")
            torch.onnx.export(
                program.module(check_guards=False),
                arguments,
                file,
                kwargs=keywords,
                dynamo=False,
                do_constant_folding=False,
                training=torch.onnx.TrainingMode.PRESERVE,  # a program has one mode
                input_names=["input"],
                output_names=["output"],
            )
            return onnx.load(file)
    except (RuntimeError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path}: torch cannot make ONNX of it: {first_line(error)}") from error
