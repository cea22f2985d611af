"""What the layers of one vector bijection share: named parameters, a context, the layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_nf._checks import non_negative_int, positive_int
from pyro_nf._precision import narrow, widen, without_autocast
from pyro_nf.bijections._vector import VectorBijection
from pyro_nf.nn import MLP
from pyro_nf.nn.mlp import Activation, Residual
from pyro_nf.transforms._contract.features import features_first, features_last
from pyro_nf.transforms._contract.protocol import FlowTransform


class JointWiring(FlowTransform):
    """A layer of one vector bijection, whose parameters are constants plus a network (abstract).

    The constants are the layer's own parameters, under the bijection's names. A network of the
    context, which starts at 0, adds to them.

    Args:
        bijection: The vector bijection.
        input_dim: Number D of dimensions.
        context_dim: Size of the context; 0 for constants alone.
        hidden_dims: Widths of the network that reads the context.
        activation: Its activation: a name, a function or a module.
        residual: "skip" adds skip connections between its layers of equal width.
    """

    input_dim: int

    def __init__(
        self,
        bijection: VectorBijection,
        input_dim: int,
        *,
        context_dim: int = 0,
        hidden_dims: Sequence[int] = (64, 64),
        activation: Activation = "relu",
        residual: Residual = "none",
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        self.bijection = _checked_bijection(owner, bijection)
        self.input_dim = positive_int(owner, "input_dim", input_dim)
        self.context_dim = non_negative_int(owner, "context_dim", context_dim)
        initial = bijection.initial(self.input_dim)
        self._shapes = {name: tuple(value.shape) for name, value in initial.items()}
        for name, value in initial.items():
            self.register_parameter(name, nn.Parameter(value))
        fixed = bijection.fixed(self.input_dim)
        self._fixed = tuple(fixed)
        for name, value in fixed.items():
            self.register_buffer(name, value)
        count = sum(value.numel() for value in initial.values())
        self.network: MLP | None = None
        if context_dim and count:  # a rotation of one dimension has no parameters
            self.network = MLP(
                context_dim, count, hidden_dims, activation=activation, residual=residual
            )

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data."""
        h = features_first(self, x, context, "x")  # (D, *batch)
        layout, params = Layout(h, context), self._params(context)
        with without_autocast(h):
            return layout.undo(*self.bijection.forward(layout.columns(h), params))

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base."""
        h = features_first(self, y, context, "y")  # (D, *batch)
        layout, params = Layout(h, context), self._params(context)
        with without_autocast(h):
            return layout.undo(*self.bijection.inverse(layout.columns(h), params))

    def _params(self, context: Tensor | None) -> dict[str, Tensor]:
        """The parameters ``(*context_batch, *shape)``; reads each attribute once."""
        params = {name: widen(getattr(self, name)) for name in self._shapes}
        network = self.network
        if context is not None and network is not None:
            sizes = [math.prod(shape) for shape in self._shapes.values()]
            changes = widen(network(context.movedim(-1, 0))).movedim(0, -1).split(sizes, -1)
            for (name, shape), change in zip(self._shapes.items(), changes, strict=True):
                params[name] = params[name] + change.reshape((*context.shape[:-1], *shape))
        return params | {name: getattr(self, name) for name in self._fixed}

    @property
    def sign(self) -> int:
        """The bijection's sign, for one dimension."""
        return self.bijection.sign if self.input_dim == 1 else super().sign

    def extra_repr(self) -> str:
        """The bijection and the sizes."""
        return f"{self.bijection}, {super().extra_repr()}"


class Layout:
    """Between features first, ``(D, *batch)``, and a bijection's ``(*context_batch, D, points)``.

    The dimensions of the batch that the context has, aligned right, count sets of parameters; the
    others count points that share one. Without context all are points, and nothing is copied.

    Args:
        h: Shape ``(D, *batch)``.
        context: Shape ``(*context_batch, context_dim)``, or None.
    """

    def __init__(self, h: Tensor, context: Tensor | None) -> None:
        cut = h.ndim - (0 if context is None else context.ndim - 1)
        self._dtype = h.dtype
        self._size, self._points, self._sets = h.shape[0], h.shape[1:cut], h.shape[cut:]
        # Rows of full precision without a context: nothing to rearrange.
        wide = h.dtype in (torch.float32, torch.float64)
        self._is_plain = wide and len(self._points) == 1 and not self._sets

    def columns(self, h: Tensor) -> Tensor:
        """The values ``(*sets, D, points)``; half precision as float32."""
        if self._is_plain:
            return h
        flat = widen(h).reshape(self._size, math.prod(self._points), *self._sets)
        return flat.movedim((0, 1), (-2, -1))

    def undo(self, columns: Tensor, ladj: Tensor) -> tuple[Tensor, Tensor]:
        """The result and the log-determinant of each row, in the shapes of the contract."""
        if self._is_plain:
            return features_last(columns), ladj.expand(self._points)
        h = narrow(columns, self._dtype).movedim((-2, -1), (0, 1))
        h = h.reshape(self._size, *self._points, *self._sets)
        ladj = ladj.to(h.dtype).expand(*self._sets, math.prod(self._points))
        return features_last(h), ladj.movedim(-1, 0).reshape((*self._points, *self._sets))


def _checked_bijection(owner: str, bijection: Any) -> VectorBijection:
    if isinstance(bijection, VectorBijection):
        return bijection
    got = bijection.__name__ if isinstance(bijection, type) else repr(bijection)
    raise TypeError(
        f"{owner} got {got} for a vector bijection. Pass an instance of one, such as "
        "pyro_nf.bijections.Planar(); scalar ones go to Elementwise, Coupling, Autoregressive."
    )
