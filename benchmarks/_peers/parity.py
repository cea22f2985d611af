"""Whether a library's flow is the same density as ours, before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from benchmarks._peers.architecture import Spec
from benchmarks._peers.contender import NOT_SHARED, Model
from benchmarks._peers.images_architecture import ImageSpec
from benchmarks._peers.weights import randomize

ROWS, TOLERANCE, SEED = 64, 1e-4, 0

AnySpec = TypeVar("AnySpec", Spec, ImageSpec)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Builds and runs in a dtype: some libraries create tensors of the default one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def difference(spec: AnySpec, build: Callable[[AnySpec], Model]) -> float | None:
    """Largest difference of the two log densities on 64 rows, in float64 on the CPU.

    Args:
        spec: The architecture.
        build: Creates the library's flow.

    Returns:
        The difference in nats; None if the library's weights do not correspond to ours.
    """
    with default_dtype(torch.float64):
        model = build(spec)
        if model.reference is None or model.adopt is None:
            return None
        ours = model.reference()
        randomize(ours, SEED)
        model.adopt(ours)
        with torch.no_grad(), model.setting():
            if spec.kind.by_draws and model.rsample_and_log_prob is not None:
                torch.manual_seed(SEED)
                x, theirs = model.rsample_and_log_prob(ROWS)
            elif model.log_prob is not None:
                generator = torch.Generator().manual_seed(SEED)
                x = 1.3 * torch.randn(ROWS, *spec.event, generator=generator)
                theirs = model.log_prob(x)
        with torch.no_grad():
            return float((ours().log_prob(x) - theirs).abs().max())


def verdict(found: float | None, apart: str = NOT_SHARED) -> tuple[str, bool]:
    """Says it in words, and whether it failed; ``apart`` is said where nothing was compared."""
    if found is None:
        return apart, False
    if not found <= TOLERANCE:  # NaN fails too
        return f"parity FAILED: max difference {found:.1e}", True
    return f"parity: max difference {found:.1e}", False
