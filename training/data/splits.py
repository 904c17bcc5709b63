"""Images with their labels: in one tensor of bytes, or in files that are read when they are asked for."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import tee
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.decoding import batches_ahead
from training.data.imagenet import Member, named_and_sized
from training.data.small_versions import SmallVersions

FILES_AHEAD = 10_000  # that wait to be opened; each takes a kilobyte


class Split(Protocol):
    """Images and their labels int64 (N,), wherever the images are."""

    @property
    def labels(self) -> Tensor:
        """The class of each image."""

    @property
    def image_size(self) -> int:
        """Height and width of an image, in pixels."""

    def __len__(self) -> int:
        """Return the number of images."""

    def take(self, indices: Tensor) -> Self:
        """Return the images at ``indices``."""

    def to(self, device: torch.device) -> Self:
        """Return the split with batches and labels on another device."""

    def batches(self, chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Give, for each chunk of indices (n,), the images uint8 (n, H, W, 3) and their labels (n,)."""

    def content(self) -> Iterator[bytes]:
        """Give what identifies the split, for a hash."""

    def identities(self) -> list[bytes]:
        """Return what tells each image from others, wherever it is stored."""

    @property
    def cached(self) -> Mapping[str, str]:
        """What there is of images decoded before, for a bar; nothing where all are in memory."""


@dataclass(frozen=True, slots=True)
class TensorSplit:
    """Images uint8 (N, H, W, 3) in memory, and their labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    @property
    def image_size(self) -> int:
        """Height and width of an image, in pixels."""
        return self.images.shape[1]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, indices: Tensor) -> "TensorSplit":
        """Return the images at ``indices``."""
        return TensorSplit(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> "TensorSplit":
        """Return the split on another device."""
        return TensorSplit(self.images.to(device), self.labels.to(device))

    def batches(self, chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the images and labels at each chunk of indices."""
        for chunk in chunks:
            indices = chunk.to(self.labels.device)
            yield self.images[indices], self.labels[indices]

    def content(self) -> Iterator[bytes]:
        """Give the pixels and the labels."""
        yield self.images.numpy().tobytes()
        yield self.labels.numpy().tobytes()

    def identities(self) -> list[bytes]:
        """Return a hash of each image's pixels."""
        return [hashlib.sha256(image.tobytes()).digest() for image in self.images.numpy()]

    @property
    def cached(self) -> Mapping[str, str]:
        """Nothing: all are in memory."""
        return {}


@dataclass(frozen=True, slots=True)
class FileSplit:
    """Image files and their labels int64 (N,), read when a batch is asked for."""

    files: NDArray[np.object_]
    labels: Tensor
    versions: SmallVersions

    @property
    def image_size(self) -> int:
        """Height and width of an image, in pixels."""
        return self.versions.preprocessing.size

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, indices: Tensor) -> "FileSplit":
        """Return the images at ``indices``."""
        return replace(self, files=self.files[indices.numpy()], labels=self.labels[indices.cpu()])

    def to(self, device: torch.device) -> "FileSplit":
        """Return the split with its labels, and so its batches, on another device."""
        return replace(self, labels=self.labels.to(device))

    def batches(self, chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the images and labels at each chunk of indices."""
        chunks, chunks_to_read = tee(chunks)
        files = (self.files[chunk.numpy()] for chunk in chunks_to_read)
        device = self.labels.device
        for chunk, images in zip(chunks, batches_ahead(files, self.versions.read), strict=True):
            yield torch.from_numpy(images).to(device), self.labels[chunk.to(device)]

    def content(self) -> Iterator[bytes]:
        """Give names and sizes of the files, and the labels: to read a large set for a hash would take hours."""
        yield from map(named_and_sized, self.files)
        yield self.labels.numpy().tobytes()

    def identities(self) -> list[bytes]:
        """Return the path that each file has behind links, or its place in an archive."""
        return [
            os.fsencode(str(file) if isinstance(file, Member) else os.path.realpath(file))
            for file in self.files
        ]

    @property
    def cached(self) -> Mapping[str, str]:
        """How many small versions there are, and what they take."""
        return self.versions.kept
