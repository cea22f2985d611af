"""Matrix products of the dense networks, by torch's BLAS or by oneDNN."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pyro_nf._checks import choice

Library = Literal["torch", "onednn"]

# Fewer multiplications than these are over before oneDNN has begun.
_LEAST_MULTIPLICATIONS = 2**20
# What oneDNN has to gain where both are timed, beyond the noise of timing.
_LEAST_GAIN = 1.1

_library: Library = "torch"


def use_matrix_products(library: Literal["torch", "onednn", "fastest"]) -> Library:
    """Chooses what multiplies the matrices of the dense networks on a CPU, in this process.

    Torch's own products are Intel's MKL in most builds, which on AMD processors takes about twice
    the time of oneDNN, and on Intel's none more. Small products, other dtypes than float32,
    accelerators and whatever a compiler or ``torch.func`` follows stay with torch.

    Args:
        library: "torch", as at first; "onednn"; or "fastest", which times both for a moment and
            takes oneDNN only where it is faster by a tenth.

    Returns:
        What is used from now on, "torch" or "onednn".

    Raises:
        ValueError: If the library is none of these, or this build of torch lacks oneDNN.

    Examples:
        >>> use_matrix_products("torch")
        'torch'
    """
    global _library  # noqa: PLW0603  (the one switch)
    choice("use_matrix_products", "library", library, ("torch", "onednn", "fastest"))
    if library == "fastest":
        library = "onednn" if _available() and _gain() > _LEAST_GAIN else "torch"
    elif library == "onednn" and not _available():
        raise ValueError(
            "use_matrix_products got 'onednn', and this build of torch has none. Pass 'torch'."
        )
    _library = library
    return library


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of two matrices, outside of any graph."""
    return _onednn(a, b, None) if _is_for_onednn(a, b) else torch.mm(a, b)


def shifted_product(shift: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a @ b + shift``, of one shift for all rows, ``(columns,)``, or ``(rows, columns)``."""
    # oneDNN records nothing for autograd, and a second derivative comes here with gradients on.
    if torch.is_grad_enabled() or not _is_for_onednn(a, b):
        return torch.addmm(shift, a, b)
    if shift.ndim == 1:
        return _onednn(a, b, shift)
    return _onednn(a, b, None).add_(shift)


def _available() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_for_onednn(a: Tensor, b: Tensor) -> bool:
    return (
        _library == "onednn"
        and a.device.type == "cpu"
        and a.dtype == b.dtype == torch.float32
        and a.shape[0] * a.shape[1] * b.shape[1] >= _LEAST_MULTIPLICATIONS
    )


def _onednn(a: Tensor, b: Tensor, shift: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), shift, "none", [], "")


@torch.no_grad()
def _gain() -> float:
    """How many times as fast oneDNN multiplies as torch: medians of products taken in turn."""
    a, b = torch.ones(1024, 256), torch.ones(256, 256)
    candidates: tuple[Callable[[], Tensor], ...] = (
        lambda: torch.mm(a, b),
        lambda: _onednn(a, b, None),
    )
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(11):
        for run, spent in zip(candidates, times, strict=True):
            start = time.process_time()
            run()
            spent.append(time.process_time() - start)
    return statistics.median(times[0]) / statistics.median(times[1])
