"""What changes mini-batches further than ``augment.py`` does, by kornia: RandAugment, mixup and cutmix.

They draw from torch's own random numbers, which a run seeds for each epoch and each of its processes, as for dropout.
"""

import torch.nn.functional as F
from torch import Tensor

from training.augment import Normalisation
from training.config import Augmentation, Mixing

OPERATIONS, MAGNITUDE = 2, 9  # of 30; as RandAugment trains ImageNet (Cubuk et al., NeurIPS 2020)


class Mixer:
    """Draws operations on whole mini-batches, and mixes their images and labels pairwise.

    Args:
        augmentation: with "rand", RandAugment changes the images.
        mixing: "mixup" blends two images (Zhang et al., ICLR 2018), "cutmix" puts a part of one into another (Yun et al., ICCV
            2019), in a share that is drawn uniformly; their labels are mixed alike.
        normalise: what the images went through.
        classes: how many there are.
    """

    def __init__(
        self, augmentation: Augmentation, mixing: Mixing, normalise: Normalisation, classes: int
    ) -> None:
        self.normalise, self.classes, self.mixing = normalise, classes, mixing
        self._strengthen = self._mix = None
        if augmentation == "rand":
            from kornia.augmentation.auto import RandAugment  # a second, for those who ask for it

            self._strengthen = RandAugment(OPERATIONS, MAGNITUDE)
        if mixing != "none":
            from kornia.augmentation import RandomCutMixV2, RandomMixUpV2

            keys: list[str | int] = ["input", "class"]
            self._mix = (
                RandomMixUpV2(data_keys=keys)
                if mixing == "mixup"
                else RandomCutMixV2(data_keys=keys, use_correct_lambda=True)
            )

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return a mini-batch (N, 3, H, W), normalised, and what to learn of it: labels (N,), or shares (N, classes)."""
        if self._strengthen:
            x = self.normalise.of_floats(self._strengthen(self.normalise.undone(x).clamp(0, 1)))
        if not self._mix:
            return x, labels
        x, pairs = self._mix(x, labels)
        own, other, share = pairs.view(-1, 3).unbind(1)
        of_own = 1 - share if self.mixing == "mixup" else share
        own, other = (F.one_hot(each.long(), self.classes) for each in (own, other))
        return x, of_own[:, None] * own + (1 - of_own[:, None]) * other
