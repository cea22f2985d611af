"""Neural autoregressive flow under Pyro's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pyro_nf._checks import choice, positive_int
from pyro_nf.bijections import DeepSigmoidal
from pyro_nf.nn import MaskedMLP
from pyro_nf.nn.mlp import Activation
from pyro_nf.transforms._pyro.autoregressive import NetworkAutoregressive, chain_order
from pyro_nf.transforms._pyro.networks import Network

UnitName = Literal["ELU", "LeakyReLU", "sigmoid", "tanh"]
_UNITS: dict[str, Literal["elu", "leaky_relu", "sigmoid", "tanh"]] = {
    "ELU": "elu",
    "LeakyReLU": "leaky_relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}


class NeuralAutoregressive(NetworkAutoregressive):
    r"""Neural autoregressive flow over a given network, as Pyro's ``NeuralAutoregressive``.

    .. math:: y_d = T^{-1}\Big(\sum_k w_k \, T(a_k x_d + b_k)\Big), \qquad
        (a, w, b)_d = \mathrm{arn}(x)_d

    with T the activation, see :class:`~pyro_nf.bijections.DeepSigmoidal`. Sampling is one pass.
    Scoring finds one numerical root for each dimension in turn, with exact gradients; Pyro's
    cannot score data at all, and its log-determinant is that of the last call.

    Args:
        autoregressive_nn: A ``MaskedMLP`` with 3 K parameters for each input, or a callable as
            ``pyro.nn.AutoRegressiveNN`` is, with an attribute ``permutation``, that returns raw
            slopes, logits of the weights and shifts, K each.
        hidden_units: Number K of units.
        activation: "ELU", "LeakyReLU", "sigmoid" or "tanh".
        context_dim: Size of the context; None for the network's own ``context_dim``.

    Raises:
        TypeError, ValueError: If an option is out of its range or the network does not fit.

    References:
        Neural Autoregressive Flows (Huang et al., 2018), arXiv:1804.00779.

    Examples:
        >>> import torch
        >>> from pyro.nn import AutoRegressiveNN
        >>> from pyro_nf import transforms as T
        >>> arn = AutoRegressiveNN(3, [10], param_dims=[8, 8, 8])
        >>> layer = T.NeuralAutoregressive(arn, hidden_units=8)
        >>> layer.inv(layer(torch.ones(5, 3))).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        autoregressive_nn: Network,
        hidden_units: int = 16,
        activation: UnitName = "sigmoid",
        *,
        context_dim: int | None = None,
    ) -> None:
        owner = type(self).__name__
        choice(owner, "activation", activation, tuple(_UNITS))
        positive_int(owner, "hidden_units", hidden_units)
        bijection = DeepSigmoidal(units=hidden_units, activation=_UNITS[activation])
        super().__init__(bijection, autoregressive_nn, context_dim)

    def _params(self, x: Tensor, context: Tensor | None) -> Tensor:
        params = super()._params(x, context)
        if isinstance(self.arn, MaskedMLP):
            return params
        slopes, logits, shifts = params.chunk(3)
        return torch.cat([slopes, shifts, logits])


def neural_autoregressive(
    input_dim: int,
    hidden_dims: Sequence[int] | None = None,
    activation: UnitName = "sigmoid",
    width: int = 16,
    *,
    nonlinearity: Activation = "relu",
    permutation: Sequence[int] | Tensor | None = None,
    parity: int = 0,
) -> NeuralAutoregressive:
    """Creates a neural autoregressive layer, as Pyro's ``neural_autoregressive``.

    A fresh layer is near the identity; its order is the natural one, where Pyro draws one at
    random.

    Cost, errors, source: see :class:`NeuralAutoregressive`.

    Args:
        input_dim: Number D of dimensions.
        hidden_dims: Widths of the masked network; ``[3 D + 1]`` by default.
        activation: The units' activation: "ELU", "LeakyReLU", "sigmoid" or "tanh".
        width: Number of units.
        nonlinearity: The network's activation: a name, a function or a module.
        permutation: The order of the dimensions; natural by default.
        parity: 1 reverses that order; :func:`iterated` alternates it.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.neural_autoregressive(3, activation="tanh", width=8).bijection.units
        8
    """
    return conditional_neural_autoregressive(
        input_dim,
        0,
        hidden_dims,
        activation,
        width,
        nonlinearity=nonlinearity,
        permutation=permutation,
        parity=parity,
    )


def conditional_neural_autoregressive(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] | None = None,
    activation: UnitName = "sigmoid",
    width: int = 16,
    *,
    nonlinearity: Activation = "relu",
    permutation: Sequence[int] | Tensor | None = None,
    parity: int = 0,
) -> NeuralAutoregressive:
    """Creates the layer of :func:`neural_autoregressive` with a context.

    Cost, errors, source: see :class:`NeuralAutoregressive`.

    Args:
        input_dim: Number D of dimensions.
        context_dim: Size of the context.
        hidden_dims: Widths of the masked network; ``[3 D + 1]`` by default.
        activation: The units' activation: "ELU", "LeakyReLU", "sigmoid" or "tanh".
        width: Number of units.
        nonlinearity: The network's activation: a name, a function or a module.
        permutation: The order of the dimensions; natural by default.
        parity: 1 reverses that order; :func:`iterated` alternates it.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> layer = T.conditional_neural_autoregressive(3, 2, width=4)
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3,))
        torch.Size([5, 3])
    """
    network = MaskedMLP(
        input_dim,
        3 * positive_int("neural_autoregressive", "width", width),
        [3 * input_dim + 1] if hidden_dims is None else hidden_dims,
        order=chain_order("neural_autoregressive", input_dim, permutation, parity),
        context_dim=context_dim,
        activation=nonlinearity,
    )
    return NeuralAutoregressive(network, hidden_units=width, activation=activation)
