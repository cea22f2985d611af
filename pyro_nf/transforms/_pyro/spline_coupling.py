"""Couplings of rational splines under Pyro's names."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_nf.nn import MLP
from pyro_nf.nn.mlp import Activation
from pyro_nf.transforms._pyro._spline_bijection import Order, PyroSpline, spline_bijection
from pyro_nf.transforms._pyro.coupling import (
    Kept,
    SplitCoupling,
    dense_network,
    event_of,
    kept_part,
)
from pyro_nf.transforms._pyro.networks import Network
from pyro_nf.transforms._pyro.spline import Spline


class SplineCoupling(SplitCoupling):
    r"""A coupling of rational splines over a given network, as Pyro's ``SplineCoupling``.

    .. math:: y_{<d} = h(x_{<d}), \qquad y_{\ge d} = g(x_{\ge d}; \mathrm{hypernet}(x_{<d}))

    with g the spline of :class:`Spline` and h a spline of each dimension, of learned constants, or
    the identity. Either direction is one pass of the network.

    The raw numbers of a network other than ``pyro_nf.nn.MLP`` have Pyro's meaning, so that one
    trained there gives the same map.

    Args:
        input_dim: Number D of dimensions.
        split_dim: The index d of the split.
        hypernet: A ``pyro_nf.nn.MLP``, or a callable as ``pyro.nn.DenseNN`` is: the kept part to
            tensors of M · K, M · K, M · (K − 1) and, for ``order="linear"``, M · K numbers for M
            moved dimensions.
        count_bins: Number K of bins.
        bound: Half the side of the box, in units of x.
        order: "linear" or "quadratic", the order of the ratio's polynomials.
        identity: Whether h is the identity.
        context_dim: Size of the context; None for the network's own ``context_dim``.
        kept: "lower" keeps what lies below the split, "upper" the rest.

    Raises:
        TypeError, ValueError: If an option is out of its range.

    References:
        Neural Spline Flows (Durkan et al., 2019), arXiv:1906.04032.

    Examples:
        >>> import torch
        >>> from pyro.nn import DenseNN
        >>> from pyro_nf import transforms as T
        >>> hypernet = DenseNN(2, [10], param_dims=[12, 12, 9, 12])
        >>> T.SplineCoupling(5, 2, hypernet, count_bins=4)(torch.ones(7, 5)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        input_dim: int,
        split_dim: int,
        hypernet: Network,
        count_bins: int = 8,
        bound: float = 3.0,
        order: Order = "linear",
        identity: bool = False,  # noqa: FBT001, FBT002  (Pyro's signature)
        *,
        context_dim: int | None = None,
        kept: Kept = "lower",
    ) -> None:
        event, split = event_of("SplineCoupling", input_dim, split_dim, -1)
        spline = spline_bijection("SplineCoupling", count_bins, bound, order)
        kept_dim = split if kept == "lower" else event[0] - split
        moves_both = kept_dim > 0 and not identity
        super().__init__(
            spline if isinstance(hypernet, MLP) else PyroSpline(spline),
            split,
            hypernet,
            event_shape=event,
            context_dim=context_dim,
            kept=kept,
            lower=Spline(kept_dim, count_bins, bound, order) if moves_both else None,
        )


def spline_coupling(
    input_dim: int,
    split_dim: int | None = None,
    hidden_dims: Sequence[int] | None = None,
    count_bins: int = 8,
    bound: float = 3.0,
    order: Order = "linear",
    identity: bool = False,  # noqa: FBT001, FBT002  (as the class takes it)
    *,
    nonlinearity: Activation = "relu",
    parity: int = 0,
) -> SplineCoupling:
    """Creates a coupling of rational splines, as Pyro's ``spline_coupling``.

    A fresh layer is the identity.

    Cost, errors, source: see :class:`SplineCoupling`.

    Args:
        input_dim: Number D of dimensions.
        split_dim: The index of the split; the middle by default.
        hidden_dims: Widths of the network; ``[10 D, 10 D]`` by default.
        count_bins: Number of bins of each spline.
        bound: Half the side of the box, in units of x.
        order: "linear" or "quadratic", the order of the ratio's polynomials.
        identity: Whether the part that the network reads stays as it is; else a spline of learned
            constants moves it.
        nonlinearity: The network's activation: a name, a function or a module.
        parity: 1 exchanges the two parts; :func:`iterated` alternates it.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.spline_coupling(5, order="quadratic").bijection.param_count
        23
    """
    return conditional_spline_coupling(
        input_dim,
        0,
        split_dim,
        hidden_dims,
        count_bins,
        bound,
        order,
        identity,
        nonlinearity=nonlinearity,
        parity=parity,
    )


def conditional_spline_coupling(
    input_dim: int,
    context_dim: int,
    split_dim: int | None = None,
    hidden_dims: Sequence[int] | None = None,
    count_bins: int = 8,
    bound: float = 3.0,
    order: Order = "linear",
    identity: bool = False,  # noqa: FBT001, FBT002  (as the class takes it)
    *,
    nonlinearity: Activation = "relu",
    parity: int = 0,
) -> SplineCoupling:
    """Creates the layer of :func:`spline_coupling` with a context, which its network reads too.

    Cost, errors, source: see :class:`SplineCoupling`.

    Args:
        input_dim: Number D of dimensions.
        context_dim: Size of the context.
        split_dim: The index of the split; the middle by default.
        hidden_dims: Widths of the network; ``[10 D, 10 D]`` by default.
        count_bins: Number of bins of each spline.
        bound: Half the side of the box, in units of x.
        order: "linear" or "quadratic", the order of the ratio's polynomials.
        identity: Whether the part that the network reads stays as it is.
        nonlinearity: The network's activation: a name, a function or a module.
        parity: 1 exchanges the two parts; :func:`iterated` alternates it.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> layer = T.conditional_spline_coupling(5, 2)
        >>> layer.condition(torch.zeros(7, 2)).forward_shape((5,))
        torch.Size([7, 5])
    """
    event, split = event_of("spline_coupling", input_dim, split_dim, -1)
    kept = kept_part(parity, split)
    network = dense_network(
        event,
        split,
        spline_bijection("spline_coupling", count_bins, bound, order),
        kept,
        hidden_dims=[10 * input_dim, 10 * input_dim] if hidden_dims is None else hidden_dims,
        context_dim=context_dim,
        nonlinearity=nonlinearity,
    )
    return SplineCoupling(input_dim, split, network, count_bins, bound, order, identity, kept=kept)
