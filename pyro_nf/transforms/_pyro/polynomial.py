"""Sum-of-squares polynomial flow under Pyro's names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_nf._checks import positive_int
from pyro_nf.bijections import SumOfSquares
from pyro_nf.nn import MaskedMLP
from pyro_nf.nn.mlp import Activation
from pyro_nf.transforms._pyro.autoregressive import NetworkAutoregressive, chain_order
from pyro_nf.transforms._pyro.networks import Network


class Polynomial(NetworkAutoregressive):
    r"""Sum-of-squares polynomial flow over a given network, as Pyro's ``Polynomial``.

    .. math:: y_d = c_d + \int_0^{x_d} \Big( m + \sum_{k=1}^K p_k(u)^2 \Big) du

    where the network makes the coefficients of the K polynomials of degree R from
    :math:`x_{<d}`; see :class:`~pyro_nf.bijections.SumOfSquares`, also for the fixed offsets of
    the coefficients, which Pyro's lacks. Sampling is one pass. Scoring finds one numerical root
    for each dimension in turn, with exact gradients.

    Args:
        autoregressive_nn: A ``MaskedMLP`` with 1 + (R + 1) K parameters for each input, or a
            callable as ``pyro.nn.AutoRegressiveNN`` is, with an attribute ``permutation``, that
            returns (R + 1) K; the constants c are then parameters of the layer.
        input_dim: Number D of dimensions.
        count_degree: Degree R of the polynomials that are squared.
        count_sum: Number K of polynomials.
        context_dim: Size of the context; None for the network's own ``context_dim``.

    Raises:
        TypeError, ValueError: If an option is out of its range or the network does not fit.

    References:
        Sum-of-Squares Polynomial Flow (Jaini et al., 2019), arXiv:1905.02325.

    Examples:
        >>> import torch
        >>> from pyro.nn import AutoRegressiveNN
        >>> from pyro_nf import transforms as T
        >>> arn = AutoRegressiveNN(3, [10], param_dims=[(2 + 1) * 2])
        >>> layer = T.Polynomial(arn, input_dim=3, count_degree=2, count_sum=2)
        >>> layer(torch.ones(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        autoregressive_nn: Network,
        input_dim: int,
        count_degree: int,
        count_sum: int,
        *,
        context_dim: int | None = None,
    ) -> None:
        positive_int("Polynomial", "count_degree", count_degree)
        positive_int("Polynomial", "count_sum", count_sum)
        bijection = SumOfSquares(degree=count_degree, count=count_sum)
        ours = isinstance(autoregressive_nn, MaskedMLP)
        super().__init__(bijection, autoregressive_nn, context_dim, constants=0 if ours else 1)
        if input_dim != self.input_dim:
            raise ValueError(
                f"Polynomial(input_dim={input_dim}) got a network of {self.input_dim} inputs. "
                "Build it for as many."
            )
        self.count_degree, self.count_sum = count_degree, count_sum
        self.c = None if ours else nn.Parameter(torch.zeros(input_dim))

    def _params(self, x: Tensor, context: Tensor | None) -> Tensor:
        params, constant = super()._params(x, context), self.c
        if constant is None:
            return params
        # Pyro's network counts the powers faster than the polynomials.
        powers = params.unflatten(0, (self.count_sum, self.count_degree + 1)).transpose(0, 1)
        shift = constant.reshape(1, -1, *(1 for _ in x.shape[1:])).expand(1, *x.shape)
        return torch.cat([shift, powers.flatten(0, 1)])


def polynomial(
    input_dim: int,
    hidden_dims: Sequence[int] | None = None,
    count_degree: int = 4,
    count_sum: int = 3,
    *,
    nonlinearity: Activation = "relu",
    permutation: Sequence[int] | Tensor | None = None,
    parity: int = 0,
) -> Polynomial:
    """Creates a sum-of-squares polynomial layer, as Pyro's ``polynomial``.

    A fresh layer is the identity; its order is the natural one, where Pyro draws one at random.

    Cost, errors, source: see :class:`Polynomial`.

    Args:
        input_dim: Number D of dimensions.
        hidden_dims: Widths of the masked network; ``[10 D]`` by default.
        count_degree: Degree of the polynomials that are squared.
        count_sum: Number of polynomials.
        nonlinearity: The network's activation: a name, a function or a module.
        permutation: The order of the dimensions; natural by default.
        parity: 1 reverses that order; :func:`iterated` alternates it.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.polynomial(3, count_degree=2, count_sum=1).bijection.param_count
        4
    """
    return conditional_polynomial(
        input_dim,
        0,
        hidden_dims,
        count_degree,
        count_sum,
        nonlinearity=nonlinearity,
        permutation=permutation,
        parity=parity,
    )


def conditional_polynomial(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] | None = None,
    count_degree: int = 4,
    count_sum: int = 3,
    *,
    nonlinearity: Activation = "relu",
    permutation: Sequence[int] | Tensor | None = None,
    parity: int = 0,
) -> Polynomial:
    """Creates the layer of :func:`polynomial` with a context.

    Cost, errors, source: see :class:`Polynomial`.

    Args:
        input_dim: Number D of dimensions.
        context_dim: Size of the context.
        hidden_dims: Widths of the masked network; ``[10 D]`` by default.
        count_degree: Degree of the polynomials that are squared.
        count_sum: Number of polynomials.
        nonlinearity: The network's activation: a name, a function or a module.
        permutation: The order of the dimensions; natural by default.
        parity: 1 reverses that order; :func:`iterated` alternates it.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> layer = T.conditional_polynomial(3, 2)
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3,))
        torch.Size([5, 3])
    """
    positive_int("polynomial", "count_degree", count_degree)
    positive_int("polynomial", "count_sum", count_sum)
    network = MaskedMLP(
        input_dim,
        1 + (count_degree + 1) * count_sum,
        [10 * input_dim] if hidden_dims is None else hidden_dims,
        order=chain_order("polynomial", input_dim, permutation, parity),
        context_dim=context_dim,
        activation=nonlinearity,
    )
    return Polynomial(network, input_dim, count_degree, count_sum)
