"""The manifest of a bundle: what is recorded of its networks, of its files, and of where they come from.

It holds facts about the networks. Latency is a fact about a machine, and is measured by the server at warm-up.
"""

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.intervals import wilson
from model.preprocessing import Preprocessing
from model.presets import Architecture

FORMAT_VERSION = 4  # 1 had no int8 graphs, 2 no preprocessing, expected accuracies, imported files or several networks, 3 no views; all are read

Precision = Literal["float32", "float16-filters", "float16", "int8"]
"""What the networks are in.

With "float16-filters" they are stored in half precision and computed with in float32. With "int8" each is there twice,
so and in 8-bit integers, and the server runs what is faster on its machine.
"""

PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Record(BaseModel):
    """Base of everything in the manifest: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class FileRecord(Record):
    """A file of the bundle and what it must contain."""

    name: PlainName
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0)]


class Measured(Record):
    """A fraction of ``n`` images, measured through ONNX Runtime."""

    value: Annotated[float, Field(ge=0, le=1)]
    n: Annotated[int, Field(ge=1)]


class Estimate(Record):
    """The accuracy to expect, and between what it lies with 95 % confidence."""

    value: Annotated[float, Field(ge=0, le=1)]
    low: Annotated[float, Field(ge=0, le=1)]
    high: Annotated[float, Field(ge=0, le=1)]


class Accuracy(Record):
    """Accuracy by split; choices are made by what ``validation`` lets expect, ``test`` is measured once and only published,
    if it is there.

    ``expected`` takes into account how few images were measured; bundles from before format 3 have none.
    """

    validation: Measured
    test: Measured | None = None
    expected: Estimate | None = None

    @property
    def test_value(self) -> float | None:
        """The share of the test images, where there are some."""
        return self.test.value if self.test else None

    @property
    def estimate(self) -> Estimate:
        """What choices are made by."""
        measured = self.validation
        low, high = wilson(measured.value, measured.n)
        return self.expected or Estimate(value=measured.value, low=low, high=high)


class Calibration(Record):
    """The temperature inside the graph's softmax, and the expected calibration error without and with it."""

    temperature: Annotated[float, Field(gt=0)]
    ece_before: Annotated[float, Field(ge=0, le=1)]
    ece_after: Annotated[float, Field(ge=0, le=1)]
    n: Annotated[int, Field(ge=1)]


class Quantised(Record):
    """A subnetwork in 8-bit integers: its own graph, measured for itself.

    ``agreement`` is the share of the validation images to which it gives the same class as the float graph.
    """

    accuracy: Accuracy
    calibration: Calibration
    agreement: Measured
    graph: FileRecord


class Source(Record):
    """The file that a subnetwork was imported from."""

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Subnetwork(Record):
    """A network to answer with, columns of a FractalNet or imported; the bundle may hold it in 8-bit integers too.

    ``views`` is how often it looks at an image: 2 where it answers with the mean of the image and its mirror image. In a bundle of several FractalNets ``network`` names the one that the columns are of. A graph takes ``images`` uint8 (N, H, W, 3) and gives ``logits`` and ``probabilities``, float32 (N, classes).
    """

    name: PlainName
    network: PlainName | None = None
    columns: tuple[int, ...] = ()
    depth: int | None = None
    views: Annotated[int, Field(ge=1)] = 1
    source: Source | None = None
    parameters: int
    macs: int
    accuracy: Accuracy
    calibration: Calibration
    graph: FileRecord
    int8: Quantised | None = None

    @property
    def in_int8(self) -> "Subnetwork | None":
        """The same subnetwork as its graph in 8-bit integers is, where there is one."""
        if self.int8 is None:
            return None
        measured = {name: getattr(self.int8, name) for name in ("accuracy", "calibration", "graph")}
        return self.model_copy(update={**measured, "int8": None})


class Provenance(Record):
    """Where a bundle comes from, enough to make it again."""

    recipe: str
    seed: int
    epochs: int
    began_with: str = ""  # the run whose weights were taken, empty where they were drawn
    taught_by: str = ""  # name and digest of the bundle whose answers it learnt, empty where it learnt labels alone
    dataset: str
    dataset_sha256: str
    commit: str
    created: str
    versions: dict[str, str]


class Network(Record):
    """One of several FractalNets whose subnetworks a bundle holds, and how it was trained."""

    name: PlainName
    architecture: Architecture
    provenance: Provenance


class Imported(Record):
    """What a bundle with imported subnetworks was measured on, and with what."""

    images: str
    images_sha256: str
    commit: str
    created: str
    versions: dict[str, str]


class Manifest(Record):
    """The index of a bundle.

    ``architecture`` and ``provenance`` are those of the FractalNet that was trained here, ``networks`` where there are several, ``imported`` says
    what the subnetworks were measured on that came from elsewhere.
    """

    format_version: int
    name: PlainName
    architecture: Architecture | None = None
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    precision: Precision = "float32"
    weights: FileRecord
    subnetworks: Annotated[tuple[Subnetwork, ...], Field(min_length=1)]
    provenance: Provenance | None = None
    networks: tuple[Network, ...] = ()
    imported: Imported | None = None

    @property
    def origin(self) -> Provenance | None:
        """How its networks were trained; of several, the first's, if all learnt from the same images. Else nothing."""
        origins = [each.provenance for each in self.networks]
        if self.provenance:
            origins.append(self.provenance)
        images = {(each.dataset_sha256, each.seed) for each in origins}
        return origins[0] if len(images) == 1 else None

    @model_validator(mode="before")
    @classmethod
    def _was_stretched(cls, fields: Any) -> Any:
        """Say of a bundle from before format 3 what was done to its images."""
        if isinstance(fields, dict) and fields.get("format_version") in (1, 2):
            architecture = fields.get("architecture")
            if isinstance(architecture, dict) and "image_size" in architecture:
                return {"preprocessing": {"size": architecture["image_size"]}, **fields}
        return fields

    @model_validator(mode="after")
    def _pixels_fit_the_network(self) -> Self:
        size = self.preprocessing.size
        for architecture in (self.architecture, *(each.architecture for each in self.networks)):
            sees = architecture.image_size if architecture else size
            if size != sees:
                raise ValueError(
                    f"preprocessing brings images to {size}×{size}, the network sees {sees}×{sees}"
                )
        return self

    @model_validator(mode="after")
    def _networks_are_named(self) -> Self:
        known = {each.name for each in self.networks}
        for each in self.subnetworks:
            if each.network is not None and each.network not in known:
                raise ValueError(
                    f"{each.name} is of {each.network!r}, which is not among the networks"
                )
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        subnetworks = Counter(each.name for each in self.subnetworks)
        networks = Counter(each.name for each in self.networks)
        labels = Counter(self.labels)
        for what, names in (("subnetwork", subnetworks), ("network", networks), ("label", labels)):
            for name, times in names.items():
                if times > 1:
                    raise ValueError(f"the {what} {name!r} is there {times} times")
        return self
