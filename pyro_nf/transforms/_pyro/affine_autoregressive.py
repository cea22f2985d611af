"""Inverse autoregressive flow under Pyro's names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyro_nf._checks import finite_float
from pyro_nf.bijections import GatedAffine, ScalarBijection
from pyro_nf.nn import MaskedMLP
from pyro_nf.nn.mlp import Activation
from pyro_nf.transforms._pyro._clipped_affine import clipped_affine
from pyro_nf.transforms._pyro.autoregressive import NetworkAutoregressive, chain_order
from pyro_nf.transforms._pyro.networks import Network


class AffineAutoregressive(NetworkAutoregressive):
    r"""Inverse autoregressive flow over a given network, as Pyro's ``AffineAutoregressive``.

    .. math:: y_d = \sigma_d x_d + \mu_d, \qquad (\mu, \log \sigma) = \mathrm{arn}(x),

    or, with ``stable=True``, the gated average :math:`y_d = \sigma_d x_d + (1 - \sigma_d) \mu_d`
    with :math:`\sigma = \mathrm{sigmoid}(\mathrm{arn}_2(x) + \mathrm{bias})`.

    Cost: sampling is one pass. Scoring takes D steps: about one pass of arithmetic with a
    ``pyro_nf.nn.MaskedMLP``, D passes with any other network.

    It differs from Pyro's in that the two clips bound :math:`\log \sigma` softly,
    :math:`a / (1 + |a| / \mathrm{clip})`, so that gradients are those of the map; and in that the
    same class takes a network that reads a context.

    Args:
        autoregressive_nn: A ``MaskedMLP`` with two parameters for each input, or a callable as
            ``pyro.nn.AutoRegressiveNN`` is, with an attribute ``permutation``; one that reads a
            context takes it as ``context=``.
        log_scale_min_clip: Lower bound of the log-scale, < 0.
        log_scale_max_clip: Upper bound of the log-scale, > 0.
        sigmoid_bias: The gate's argument where the network gives 0; used if ``stable``.
        stable: Whether to take the gated average.
        context_dim: Size of the context; None for the network's own ``context_dim``.

    Raises:
        TypeError, ValueError: If an option is out of its range or the network does not fit.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        arXiv:1606.04934.

    Examples:
        >>> import torch
        >>> from pyro.nn import AutoRegressiveNN
        >>> from pyro_nf import transforms as T
        >>> layer = T.AffineAutoregressive(AutoRegressiveNN(3, [10]))
        >>> layer.inv(layer(torch.ones(5, 3))).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        autoregressive_nn: Network,
        log_scale_min_clip: float = -5.0,
        log_scale_max_clip: float = 3.0,
        sigmoid_bias: float = 2.0,
        stable: bool = False,  # noqa: FBT001, FBT002  (Pyro's signature)
        *,
        context_dim: int | None = None,
    ) -> None:
        owner = type(self).__name__
        bijection: ScalarBijection
        if stable:
            bijection = GatedAffine(bias=finite_float(owner, "sigmoid_bias", sigmoid_bias))
        else:
            bijection = clipped_affine(owner, log_scale_min_clip, log_scale_max_clip)
        super().__init__(bijection, autoregressive_nn, context_dim)


def affine_autoregressive(
    input_dim: int,
    hidden_dims: Sequence[int] | None = None,
    log_scale_min_clip: float = -5.0,
    log_scale_max_clip: float = 3.0,
    sigmoid_bias: float = 2.0,
    stable: bool = False,  # noqa: FBT001, FBT002  (Pyro's signature)
    *,
    nonlinearity: Activation = "relu",
    permutation: Sequence[int] | Tensor | None = None,
    parity: int = 0,
) -> AffineAutoregressive:
    """Creates an inverse autoregressive layer, as Pyro's ``affine_autoregressive``.

    A fresh layer is the identity (with ``stable``, a scaling by sigmoid(bias)). Its order is the
    natural one, where Pyro draws one at random; hidden layers may have any widths.

    Cost, errors, source: see :class:`AffineAutoregressive`.

    Args:
        input_dim: Number D of dimensions.
        hidden_dims: Widths of the masked network; ``[3 D + 1]`` by default.
        log_scale_min_clip: Lower bound of the log-scale, < 0, approached softly.
        log_scale_max_clip: Upper bound of the log-scale, > 0, approached softly.
        sigmoid_bias: The gate's argument at a fresh network; used if ``stable``.
        stable: Whether to take the gated average.
        nonlinearity: The network's activation: a name, a function or a module.
        permutation: The order of the dimensions; natural by default.
        parity: 1 reverses that order; :func:`iterated` alternates it.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.affine_autoregressive(3, [16, 16], nonlinearity="tanh").arn.hidden_dims
        (16, 16)
    """
    network = MaskedMLP(
        input_dim,
        2,
        [3 * input_dim + 1] if hidden_dims is None else hidden_dims,
        order=chain_order("affine_autoregressive", input_dim, permutation, parity),
        activation=nonlinearity,
    )
    return AffineAutoregressive(
        network, log_scale_min_clip, log_scale_max_clip, sigmoid_bias, stable
    )


def conditional_affine_autoregressive(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] | None = None,
    log_scale_min_clip: float = -5.0,
    log_scale_max_clip: float = 3.0,
    sigmoid_bias: float = 2.0,
    stable: bool = False,  # noqa: FBT001, FBT002  (Pyro's signature)
    *,
    nonlinearity: Activation = "relu",
    permutation: Sequence[int] | Tensor | None = None,
    parity: int = 0,
) -> AffineAutoregressive:
    """Creates the layer of :func:`affine_autoregressive` with a context.

    Cost, errors, source: see :class:`AffineAutoregressive`.

    Args:
        input_dim: Number D of dimensions.
        context_dim: Size of the context.
        hidden_dims: Widths of the masked network; ``[10 D]`` by default.
        log_scale_min_clip: Lower bound of the log-scale, < 0, approached softly.
        log_scale_max_clip: Upper bound of the log-scale, > 0, approached softly.
        sigmoid_bias: The gate's argument at a fresh network; used if ``stable``.
        stable: Whether to take the gated average.
        nonlinearity: The network's activation: a name, a function or a module.
        permutation: The order of the dimensions; natural by default.
        parity: 1 reverses that order; :func:`iterated` alternates it.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> layer = T.conditional_affine_autoregressive(3, 2)
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3,))
        torch.Size([5, 3])
    """
    network = MaskedMLP(
        input_dim,
        2,
        [10 * input_dim] if hidden_dims is None else hidden_dims,
        order=chain_order("affine_autoregressive", input_dim, permutation, parity),
        context_dim=context_dim,
        activation=nonlinearity,
    )
    return AffineAutoregressive(
        network, log_scale_min_clip, log_scale_max_clip, sigmoid_bias, stable
    )
