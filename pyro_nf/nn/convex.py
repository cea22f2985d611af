"""A network that is strongly convex in its input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_nf._checks import hidden_sizes, non_negative_int, positive_float, positive_int
from pyro_nf._precision import widen
from pyro_nf.nn._convex import ConvexValues, activations, gradient_at, potential_at
from pyro_nf.nn._linear import check_inputs, spread
from pyro_nf.nn.mlp import MLP

LEAST_STRENGTH = 1e-3
"""The floor of α: no eigenvalue of a Hessian is smaller."""

_FRESH_OUTPUT = 0.5  # all units' output weights together

# Weights ≥ 0 are softplus(4 r): an optimiser whose steps suit r of order 1 then changes even
# small ones by a good part of themselves.
_STEEPNESS = 4.0


class ConvexMLP(nn.Module):
    r"""A network from ``(input_dim, *batch)`` to numbers ``(*batch,)``, strongly convex in x.

    .. math::
        F(x; c) = \frac{α}{2} |x|^2 + t^\top x + \frac1β v^\top s(a_K), \qquad
        a_k = β (A_k x + b_k) + P_k s(a_{k-1})

    with :math:`P_k, v ≥ 0` and :math:`α ≥ 10^{-3}` by a softplus, whatever the parameters. The
    activation s is the softplus, convex and increasing; in the first layer, where the argument is
    affine and convexity is enough, it is made symmetric, :math:`s(a) = \log 2\cosh(a/2)`, so that
    it adds nothing to the gradient at a = 0. The sharpness β is fixed: with a large β, weights of
    order 1 make kinks that are narrow beside standardised data, which trains far better than
    large weights.

    The function is convex in x and free in the context c: α, b, t and v are shifted, before their
    softplus, by an ordinary :class:`~pyro_nf.nn.MLP` of the context, evaluated once for each row
    of the context. The matrices A and P are the same for all contexts.

    The gradient and the Hessian are in closed form, without a call of autograd, and so compile,
    map and differentiate again. A fresh network has α = 1 and small v: its gradient map is near
    the identity. It is so whatever the context.

    Cost for one x, with hidden layers of width H: O(DH + H²) for the value or the gradient, about
    two evaluations of an MLP of this size; O(D² H + D H²) for the Hessian.

    Args:
        input_dim: number D of features of x.
        hidden_dims: widths of the hidden layers, at least one.
        context_dim: length of the context's last axis; 0 for none.
        sharpness: the fixed factor β.

    Raises:
        ValueError: if a size or the sharpness is out of range.
        TypeError: if a size is no integer or the sharpness no number.

    References:
        - Input convex neural networks (Amos et al., 2017), arXiv:1609.07152.
        - Convex potential flows: universal probability distributions with optimal transport and
          convex optimization (Huang et al., 2021), arXiv:2012.05942.

    Examples:
        >>> import torch
        >>> network = ConvexMLP(3, hidden_dims=(16, 16), context_dim=2)
        >>> x, context = torch.randn(3, 10, 5), torch.randn(5, 2)
        >>> network(x, context).shape
        torch.Size([10, 5])
        >>> network.gradient(x, context).shape, network.hessian(x, context).shape
        (torch.Size([3, 10, 5]), torch.Size([10, 5, 3, 3]))
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dims: Sequence[int] = (64, 64),
        *,
        context_dim: int = 0,
        sharpness: float = 8.0,
    ) -> None:
        super().__init__()
        self.input_dim = positive_int("ConvexMLP", "input_dim", input_dim)
        self.hidden_dims = hidden_sizes("ConvexMLP", "hidden_dims", hidden_dims)
        if not self.hidden_dims:
            raise ValueError(
                "ConvexMLP got hidden_dims=(). Pass at least one width, such as [64]."
            )
        self.context_dim = non_negative_int("ConvexMLP", "context_dim", context_dim)
        self.sharpness = positive_float("ConvexMLP", "sharpness", sharpness)
        before = (0, *self.hidden_dims[:-1])
        self.layers = nn.ModuleList(
            ConvexLayer(self.input_dim, width, inner)
            for width, inner in zip(self.hidden_dims, before, strict=True)
        )
        last = self.hidden_dims[-1]
        raw_output = inverse_softplus(_FRESH_OUTPUT / last) / _STEEPNESS
        self.output = nn.Parameter(torch.full((last,), raw_output))
        self.tilt = nn.Parameter(torch.zeros(self.input_dim))
        self.strength = nn.Parameter(torch.tensor(inverse_softplus(1 - LEAST_STRENGTH)))
        self._sizes = (*self.hidden_dims, last, self.input_dim, 1)
        self.conditioner = (
            MLP(self.context_dim, sum(self._sizes), self.hidden_dims, activation="silu")
            if self.context_dim
            else None
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluates the network.

        Args:
            x: shape ``(input_dim, *batch)``.
            context: shape ``(*context_batch, context_dim)``; its batch broadcasts against that of
                x, aligned right, and is not larger.

        Returns:
            Tensor of shape ``(*batch,)``.
        """
        values, columns = self._at(x, context)
        value = potential_at(values, columns, activations(values, columns))
        return value.reshape(x.shape[1:]).to(x.dtype)

    def gradient(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The gradient by x, of the shape of x."""
        values, columns = self._at(x, context)
        gradient = gradient_at(values, columns, activations(values, columns))[0]
        return gradient.reshape(x.shape).to(x.dtype)

    def hessian(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The matrices of second derivatives by x, ``(*batch, input_dim, input_dim)``."""
        values, columns = self._at(x, context)
        hessian = gradient_at(values, columns, activations(values, columns))[1]
        matrix = hessian.matrix().reshape(*x.shape[1:], self.input_dim, self.input_dim)
        return matrix.to(x.dtype)

    def values(self, context: Tensor | None, batch: torch.Size) -> ConvexValues:
        """The network's numbers for contexts that broadcast with a batch of shape ``batch``.

        Reads the parameters, each once: attributes may be sampled anew at every access. Half
        precision becomes float32: a Hessian's factorisation needs it.
        """
        layers = [cast("ConvexLayer", layer).values() for layer in self.layers]
        biases = [layer.bias for layer in layers]
        mixers = [widen(layer.mixer) for layer in layers if layer.mixer is not None]
        raw = torch.cat([*biases, self.output, self.tilt, self.strength.reshape(1)])[:, None]
        if self.conditioner is not None and context is not None:
            raw = raw + spread(self.conditioner(context.movedim(-1, 0)), batch)
        *shifts, output, tilt, strength = widen(raw).split(self._sizes)
        return ConvexValues(
            tuple(self.sharpness * widen(layer.weight) for layer in layers),
            tuple(_positive(mixer) / mixer.shape[1] for mixer in mixers),
            tuple(self.sharpness * shift for shift in shifts),
            _positive(output) / self.sharpness,
            tilt,
            LEAST_STRENGTH + softplus(strength).squeeze(0),
        )

    def _at(self, x: Tensor, context: Tensor | None) -> tuple[ConvexValues, Tensor]:
        check_inputs("ConvexMLP", x, context, self.input_dim, self.context_dim)
        batch = x.shape[1:]
        columns = widen(x.reshape(self.input_dim, math.prod(batch)))
        return self.values(context, batch), columns

    def extra_repr(self) -> str:
        """Shows the sizes."""
        return (
            f"{self.input_dim}, hidden_dims={self.hidden_dims}, context_dim={self.context_dim}, "
            f"sharpness={self.sharpness:g}"
        )


class LayerValues(NamedTuple):
    """The raw parameters of a hidden layer; the first has no ``mixer``."""

    weight: Tensor
    bias: Tensor
    mixer: Tensor | None


class ConvexLayer(nn.Module):
    """The parameters of a hidden layer, which reads x and, through weights ≥ 0, the layer before.

    Args:
        input_dim: number of features of x.
        output_dim: number of units.
        inner_dim: number of units of the layer before; 0 for the first layer.
    """

    def __init__(self, input_dim: int, output_dim: int, inner_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(output_dim, input_dim) / math.sqrt(input_dim))
        self.bias = nn.Parameter(torch.randn(output_dim))
        self.mixer = (  # about the mean of the units before
            nn.Parameter(torch.randn(output_dim, inner_dim) / _STEEPNESS) if inner_dim else None
        )

    def values(self) -> LayerValues:
        """Reads the parameters, each once."""
        return LayerValues(self.weight, self.bias, self.mixer)


def inverse_softplus(value: float) -> float:
    """The number whose softplus is ``value`` > 0."""
    return math.log(math.expm1(value))


def _positive(raw: Tensor) -> Tensor:
    return softplus(_STEEPNESS * raw)
