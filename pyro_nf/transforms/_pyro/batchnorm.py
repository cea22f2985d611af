"""Batch normalisation under Pyro's names."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_nf.nn.mlp import Activation
from pyro_nf.transforms.batchnorm import BatchNorm


def batchnorm(input_dim: int, momentum: float = 0.1, epsilon: float = 1e-5) -> BatchNorm:
    """Creates a :class:`BatchNorm` layer, as Pyro's ``batchnorm``.

    Cost, errors, source: see :class:`BatchNorm`.

    Args:
        input_dim: Number of dimensions.
        momentum: Weight of a new batch in the running averages, in (0, 1].
        epsilon: Added to the variance, in squared units of the data.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.batchnorm(3, momentum=0.2).momentum
        0.2
    """
    return BatchNorm(input_dim, momentum=momentum, epsilon=epsilon)


def conditional_batchnorm(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] | None = None,
    momentum: float = 0.1,
    epsilon: float = 1e-5,
    *,
    nonlinearity: Activation = "relu",
) -> BatchNorm:
    """Creates a :class:`BatchNorm` layer whose scale and shift depend on a context.

    Cost, errors, source: see :class:`BatchNorm`.

    Args:
        input_dim: Number D of dimensions.
        context_dim: Size of the context.
        hidden_dims: Widths of the network; ``[10 D, 10 D]`` by default.
        momentum: Weight of a new batch in the running averages, in (0, 1].
        epsilon: Added to the variance, in squared units of the data.
        nonlinearity: The network's activation.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.conditional_batchnorm(3, 2).context_dim
        2
    """
    return BatchNorm(
        input_dim,
        momentum=momentum,
        epsilon=epsilon,
        context_dim=context_dim,
        hidden_dims=[10 * input_dim] * 2 if hidden_dims is None else hidden_dims,
        activation=nonlinearity,
    )
