"""The numbers that a device computes training in."""

from contextlib import nullcontext

import torch


def has_bf16(device: torch.device) -> bool:
    """Say whether the device computes bf16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported()


def mixed_precision(device: torch.device) -> torch.autocast | nullcontext[None]:
    """Return bf16 autocast where the device computes it in hardware, else float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if has_bf16(device) else nullcontext()
