"""Operations of a model's passes, and the matrix rates of known GPUs: what hours and MFU are computed from.

Sources: 2 operations per weight and token in a forward pass, and those of attention: Kaplan et al. 2020 (arXiv 2001.08361),
section 2.1, halved for causal attention. A backward pass takes twice a forward pass, half of it for the gradients of the
weights. MFU: Chowdhery et al. 2022 (arXiv 2204.02311), appendix B.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Card:
    """The data sheet of a GPU.

    Attributes:
        name: what the table shows.
        pattern: regular expression for the driver's name.
        memory_gib: memory that the driver reports, GiB.
        tflops: dense matrix rate in bfloat16, 1e12 operations/s.
        bandwidth: of the memory, 1e12 bytes/s.
    """

    name: str
    pattern: str
    memory_gib: float
    tflops: float
    bandwidth: float


CARDS = (
    Card("H200", r"H200", 140.4, 989, 4.8),
    Card("H100 SXM", r"H100(?!.*(PCIe|NVL))", 79.6, 989, 3.35),
    Card("H100 PCIe", r"H100.*PCIe", 79.6, 756, 2.0),
    Card("B200", r"B200", 179.0, 2250, 8.0),
    Card("A100 80 GB", r"A100.*80GB", 80.0, 312, 2.04),
    Card("L40S", r"L40S", 45.0, 362, 0.864),
    Card("A10G", r"A10G?\b", 22.5, 125, 0.6),
    Card("RTX 4090", r"RTX 4090$", 24.0, 165, 1.008),
    Card("L4", r"L4\b", 22.5, 121, 0.3),
)
"""From NVIDIA's data sheets (H200, H100, DGX B200, A100, L40S, A10, L4) and the Ada architecture white paper (RTX 4090).
Where a sheet gives the rate with sparsity, half of it is the dense rate; the RTX's rate is that with float32 sums."""


def card_named(name: str) -> Card | None:
    """Return the data sheet of a GPU by the driver's name for it; None for an unknown one."""
    return next((card for card in CARDS if re.search(card.pattern, name)), None)


class Sizes(Protocol):
    """Sizes of a model that its operations depend on; see `doctor.geometry.Geometry`."""

    @property
    def multiplied(self) -> int:
        """Number of weights that a token is multiplied with."""

    @property
    def layers(self) -> int: ...

    @property
    def heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...


def forward_flops(sizes: Sizes, tokens: float, length: float) -> float:
    """Return the operations of a forward pass over sequences of `length` tokens, `tokens` in all."""
    return (2 * sizes.multiplied + 2 * sizes.layers * sizes.heads * sizes.head_dim * length) * tokens


def training_flops(sizes: Sizes, tokens: float, length: float, *, checkpointing: bool) -> float:
    """Return the operations of a LoRA training step: forward, the gradients of the activations but not those of the
    frozen weights, and with checkpointing a second forward pass."""
    forward = forward_flops(sizes, tokens, length)
    weights = 2 * sizes.multiplied * tokens
    backward = weights + 2 * (forward - weights)
    return forward + backward + (forward if checkpointing else 0)
