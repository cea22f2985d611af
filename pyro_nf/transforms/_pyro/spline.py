"""Rational splines of each dimension, under Pyro's names."""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn import Module

from pyro_nf.nn.mlp import Activation
from pyro_nf.transforms._pyro._spline_bijection import Order, PyroSpline, spline_bijection
from pyro_nf.transforms._pyro.networks import (
    ContextNetwork,
    Network,
    size_of_context,
)
from pyro_nf.transforms.elementwise import Elementwise


class Spline(Elementwise):
    r"""A rational spline of each dimension, as Pyro's ``Spline``: the identity outside a box.

    ``order="linear"`` is :class:`~pyro_nf.bijections.LinearRationalSpline`, "quadratic"
    :class:`~pyro_nf.bijections.RationalQuadraticSpline`, both with the boundary slopes fixed at 1.
    Either direction has a closed form.

    It differs from Pyro's in that a fresh layer is the identity, that events are vectors (so
    ``log_prob`` is summed over the D dimensions), and that a context is an option.

    Args:
        input_dim: Number D of dimensions.
        count_bins: Number of bins of each spline.
        bound: Half the side of the box, in units of x.
        order: "linear" or "quadratic", the order of the ratio's polynomials.
        context_dim: Size of the context; 0 for learned constants.
        hidden_dims: Widths of the network that reads the context.
        nonlinearity: Its activation: a name, a function or a module.

    Raises:
        TypeError, ValueError: If an option is out of its range.

    References:
        - Neural Spline Flows (Durkan et al., 2019), arXiv:1906.04032.
        - Invertible Generative Modeling using Linear Rational Splines (Dolatabadi et al., 2020),
          arXiv:2001.05168.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> layer = T.Spline(3, count_bins=4, order="quadratic")
        >>> layer(torch.ones(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        input_dim: int,
        count_bins: int = 8,
        bound: float = 3.0,
        order: Order = "linear",
        *,
        context_dim: int = 0,
        hidden_dims: Sequence[int] = (64, 64),
        nonlinearity: Activation = "relu",
    ) -> None:
        super().__init__(
            spline_bijection(type(self).__name__, count_bins, bound, order),
            input_dim,
            context_dim=context_dim,
            hidden_dims=hidden_dims,
            activation=nonlinearity,
        )


class ConditionalSpline(Spline):
    """A :class:`Spline` whose parameters a given network makes of the context, as Pyro's.

    The network's raw numbers have Pyro's meaning, so a network trained there gives the same map.
    It costs one pass of the network for each context; either direction then has a closed form. The
    source is that of :class:`Spline`.

    Args:
        nn: Maps a context ``(*batch, context_dim)`` to the raw widths, heights, slopes and, for
            ``order="linear"``, cuts: tensors of shape ``(*batch, D · p)`` as ``pyro.nn.DenseNN``
            makes them, or ``(*batch, p, D)``, with p = K, K, K − 1 and K for K bins.
        input_dim: Number D of dimensions.
        count_bins: Number K of bins.
        bound: Half the side of the box, in units of x.
        order: "linear" or "quadratic".
        context_dim: Size of the context; None for ``nn.input_dim``.

    Raises:
        TypeError, ValueError: If an option is out of its range, or the context's size unknown.

    Examples:
        >>> import torch
        >>> from pyro.nn import DenseNN
        >>> from pyro_nf import transforms as T
        >>> nn = DenseNN(2, [10], param_dims=[3 * 4, 3 * 4, 3 * 3])
        >>> layer = T.ConditionalSpline(nn, 3, 4, order="quadratic")
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3,))
        torch.Size([5, 3])
    """

    def __init__(
        self,
        nn: Network,
        input_dim: int,
        count_bins: int,
        bound: float = 3.0,
        order: Order = "linear",
        *,
        context_dim: int | None = None,
    ) -> None:
        size = size_of_context("ConditionalSpline", nn, context_dim)
        super().__init__(input_dim, count_bins, bound, order, context_dim=size, hidden_dims=())
        spline = spline_bijection("ConditionalSpline", count_bins, bound, order)
        self.bijection = PyroSpline(spline)
        self.network = ContextNetwork(  # type: ignore[assignment]
            nn, input_dim, spline.param_count, "ConditionalSpline"
        )
        self.reusable = isinstance(nn, Module)


def spline(
    input_dim: int,
    count_bins: int = 8,
    bound: float = 3.0,
    order: Order = "linear",
) -> Spline:
    """Creates a :class:`Spline` of learned constants, as Pyro's ``spline``.

    Cost, errors, source: see :class:`Spline`.

    Args:
        input_dim: Number of dimensions.
        count_bins: Number of bins of each spline.
        bound: Half the side of the box, in units of x.
        order: "linear" or "quadratic".

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.spline(3, count_bins=4).bijection.bins
        4
    """
    return Spline(input_dim, count_bins, bound, order)


def conditional_spline(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] | None = None,
    count_bins: int = 8,
    bound: float = 3.0,
    order: Order = "linear",
    *,
    nonlinearity: Activation = "relu",
) -> Spline:
    """Creates a :class:`Spline` that depends on a context, as Pyro's ``conditional_spline``.

    Cost, errors, source: see :class:`Spline`.

    Args:
        input_dim: Number D of dimensions.
        context_dim: Size of the context.
        hidden_dims: Widths of the network; ``[10 D, 10 D]`` by default.
        count_bins: Number of bins of each spline.
        bound: Half the side of the box, in units of x.
        order: "linear" or "quadratic".
        nonlinearity: The network's activation.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> layer = T.conditional_spline(3, 2)
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3,))
        torch.Size([5, 3])
    """
    if hidden_dims is None:
        hidden_dims = [10 * input_dim, 10 * input_dim]
    return Spline(
        input_dim,
        count_bins,
        bound,
        order,
        context_dim=context_dim,
        hidden_dims=hidden_dims,
        nonlinearity=nonlinearity,
    )
