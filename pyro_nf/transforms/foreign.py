"""Torch's and Pyro's own transforms, as layers."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.conditional import ConditionalTransform
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Transform, constraints
from torch.distributions.transforms import _InverseTransform

from pyro_nf.transforms._contract.boundary import check_context
from pyro_nf.transforms._contract.features import sum_rightmost
from pyro_nf.transforms._contract.protocol import Bound, FlowTransform


def as_flow_transform(transform: Any, context_dim: int = 0) -> FlowTransform:
    """Creates the layer that a transform is: itself, or a torch or Pyro transform wrapped.

    Args:
        transform: A layer, or any torch or Pyro transform, conditional ones included.
        context_dim: Size of the context of a conditional transform of Pyro's own.

    Raises:
        TypeError: If ``transform`` is no transform.
        ValueError: If it is conditional and ``context_dim`` is not given.
    """
    from pyro_nf.transforms.compose import Compose

    if isinstance(transform, FlowTransform):
        return transform
    if isinstance(transform, Bound):
        raise TypeError(
            f"Compose got a view of {type(transform.layer).__name__} with a fixed context, which "
            "owns no parameters. Pass the layer, and the context when the flow is called."
        )
    if isinstance(transform, _InverseTransform):
        return as_flow_transform(transform.inv, context_dim).inv
    if isinstance(transform, ComposeTransform):
        return Compose(transform.parts, context_dim=context_dim)
    if isinstance(transform, ConditionalTransform):
        return ForeignConditional(transform, context_dim)
    if isinstance(transform, Transform):
        return Foreign(transform)
    raise TypeError(
        f"Compose got a part of type {type(transform).__name__}. Pass torch or Pyro transforms."
    )


class Foreign(FlowTransform):
    """A transform of torch's or Pyro's as a layer, its stale cache bypassed.

    Args:
        transform: A transform that implements ``_call``, ``_inverse`` and
            ``log_abs_det_jacobian``; a module among them keeps its parameters registered.
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform
        # Tensors outside a module cannot be watched, so a pass that used them is not reused.
        self.reusable = isinstance(transform, nn.Module) or not _holds_tensors(transform)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps by the transform's ``_call``."""
        y = self.transform._call(x)
        return y, self.transform.log_abs_det_jacobian(x, y)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps by the transform's ``_inverse``."""
        try:
            x = self.transform._inverse(y)
        except (NotImplementedError, KeyError) as error:
            raise NotImplementedError(
                f"{type(self.transform).__name__} cannot invert. Use a layer of "
                "pyro_nf.transforms in its place; all of them invert."
            ) from error
        return x, -self.transform.log_abs_det_jacobian(x, y)

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        """The transform's domain."""
        return self.transform.domain

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """The transform's codomain."""
        return self.transform.codomain

    @property
    def sign(self) -> int:
        """The transform's sign."""
        return self.transform.sign

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        return self.transform.forward_shape(shape)

    def _inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self.transform.inverse_shape(shape)

    def extra_repr(self) -> str:
        """The transform, where it is no module and so not printed as one."""
        return "" if isinstance(self.transform, nn.Module) else repr(self.transform)


class ForeignConditional(FlowTransform):
    """A conditional transform of Pyro's as a layer.

    Args:
        transform: The conditional transform; a module among them keeps its parameters registered.
        context_dim: Size of its context.

    Raises:
        ValueError: If ``context_dim`` is 0.
    """

    def __init__(self, transform: ConditionalTransform, context_dim: int) -> None:
        super().__init__()
        if not context_dim:
            raise ValueError(
                f"Compose got the conditional transform {type(transform).__name__}, which does "
                "not tell its context's size. Pass Compose(parts, context_dim=...)."
            )
        self.transform = transform
        self.context_dim = context_dim
        # Only a conditioned transform tells what it couples. One of scalars acts on vectors here:
        # the context's batch stands beside that of the rows.
        conditioned = self._conditioned(torch.zeros(context_dim))
        self._uncoupled = max(0, 1 - conditioned.domain.event_dim)
        self.domain = constraints.independent(conditioned.domain, self._uncoupled)
        self.codomain = constraints.independent(conditioned.codomain, self._uncoupled)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps by the transform conditioned on the context."""
        y, ladj = self._conditioned(context).forward_and_ladj(x)
        return y, sum_rightmost(ladj, self._uncoupled)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps by the inverse of the transform conditioned on the context."""
        x, ladj = self._conditioned(context).inverse_and_ladj(y)
        return x, sum_rightmost(ladj, self._uncoupled)

    def _conditioned(self, context: Tensor | None) -> FlowTransform:
        return as_flow_transform(self.transform.condition(check_context(self, context)))


def _holds_tensors(value: Any) -> bool:
    """Whether a transform or constraint has a tensor among its attributes, at any depth."""
    if isinstance(value, Tensor):
        return True
    if isinstance(value, (list, tuple)):
        return any(_holds_tensors(item) for item in value)
    if isinstance(value, (Transform, constraints.Constraint)):
        # A transform and its inverse hold each other under this name.
        return any(_holds_tensors(item) for name, item in vars(value).items() if name != "_inv")
    return False
