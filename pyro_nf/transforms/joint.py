"""The wiring of a vector bijection."""

from __future__ import annotations

from typing import final

from pyro_nf.transforms._joint import JointWiring


@final
class Joint(JointWiring):
    r"""A vector bijection of all dimensions jointly: :math:`y = f(x; θ + n(c))`.

    θ are learned constants, parameters of the layer under the bijection's names; the network n of
    a context c adds to them and starts at 0. A fresh layer is the fresh bijection: the identity,
    or nearly so.

    Cost: one evaluation of the bijection in either direction. Constants meet all rows in one
    product of matrices; with a context the network runs once for each context, and each
    has matrices of its own, however many rows share it.

    Args:
        bijection: The vector bijection f.
        input_dim: Number D of dimensions.
        context_dim: Size of the context; 0 for constants alone.
        hidden_dims: Widths of the network that reads the context.
        activation: Its activation: a name, a function or a module.
        residual: "skip" adds skip connections between its layers of equal width.

    Raises:
        TypeError: If the bijection is no instance of one.
        ValueError: If a size is out of range.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import Radial
        >>> from pyro_nf.transforms import Joint
        >>> layer = Joint(Radial(), 3, context_dim=2)
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(7, 5, 3), torch.zeros(5, 2))
        >>> y.shape, ladj.shape
        (torch.Size([7, 5, 3]), torch.Size([7, 5]))
    """
