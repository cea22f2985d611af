"""Autoregressive rational splines under Pyro's names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyro_nf.nn import MaskedMLP
from pyro_nf.nn.mlp import Activation
from pyro_nf.transforms._pyro._spline_bijection import Order, PyroSpline, spline_bijection
from pyro_nf.transforms._pyro.autoregressive import NetworkAutoregressive, chain_order
from pyro_nf.transforms._pyro.networks import Network


class SplineAutoregressive(NetworkAutoregressive):
    r"""An autoregressive rational spline over a given network, as Pyro's class of this name.

    .. math:: y_d = g(x_d; \theta_d(x_{<d})), \qquad \theta = \mathrm{arn}(x)

    with g the spline of :class:`Spline`. Cost: sampling is one pass. Scoring takes D steps: about
    one pass of arithmetic with a ``pyro_nf.nn.MaskedMLP``, D passes with any other network.

    The raw numbers of a network other than ``MaskedMLP`` have Pyro's meaning, so that one trained
    there gives the same map.

    Args:
        input_dim: Number D of dimensions.
        autoregressive_nn: A ``MaskedMLP`` with the spline's parameters for each input, or a
            callable as ``pyro.nn.AutoRegressiveNN`` is, with an attribute ``permutation``, that
            returns K, K, K − 1 and, for ``order="linear"``, K numbers for each input.
        count_bins: Number K of bins.
        bound: Half the side of the box, in units of x.
        order: "linear" or "quadratic", the order of the ratio's polynomials.
        context_dim: Size of the context; None for the network's own ``context_dim``.

    Raises:
        TypeError, ValueError: If an option is out of its range or the network does not fit.

    References:
        - Neural Spline Flows (Durkan et al., 2019), arXiv:1906.04032.
        - Invertible Generative Modeling using Linear Rational Splines (Dolatabadi et al., 2020),
          arXiv:2001.05168.

    Examples:
        >>> import torch
        >>> from pyro.nn import AutoRegressiveNN
        >>> from pyro_nf import transforms as T
        >>> arn = AutoRegressiveNN(3, [10], param_dims=[4, 4, 3])
        >>> layer = T.SplineAutoregressive(3, arn, count_bins=4, order="quadratic")
        >>> layer(torch.ones(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        input_dim: int,
        autoregressive_nn: Network,
        count_bins: int = 8,
        bound: float = 3.0,
        order: Order = "linear",
        *,
        context_dim: int | None = None,
    ) -> None:
        spline = spline_bijection(type(self).__name__, count_bins, bound, order)
        ours = isinstance(autoregressive_nn, MaskedMLP)
        super().__init__(spline if ours else PyroSpline(spline), autoregressive_nn, context_dim)
        if input_dim != self.input_dim:
            raise ValueError(
                f"SplineAutoregressive(input_dim={input_dim}) got a network of {self.input_dim} "
                "inputs. Build it for as many."
            )


def spline_autoregressive(
    input_dim: int,
    hidden_dims: Sequence[int] | None = None,
    count_bins: int = 8,
    bound: float = 3.0,
    order: Order = "linear",
    *,
    nonlinearity: Activation = "relu",
    permutation: Sequence[int] | Tensor | None = None,
    parity: int = 0,
) -> SplineAutoregressive:
    """Creates an autoregressive spline layer, as Pyro's ``spline_autoregressive``.

    A fresh layer is the identity; its order is the natural one, where Pyro draws one at random.

    Cost, errors, source: see :class:`SplineAutoregressive`.

    Args:
        input_dim: Number D of dimensions.
        hidden_dims: Widths of the masked network; ``[10 D, 10 D]`` by default.
        count_bins: Number of bins of each spline.
        bound: Half the side of the box, in units of x.
        order: "linear" or "quadratic", the order of the ratio's polynomials.
        nonlinearity: The network's activation: a name, a function or a module.
        permutation: The order of the dimensions; natural by default.
        parity: 1 reverses that order; :func:`iterated` alternates it.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.spline_autoregressive(3, order="quadratic").bijection.param_count
        23
    """
    return conditional_spline_autoregressive(
        input_dim,
        0,
        hidden_dims,
        count_bins,
        bound,
        order,
        nonlinearity=nonlinearity,
        permutation=permutation,
        parity=parity,
    )


def conditional_spline_autoregressive(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] | None = None,
    count_bins: int = 8,
    bound: float = 3.0,
    order: Order = "linear",
    *,
    nonlinearity: Activation = "relu",
    permutation: Sequence[int] | Tensor | None = None,
    parity: int = 0,
) -> SplineAutoregressive:
    """Creates the layer of :func:`spline_autoregressive` with a context.

    Cost, errors, source: see :class:`SplineAutoregressive`.

    Args:
        input_dim: Number D of dimensions.
        context_dim: Size of the context.
        hidden_dims: Widths of the masked network; ``[10 D, 10 D]`` by default.
        count_bins: Number of bins of each spline.
        bound: Half the side of the box, in units of x.
        order: "linear" or "quadratic", the order of the ratio's polynomials.
        nonlinearity: The network's activation: a name, a function or a module.
        permutation: The order of the dimensions; natural by default.
        parity: 1 reverses that order; :func:`iterated` alternates it.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> layer = T.conditional_spline_autoregressive(3, 2)
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3,))
        torch.Size([5, 3])
    """
    spline = spline_bijection("spline_autoregressive", count_bins, bound, order)
    network = MaskedMLP(
        input_dim,
        spline.param_count,
        [10 * input_dim, 10 * input_dim] if hidden_dims is None else hidden_dims,
        order=chain_order("spline_autoregressive", input_dim, permutation, parity),
        context_dim=context_dim,
        activation=nonlinearity,
    )
    return SplineAutoregressive(input_dim, network, count_bins, bound, order)
