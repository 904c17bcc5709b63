"""Muon (Jordan et al., 2024): every direction of a matrix is moved alike, however small its gradient."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # Jordan et al.: of the steepest start, not of the closest end
ITERATIONS = 5
SMALLEST_NORM = 1e-7


class Muon(Optimizer):
    """Moves matrices by about the orthogonal matrix nearest to their momentum, as ``torch.optim.Muon`` does.

    That one iterates on the whole matrices in bf16, which many processors only emulate (docs/decisions/0005). The state is
    the same, so that either goes on with the other's.

    Args:
        matrices: (rows, columns) each; one without a gradient is left as it is.
        rate: singular values of a step, about.
        momentum: Nesterov's, of averaged gradients.
        weight_decay: share of a matrix that a step at rate 1 takes off.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        *,
        rate: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        super().__init__(matrices, {"lr": rate, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nobody has the loss computed anew
        """Move the matrices that have a gradient."""
        for group in self.param_groups:
            momentum = group["momentum"]
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                mean = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                rows, columns = matrix.shape
                rate = group["lr"] * math.sqrt(max(1.0, rows / columns))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.sub_(orthogonalised(matrix.grad.lerp(mean, momentum)), alpha=rate)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return about the nearest matrix whose singular values are 1: they come to lie between 0.7 and 1.2.

    Each Newton-Schulz iteration multiplies X by the polynomial aI + bA + cA² of A = XXᵀ. All of these commute, so that
    the small A alone is iterated, and X is multiplied once, by their product.

    Args:
        matrix: (rows, columns); one of zeros stays so.

    Returns:
        (rows, columns).
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonalised(matrix.T).T
    scaled = matrix / matrix.norm().clamp(min=SMALLEST_NORM)
    a, b, c = COEFFICIENTS
    gram = scaled @ scaled.T
    product = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    for _ in range(ITERATIONS):
        step = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        step.diagonal().add_(a)
        product = step @ product
        gram = step @ gram @ step
    return torch.mm(product, scaled)
