"""From networks of one's own to a bundle: each is wrapped and measured on the same images, those that none beats are kept."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from tqdm import tqdm

from model.bundle import (
    WEIGHTS_FILE,
    check_name,
    check_target,
    file_record,
    read_bundle,
    staged_folder,
    write_manifest,
)
from model.manifest import (
    FORMAT_VERSION,
    Accuracy,
    Imported,
    Manifest,
    Quantised,
    Subnetwork,
)
from model.provenance import made_now
from training import TrainingError
from training.export.choice import Right, with_expected
from training.graphs.edits import set_temperature
from training.graphs.quantise import CALIBRATION_IMAGES, quantise
from training.graphs.scores import calibration, fit_temperature, share
from training.graphs.weights_file import WeightsFile
from training.importing import counting
from training.importing.comparing import (
    Candidate,
    Measured,
    Report,
    doubt,
    front,
    logits_of_each,
    measure,
)
from training.importing.files import Network
from training.importing.images import MeasuredImages
from training.importing.joining import Beside, inherited, joint_precision
from training.importing.mirroring import with_mirrored
from training.importing.probing import write_wrapped
from training.importing.wrapping import Normalisation

PROBE_IMAGES = 8  # that tell what a network gives
LEAST_IMAGES = 20  # half of them fit temperatures, the other half say how good they are

ImportPrecision = Literal["float32", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What networks are measured on.

    Attributes:
        name: of the images' folder, or of the data set.
        labels: of the classes, in order.
        validation: images to choose by.
        test: images to publish figures of, where there are some apart.
    """

    name: str
    labels: tuple[str, ...]
    validation: MeasuredImages
    test: MeasuredImages | None

    @property
    def fitted(self) -> slice:
        """The validation images that temperatures are fitted to: every other one where no test images are apart."""
        return slice(None) if self.test else slice(0, None, 2)


@dataclass(frozen=True, slots=True)
class Written:
    """A network that was written into the bundle, and what its logits are divided by."""

    measured: Measured
    graph: Path
    int8: Path | None
    temperature: float


def import_bundle(
    networks: Sequence[Network],
    data: Data,
    target: Path,
    *,
    name: str,
    normalisation: Normalisation,
    besides: Sequence[Beside],
    keep: Collection[str] | None,
    leave_out: Collection[str],
    mirror: Collection[str],
    precision: ImportPrecision,
    report: Report,
) -> Manifest:
    """Write a bundle of those networks that none beats.

    A network is beaten by one that is no slower on this machine's CPU, takes no more multiply-adds, and is less accurate on
    the validation images by no more than chance explains.

    Args:
        networks: as they were read.
        data: images and labels.
        target: the bundle's folder.
        name: the bundle's.
        normalisation: what the images are shifted and scaled by.
        besides: bundles whose subnetworks are compared with them, and kept, too.
        keep: names of subnetworks that are kept whatever beats them; None keeps all.
        leave_out: names of those that are not looked at.
        mirror: names of those that are looked at once more, answering to each image and its mirror image.
        precision: with int8, the networks are written in 8-bit integers too.
        report: is told what was found, a line at a time.

    Raises:
        BundleError: the name cannot be a bundle's, or something else than a bundle is at ``target``.
        ExceptionGroup: of ``TrainingError``, one for each network that cannot be served.
        TrainingError: they cannot be measured.
    """
    check_name(name)
    check_target(target)
    n = len(data.validation.labels)
    if n < LEAST_IMAGES:
        raise TrainingError(f"{data.name}: holds {n} images; at least {LEAST_IMAGES} are needed")
    with TemporaryDirectory() as folder:
        candidates = _wrapped(networks, data, Path(folder), normalisation, report)
        candidates += [each for beside in besides for each in beside.candidates()]
        _check_named("--mirror", mirror, candidates)
        twice = [each for each in candidates if each.name in mirror]
        candidates += [with_mirrored(each, Path(folder)) for each in twice]
        keep = _known(candidates, keep, leave_out)
        candidates = [each for each in candidates if each.name not in leave_out]
        kept = front(measure(candidates, data.validation), report, keep=keep)
        for each in kept:
            doubt(each, len(data.labels), report)
        with staged_folder(target) as staged:
            written = _write(kept, data, staged, precision, report)
            subnetworks = _scored(written, data)
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                name=name,
                preprocessing=data.validation.preprocessing,
                labels=data.labels,
                precision=joint_precision(besides, subnetworks),
                weights=file_record(staged / WEIGHTS_FILE),
                subnetworks=subnetworks,
                **inherited(besides, {each.network for each in subnetworks}),
                imported=Imported(
                    images=data.name,
                    images_sha256=data.validation.sha256,
                    **made_now("onnx"),
                ),
            )
            write_manifest(staged, manifest)
            read_bundle(staged)  # as the server will
    return manifest


