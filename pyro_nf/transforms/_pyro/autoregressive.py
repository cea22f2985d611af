"""Autoregressive layers under Pyro's names: the network may be a user's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyro_nf._checks import positive_int
from pyro_nf.bijections import ScalarBijection
from pyro_nf.nn import MaskedMLP
from pyro_nf.nn.masked import permutation as checked_order
from pyro_nf.transforms._contract.features import features_first, features_last
from pyro_nf.transforms._pyro.networks import (
    Network,
    check_reads_context,
    elementwise_params,
)
from pyro_nf.transforms._sweep.sweep import sweep
from pyro_nf.transforms._wiring import Wiring


class NetworkAutoregressive(Wiring):
    """What Pyro's autoregressive classes share: a scalar bijection and a given network.

    The network reads the base draw, so sampling takes one pass. Scoring takes D sequential steps:
    about one pass of arithmetic for a ``pyro_nf.nn.MaskedMLP``, D passes for any other network,
    whose parts cannot be evaluated alone.

    Args:
        bijection: The scalar bijection.
        arn: The autoregressive network: a ``MaskedMLP``, or a callable that maps x
            ``(*batch, D)``, and ``context=`` where it takes one, to a tensor or tuple of tensors
            of shape ``(*batch, D)`` or ``(*batch, p, D)``, and that has an attribute
            ``permutation``, the order of its inputs, as ``pyro.nn.AutoRegressiveNN`` has.
        context_dim: Size of the context; None for what the network says.
        constants: How many of the bijection's parameters the network does not make.

    Raises:
        TypeError: If the network has no order, or is no callable.
        ValueError: If it makes another number of parameters than the bijection takes.
    """

    autoregressive = True
    needs_context: ClassVar[bool] = False

    def __init__(
        self,
        bijection: ScalarBijection,
        arn: Network,
        context_dim: int | None = None,
        *,
        constants: int = 0,
    ) -> None:
        owner = type(self).__name__
        order = _order(owner, arn)
        if context_dim is None:
            context_dim = int(getattr(arn, "context_dim", 0))
        super().__init__(bijection, len(order), context_dim)
        if self.needs_context:
            check_reads_context(owner, context_dim)
        made, needed = _params_made(arn), bijection.param_count - constants
        if made is not None and made != needed:
            raise ValueError(
                f"{owner} got a network that makes {made} parameters for each dimension, where "
                f"{bijection} needs {needed} of it. Build it with param_dims that sum to that."
            )
        self.arn = arn
        self._count = needed
        # Parameters outside a module cannot be watched, so a pass that used them is not reused.
        self.reusable = isinstance(arn, nn.Module)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data in one pass."""
        x = features_first(self, x, context, "x")
        y, ladj = self.bijection.forward(x, self._params(x, context))
        return features_last(y), ladj.sum(0)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base in D steps."""
        y = features_first(self, y, context, "y")
        if isinstance(self.arn, MaskedMLP):
            x, ladj = sweep(self.arn, self.bijection, y, context)
        else:
            x, ladj = self._solve_in_order(y, context)
        return features_last(x), ladj.sum(0)

    def _params(self, x: Tensor, context: Tensor | None) -> Tensor:
        return elementwise_params(
            self.arn,
            x,
            context,
            size=self.input_dim,
            count=self._count,
            owner=type(self).__name__,
        )

    def _solve_in_order(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Finds one dimension after another; the later ones stand at 0, which the network hides.

        The order stays a tensor: a loaded one counts, and no step waits for the host.
        """
        order = _order(type(self).__name__, self.arn).to(y.device)
        position = order.argsort().reshape(-1, *(1 for _ in y.shape[1:]))  # (D, 1, ...)
        x, ladjs = torch.zeros_like(y), []
        for step in range(self.input_dim):
            here = order[step : step + 1]
            params = self._params(x, context).index_select(1, here).squeeze(1)  # (P, *batch)
            x_here, ladj = self.bijection.inverse(y.index_select(0, here).squeeze(0), params)
            x = torch.where(position == step, x_here, x)
            ladjs.append(ladj)
        return x, torch.stack(ladjs)

    def extra_repr(self) -> str:
        """The bijection, the sizes and the fast direction."""
        return f"{super().extra_repr()}, fast='sample'"


def _order(owner: str, arn: Any) -> Tensor:
    order = getattr(arn, "permutation", None)
    if order is None or not callable(arn):
        raise TypeError(
            f"{owner} got {type(arn).__name__} for an autoregressive network. Pass one with an "
            "attribute permutation, the order of its inputs, such as pyro.nn.AutoRegressiveNN."
        )
    return torch.as_tensor(order)


def _params_made(arn: Any) -> int | None:
    """How many parameters the network makes for each dimension, if it says."""
    if isinstance(arn, MaskedMLP):
        return arn.params_per_input
    sizes = getattr(arn, "param_dims", None)
    return None if sizes is None else sum(sizes)


def chain_order(
    owner: str, input_dim: int, permutation: Sequence[int] | Tensor | None, parity: int
) -> list[int]:
    """The order of a masked network: the given one, natural by default, reversed for parity 1."""
    if parity not in (0, 1):
        raise ValueError(f"{owner} got parity={parity}. Pass 0 or 1.")
    size = positive_int(owner, "input_dim", input_dim)
    order = checked_order(permutation, size, owner=owner, name="permutation")
    return order[::-1] if parity else order
