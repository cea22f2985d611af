"""What the benchmark knows of one library's flow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from pyro_nf.distributions import Flow

NOT_SHARED = "same sizes, weights not shared"

Setting = Callable[[], AbstractContextManager[object]]


@dataclass
class Model:
    """A flow in torch, behind one set of names.

    Attributes:
        module: What holds the parameters.
        log_prob: Scores data ``(B, D)``.
        rsample: Draws a number of rows, with gradients.
        rsample_and_log_prob: Draws rows and scores them as the library does best.
        reference: Creates our flow with the library's own bijection: given equal weights, the
            same density. None if the library's flow has no such correspondence.
        adopt: Takes over the weights of a flow of ours, of the reference's sizes.
        apart: What is said of a flow without that correspondence.
        setting: Context in which the library is built and run.
    """

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor] | None = None
    rsample: Callable[[int], Tensor] | None = None
    rsample_and_log_prob: Callable[[int], tuple[Tensor, Tensor]] | None = None
    reference: Callable[[], Flow] | None = None
    adopt: Callable[[Flow], None] | None = None
    apart: str = NOT_SHARED
    setting: Setting = nullcontext

    @property
    def parameters(self) -> int:
        """Number of trained numbers."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)


@dataclass
class Contender:
    """What is timed of a library: one call for each operation.

    Attributes:
        parameters: Number of trained numbers.
        cells: By operation, what one repetition calls.
        parity: What the comparison with our density gave, in words.
        failed: Whether that comparison failed.
        setting: Context in which the cells run.
    """

    parameters: int
    cells: dict[str, Callable[[], object]]
    parity: str = ""
    failed: bool = False
    setting: Setting = nullcontext
