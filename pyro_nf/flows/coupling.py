"""Named flows of coupling layers: NICE and Real NVP."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pyro_nf.bijections import Additive, Affine
from pyro_nf.distributions import Flow
from pyro_nf.flows._assemble import Support, assemble, coupling_layers
from pyro_nf.flows._image_forms import realnvp_of_images
from pyro_nf.flows._images import is_image, only_for_images, only_for_vectors
from pyro_nf.nn.mlp import Activation, Residual
from pyro_nf.transforms import DiagonalScale
from pyro_nf.transforms._partition import MaskKind


def nice(
    input_dim: int,
    *,
    transforms: int = 6,
    mask: MaskKind = "half",
    hidden_dims: Sequence[int] = (64, 64),
    context_dim: int = 0,
    activation: Activation = "relu",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates NICE: additive couplings, whose volume a diagonal scale alone changes.

    Cost: one pass in either direction.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transforms: Number of coupling layers; kept and moved features alternate.
        mask: Which features a layer keeps (see :func:`~pyro_nf.transforms.coupling_mask`).
        hidden_dims: Widths of each network's hidden layers.
        context_dim: Size of the context; 0 for an unconditional flow.
        activation: The networks' activation: a name, a function or a module.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range or an option unknown.

    References:
        NICE: non-linear independent components estimation (Dinh et al., 2015), arXiv:1410.8516.

    Examples:
        >>> from pyro_nf import flows
        >>> flows.nice(3)().sample((5,)).shape
        torch.Size([5, 3])
    """
    layers = coupling_layers(
        "nice",
        Additive(),
        input_dim,
        transforms,
        mask,
        hidden_dims=hidden_dims,
        context_dim=context_dim,
        activation=activation,
        residual=residual,
    )
    return assemble(input_dim, [DiagonalScale(input_dim), *layers], base, support)


def realnvp(
    input_dim: int | Sequence[int],
    *,
    transforms: int | None = None,
    levels: int | None = None,
    mask: MaskKind = "half",
    hidden_dims: Sequence[int] | None = None,
    context_dim: int = 0,
    context_shape: Sequence[int] | None = None,
    activation: Activation | None = None,
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates Real NVP: affine couplings with softly bounded scales, of vectors or of images.

    Of images it is a multi-level flow of residual convolutional networks. Data -> base, a level
    takes couplings on alternating checkerboards of pixels, squeezes the image, and takes as many
    on alternating halves of the channels; then half of the channels leaves, with a learned prior
    given the other half. The last level ends with four more checkerboards. A normalisation that
    starts from data stands before each coupling, where the paper normalises by batches.

    Cost: one pass in either direction.

    Args:
        input_dim: Number D of (unconstrained) dimensions, or channels, height and width.
        transforms: Number of coupling layers, None for 8; kept and moved features alternate. Of
            images: couplings of each kind in a level, None for 3.
        levels: Of images: number of levels, each of which halves height and width; None for as
            many as the image allows, 3 at most.
        mask: Which features a layer keeps (see :func:`~pyro_nf.transforms.coupling_mask`).
        hidden_dims: Widths of each network's hidden layers; None for (64, 64). Of images: the
            channels of each residual block, all equal; None for (32,), beyond 16 × 16 pixels
            four blocks of 64.
        context_dim: Size of the context; 0 for an unconditional flow.
        context_shape: Of images: shape (channels, height, width) of a context that is a feature
            map, which enters the flow flattened.
        activation: The networks' activation: a name, a function or a module. None for "tanh",
            which saturates, so that scales stay put where rows lie far from all others; of images
            for "relu".
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module, of flat vectors; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey; of images
            ``constraints.unit_interval`` or None.

    Raises:
        ValueError: If a size is out of range or an option unknown.

    References:
        Density estimation using Real NVP (Dinh et al., 2017), arXiv:1605.08803.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flow = flows.realnvp(3, context_dim=2)
        >>> flow(torch.zeros(5, 2)).sample().shape
        torch.Size([5, 3])
        >>> flows.realnvp((1, 8, 8), hidden_dims=(16,))().sample((5,)).shape
        torch.Size([5, 1, 8, 8])
    """
    if is_image(input_dim):
        only_for_vectors("realnvp", mask=(mask, "half"), residual=(residual, "none"))
        return realnvp_of_images(
            input_dim,
            levels=levels,
            transforms=transforms,
            hidden_dims=hidden_dims,
            context_dim=context_dim,
            context_shape=context_shape,
            activation="relu" if activation is None else activation,
            base=base,
            support=support,
        )
    only_for_images("realnvp", levels=levels, context_shape=context_shape)
    layers = coupling_layers(
        "realnvp",
        Affine(),
        input_dim,
        8 if transforms is None else transforms,
        mask,
        hidden_dims=(64, 64) if hidden_dims is None else hidden_dims,
        context_dim=context_dim,
        activation="tanh" if activation is None else activation,
        residual=residual,
    )
    return assemble(input_dim, layers, base, support)
