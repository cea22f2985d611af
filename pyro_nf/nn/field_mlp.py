"""Multilayer perceptrons as vector fields, with their divergence in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, get_args

import torch
from torch import Tensor, nn

from pyro_nf._checks import choice, hidden_sizes, non_negative_int, positive_float, positive_int
from pyro_nf.nn._smooth import SMOOTH, Smooth
from pyro_nf.nn._time_linear import Affine, TimeConditioning, TimeLinear
from pyro_nf.nn.field import Field, Values


class FieldMLP(Field):
    r"""A multilayer perceptron f(t, z, c), the vector field of a continuous flow.

    Its layers depend on the time t: "concat", the default, gives the time to each layer as one
    more input; "concatsquash" also lets it scale the layer's outputs,

    .. math:: h_i = a\big((W_i h_{i-1} + b_i) \odot s_i + t w_i + V_i c\big), \qquad
        s_i = \sigma(g_i + t u_i + G_i c), \qquad
        f = (W h + b) \odot s + t w

    and "none" leaves the time out (an autonomous field). The context c shifts and scales the
    hidden layers; the last scale s is a function of the time alone. A fresh field is 0 everywhere,
    so that its flow is the identity.

    The divergence has a closed form up to two hidden layers. With two,

    .. math:: \operatorname{tr} \frac{\partial f}{\partial z}
        = \sum \big(M (a_1' \odot s_1)\big) \odot a_2' \odot s_2, \qquad
        M = W_2 \odot (W_1 \operatorname{diag}(s) W)^\top

    costs one more H×H product than the field; without "concatsquash" M is computed once a solve.
    With more layers the divergence takes D tangents through the network.

    Args:
        input_dim: Number D of dimensions.
        hidden_dims: Widths of the hidden layers; ``()`` for a field that is affine in z.
        context_dim: Size of the context c; 0 for none.
        time: "concat", "concatsquash" or "none".
        activation: "tanh", "softplus", "silu" or "sin": smooth, because solvers and the gradient
            of the divergence need derivatives.
        gain: Spread of the hidden layers' initial weights, in units of 1/√fan_in. A larger one,
            5/3 say, fits sharp densities of many rows in fewer steps; few rows it learns by heart.

    Raises:
        TypeError: If a size is no integer.
        ValueError: If a size is out of range or an option unknown.

    References:
        FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (Grathwohl
        et al., 2018), arXiv:1810.01367, section B.1 of the reference code's layers.

    Examples:
        >>> import torch
        >>> from pyro_nf.nn import FieldMLP
        >>> field = FieldMLP(2, (16, 16), context_dim=3)
        >>> field(torch.tensor(0.5), torch.zeros(5, 2), torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dims: Sequence[int] = (64, 64),
        *,
        context_dim: int = 0,
        time: TimeConditioning = "concat",
        activation: Smooth = "tanh",
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        owner = "FieldMLP"
        self.input_dim = positive_int(owner, "input_dim", input_dim)
        self.hidden_dims = hidden_sizes(owner, "hidden_dims", hidden_dims)
        self.context_dim = non_negative_int(owner, "context_dim", context_dim)
        choice(owner, "time", time, get_args(TimeConditioning))
        self.activation: Smooth = choice(owner, "activation", activation, tuple(SMOOTH))
        positive_float(owner, "gain", gain)
        widths = (self.input_dim, *self.hidden_dims)
        self.hidden = nn.ModuleList(
            TimeLinear(inputs, outputs, time=time, context_dim=self.context_dim, gain=gain)
            for inputs, outputs in zip(widths, widths[1:], strict=False)
        )
        self.output = TimeLinear(
            widths[-1],
            self.input_dim,
            time=time,
            context_dim=0 if self.hidden_dims else self.context_dim,
            gain=0.0,
        )
        self.closed_divergence = len(self.hidden_dims) <= 2

    def read(self, context: Tensor | None, batch: torch.Size) -> Values:
        """Reads the weights and computes the context's terms and, where constant, M."""
        layers = [*cast("Sequence[TimeLinear]", self.hidden), self.output]
        values: Values = {}
        for name, layer in zip(self._names, layers, strict=True):
            values |= layer.read(name, context if layer.sizes[2] else None, batch)
        if self.closed_divergence and f"{self._names[-1]}.gate" not in values:
            values["trace"] = _trace_matrix([values[f"{name}.weight"] for name in self._names])
        return values

    def velocity(self, values: Values, t: Tensor, z: Tensor) -> Tensor:
        """Evaluates the network: one matrix product a layer."""
        activation, h = SMOOTH[self.activation], z
        for name in self._names[:-1]:
            h = activation(TimeLinear.at(values, name, t)(h))[0]
        return TimeLinear.at(values, self._names[-1], t)(h)

    def with_products(
        self, values: Values, t: Tensor, z: Tensor, directions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Evaluates the network with K tangents: K + 1 times its cost."""
        h, tangents = z, directions
        for name in self._names:
            layer = TimeLinear.at(values, name, t)
            h, factor = layer(h), layer.scale
            if name != self._names[-1]:
                h, factor = self._activate(h, layer)
            tangents = _push(layer.weight, tangents)  # (units, K, columns)
            if factor is not None:
                tangents = tangents * factor.unsqueeze(1)
        return h, tangents.expand(*tangents.shape[:2], z.shape[1])

    def with_divergence(self, values: Values, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the network and its divergence in closed form, up to two hidden layers."""
        if not self.closed_divergence:
            raise NotImplementedError(
                f"FieldMLP has {len(self.hidden_dims)} hidden layers and no closed divergence "
                "beyond two. Take the trace of with_products, with the basis as directions."
            )
        layers = [TimeLinear.at(values, name, t) for name in self._names]
        h, slopes = z, []
        for layer in layers[:-1]:
            h, slope = self._activate(layer(h), layer)
            slopes.append(slope)
        velocity, matrix = layers[-1](h), values.get("trace")
        if matrix is None:
            matrix = _trace_matrix([layer.weight for layer in layers])
        if not slopes:
            scale = layers[0].scale
            divergence = matrix.sum().expand(z.shape[1]) if scale is None else matrix @ scale
        elif len(slopes) == 1:
            divergence = matrix @ slopes[0]
        else:
            divergence = ((matrix @ slopes[0]) * slopes[1]).sum(0)
        return velocity, divergence

    def _activate(self, linear: Tensor, layer: Affine) -> tuple[Tensor, Tensor]:
        """The layer's units, and the factor on ``layer.weight @ h`` in their derivative."""
        h, slope = SMOOTH[self.activation](linear)
        return h, slope if layer.scale is None else slope * layer.scale

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(map(str, range(len(self.hidden_dims) + 1)))


def _trace_matrix(weights: Sequence[Tensor]) -> Tensor:
    """What the slopes of the hidden layers are contracted with in the divergence."""
    if len(weights) == 1:
        return weights[0].diagonal()
    if len(weights) == 2:
        return (weights[0] * weights[1].t()).sum(1)
    return weights[1] * (weights[0] @ weights[2]).t()


def _push(weight: Tensor, tangents: Tensor) -> Tensor:
    """A matrix times the tangents ``(units, K, columns)``."""
    units, count, columns = tangents.shape
    flat = weight @ tangents.reshape(units, count * columns)
    return flat.reshape(len(weight), count, columns)