def _wrapped(
    networks: Sequence[Network],
    data: Data,
    folder: Path,
    normalisation: Normalisation,
    report: Report,
) -> list[Candidate]:
    """Wrap every network, and say what each was found to be."""
    images = data.validation.some(PROBE_IMAGES)
    candidates: list[Candidate] = []
    faults: list[TrainingError] = []
    for number, network in enumerate(networks):
        own = folder / str(number)
        try:
            path, answers = write_wrapped(network, own, images, normalisation, len(data.labels))
        except TrainingError as error:
            faults.append(error)
            continue
        gives = "probabilities" if answers.are_probabilities else "logits"
        opened = f"; its batch of {network.batch} is open now" if network.batch else ""
        report(f"{network.source.file}: takes {network.takes}, gives {gives}{opened}")
        candidates.append(
            Candidate(
                name=network.name,
                graph=path,
                macs=counting.macs(path, images[:1]),
                parameters=counting.parameters(onnx.load(path, load_external_data=False).graph),
                source=network.source,
            )
        )
    if faults:
        raise ExceptionGroup("networks that cannot be served", faults)
    return candidates


def _known(
    candidates: Sequence[Candidate], keep: Collection[str] | None, leave_out: Collection[str]
) -> Collection[str]:
    """Return the names of those to keep, and see to it that each, and each to leave out, is that of one."""
    names = Counter(each.name for each in candidates)
    twice = [name for name, times in names.items() if times > 1]
    if twice:
        raise TrainingError(
            f"{twice[0]!r} would be there twice; rename the file, or give the bundle's a name to begin with: --with NAME=BUNDLE"
        )
    _check_named("--keep", keep or (), candidates)
    _check_named("--leave-out", leave_out, candidates)
    if not names.keys() - set(leave_out):
        raise TrainingError("--leave-out: leaves none to make a bundle of")
    return names if keep is None else keep


def _check_named(option: str, asked: Collection[str], candidates: Sequence[Candidate]) -> None:
    """See to it that each name that an option asks for is a candidate's."""
    names = {each.name for each in candidates}
    for name in asked:
        if name not in names:
            raise TrainingError(f"{option} {name}: is none of {', '.join(sorted(names))}")


def _write(
    kept: Sequence[Measured], data: Data, folder: Path, precision: ImportPrecision, report: Report
) -> list[Written]:
    """Write the graphs of all that is kept, calibrated."""
    weights = WeightsFile(folder / WEIGHTS_FILE, half=False)
    images = data.validation.some(CALIBRATION_IMAGES) if precision == "int8" else None
    labels = data.validation.labels[data.fitted]
    written = []
    for each in tqdm(kept, desc="writing", disable=None):
        candidate = each.candidate
        model = onnx.load(candidate.graph)
        integers = onnx.load(candidate.int8) if candidate.int8 else None
        temperature = candidate.temperature
        if temperature is None:
            temperature = fit_temperature(each.logits[data.fitted], labels)
            set_temperature(model.graph, temperature)
            if integers:
                set_temperature(integers.graph, temperature)
            elif images is not None and not candidate.known:
                integers = _in_integers(candidate.name, model, images, report)
        graph, int8 = (folder / f"{candidate.name}{end}" for end in (".onnx", ".int8.onnx"))
        weights.write(model, graph)
        if integers:
            weights.write(integers, int8)
        written.append(Written(each, graph, int8 if integers else None, temperature))
    return written


def _in_integers(
    name: str, model: onnx.ModelProto, images: NDArray[np.uint8], report: Report
) -> onnx.ModelProto | None:
    """Return a network in 8-bit integers, or say why there is none."""
    try:
        quantised = quantise(model, images)
    except TrainingError as error:
        report(f"{name} stays in float: {error}")
        return None
    if any(node.op_type == "QuantizeLinear" for node in quantised.graph.node):
        return quantised
    report(f"{name} stays in float: nothing in it would be in 8-bit integers")
    return None


def _scored(written: Sequence[Written], data: Data) -> tuple[Subnetwork, ...]:
    """Measure what was not measured yet, and describe each subnetwork, the cheapest first."""
    new = [each.int8 for each in written if each.int8 and each.measured.in_int8 is None]
    on_validation = {each.graph: each.measured.logits for each in written}
    for each in written:
        if each.int8 and each.measured.in_int8 is not None:
            on_validation[each.int8] = each.measured.in_int8
    if new:
        on_validation |= logits_of_each(new, data.validation, what="measuring int8")
    on_test = logits_of_each(on_validation, data.test, what="testing") if data.test else {}
    rights: dict[str, Right] = {
        path.name: own.argmax(1) == data.validation.labels for path, own in on_validation.items()
    }

    def scores(graph: Path, temperature: float) -> dict[str, Any]:
        own, held_out = on_validation[graph], slice(1, None, 2)
        labels = data.validation.labels
        test = None
        if data.test:
            test = share(on_test[graph], data.test.labels)
            calibrated = calibration(on_test[graph], data.test.labels, temperature)
        else:
            calibrated = calibration(own[held_out], labels[held_out], temperature)
        accuracy = Accuracy(validation=share(own, labels), test=test)
        return {"accuracy": accuracy, "calibration": calibrated, "graph": file_record(graph)}

    subnetworks = []
    for each in written:
        candidate, int8 = each.measured.candidate, None
        if each.int8:
            agreement = share(on_validation[each.int8], each.measured.logits.argmax(1))
            int8 = Quantised(agreement=agreement, **scores(each.int8, each.temperature))
        own = scores(each.graph, each.temperature) | {"int8": int8}
        subnetworks.append(
            candidate.known.model_copy(update=own)
            if candidate.known
            else Subnetwork(
                name=candidate.name,
                parameters=candidate.parameters,
                macs=candidate.macs,
                source=candidate.source,
                views=candidate.views,
                **own,
            )
        )
    return with_expected(subnetworks, rights)
