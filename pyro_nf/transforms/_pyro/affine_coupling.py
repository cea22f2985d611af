"""Affine coupling under Pyro's names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyro_nf.nn.mlp import Activation
from pyro_nf.transforms._pyro._clipped_affine import clipped_affine
from pyro_nf.transforms._pyro.coupling import (
    Kept,
    SplitCoupling,
    dense_network,
    event_of,
    kept_part,
)
from pyro_nf.transforms._pyro.networks import Network


class AffineCoupling(SplitCoupling):
    r"""Affine coupling over a given network, as Pyro's ``AffineCoupling``.

    .. math:: y_{<d} = x_{<d}, \qquad y_{\ge d} = \sigma x_{\ge d} + \mu, \qquad
        (\mu, \log \sigma) = \mathrm{hypernet}(x_{<d})

    Either direction is one pass of the network. It differs from Pyro's in that the two clips
    bound :math:`\log \sigma` softly, :math:`a / (1 + |a| / \mathrm{clip})`, and in that the same
    class takes a network that reads a context.

    Args:
        split_dim: The index d of the split.
        hypernet: A ``pyro_nf.nn.MLP``, or a callable as ``pyro.nn.DenseNN`` is: the flattened kept
            part to a pair of tensors of the flattened moved part's size; one that reads a context
            takes it as ``context=``.
        dim: The dimension to split, negative: the event has ``-dim`` dimensions.
        log_scale_min_clip: Lower bound of the log-scale, < 0.
        log_scale_max_clip: Upper bound of the log-scale, > 0.
        event_shape: The event's sizes; needed for nothing but clear errors.
        context_dim: Size of the context; None for the network's own ``context_dim``.
        kept: "lower" keeps what lies below the split, "upper" the rest.

    Raises:
        TypeError, ValueError: If an option is out of its range.

    References:
        Density estimation using Real NVP (Dinh et al., 2017), arXiv:1605.08803.

    Examples:
        >>> import torch
        >>> from pyro.nn import DenseNN
        >>> from pyro_nf import transforms as T
        >>> layer = T.AffineCoupling(2, DenseNN(2, [10], param_dims=[3, 3]))
        >>> layer(torch.ones(7, 5)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        split_dim: int,
        hypernet: Network,
        *,
        dim: int = -1,
        log_scale_min_clip: float = -5.0,
        log_scale_max_clip: float = 3.0,
        event_shape: Sequence[int] | None = None,
        context_dim: int | None = None,
        kept: Kept = "lower",
    ) -> None:
        super().__init__(
            clipped_affine(type(self).__name__, log_scale_min_clip, log_scale_max_clip),
            split_dim,
            hypernet,
            dim=dim,
            event_shape=event_shape,
            context_dim=context_dim,
            kept=kept,
        )


def affine_coupling(
    input_dim: int | Sequence[int],
    hidden_dims: Sequence[int] | None = None,
    split_dim: int | None = None,
    dim: int = -1,
    *,
    log_scale_min_clip: float = -5.0,
    log_scale_max_clip: float = 3.0,
    nonlinearity: Activation = "relu",
    parity: int = 0,
) -> AffineCoupling:
    """Creates an affine coupling layer, as Pyro's ``affine_coupling``.

    A fresh layer is the identity.

    Cost, errors, source: see :class:`AffineCoupling`.

    Args:
        input_dim: Number D of dimensions; for ``dim < -1`` the event's ``-dim`` sizes.
        hidden_dims: Widths of the network; ``[10 D]`` by default, D the number of elements.
        split_dim: The index of the split; the middle by default.
        dim: The dimension to split, negative: the event has ``-dim`` dimensions.
        log_scale_min_clip: Lower bound of the log-scale, < 0, approached softly.
        log_scale_max_clip: Upper bound of the log-scale, > 0, approached softly.
        nonlinearity: The network's activation: a name, a function or a module.
        parity: 1 exchanges what is kept and what is moved; :func:`iterated` alternates it.

    Returns:
        A layer of ``(*batch, *event)``.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> T.affine_coupling((4, 3), dim=-2)(torch.ones(5, 4, 3)).shape
        torch.Size([5, 4, 3])
    """
    return conditional_affine_coupling(
        input_dim,
        0,
        hidden_dims,
        split_dim,
        dim,
        log_scale_min_clip=log_scale_min_clip,
        log_scale_max_clip=log_scale_max_clip,
        nonlinearity=nonlinearity,
        parity=parity,
    )


def conditional_affine_coupling(
    input_dim: int | Sequence[int],
    context_dim: int,
    hidden_dims: Sequence[int] | None = None,
    split_dim: int | None = None,
    dim: int = -1,
    *,
    log_scale_min_clip: float = -5.0,
    log_scale_max_clip: float = 3.0,
    nonlinearity: Activation = "relu",
    parity: int = 0,
) -> AffineCoupling:
    """Creates the layer of :func:`affine_coupling` with a context.

    Cost, errors, source: see :class:`AffineCoupling`.

    Args:
        input_dim: Number D of dimensions; for ``dim < -1`` the event's ``-dim`` sizes.
        context_dim: Size of the context.
        hidden_dims: Widths of the network; ``[10 D]`` by default, D the number of elements.
        split_dim: The index of the split; the middle by default.
        dim: The dimension to split, negative: the event has ``-dim`` dimensions.
        log_scale_min_clip: Lower bound of the log-scale, < 0, approached softly.
        log_scale_max_clip: Upper bound of the log-scale, > 0, approached softly.
        nonlinearity: The network's activation: a name, a function or a module.
        parity: 1 exchanges what is kept and what is moved; :func:`iterated` alternates it.

    Returns:
        A layer of ``(*batch, *event)``.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> layer = T.conditional_affine_coupling(3, 2)
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3,))
        torch.Size([5, 3])
    """
    event, split = event_of("affine_coupling", input_dim, split_dim, dim)
    kept = kept_part(parity, split)
    if hidden_dims is None:
        hidden_dims = [10 * math.prod(event)]
    bijection = clipped_affine("affine_coupling", log_scale_min_clip, log_scale_max_clip)
    network = dense_network(
        event,
        split,
        bijection,
        kept,
        hidden_dims=hidden_dims,
        context_dim=context_dim,
        nonlinearity=nonlinearity,
    )
    return AffineCoupling(
        split,
        network,
        dim=dim,
        log_scale_min_clip=log_scale_min_clip,
        log_scale_max_clip=log_scale_max_clip,
        event_shape=event,
        kept=kept,
    )
