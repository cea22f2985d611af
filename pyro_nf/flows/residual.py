"""Flows of invertible residual layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from pyro_nf._checks import positive_int
from pyro_nf.distributions import Flow
from pyro_nf.flows._assemble import Support, assemble
from pyro_nf.flows._image_forms import residual_flow_of_images
from pyro_nf.flows._images import is_image, only_for_images
from pyro_nf.nn._contractive import Contractive
from pyro_nf.nn._spectral import Norm
from pyro_nf.transforms import ActNorm, FlowTransform
from pyro_nf.transforms._residual.log_det import LogDet
from pyro_nf.transforms._residual.options import LogDetSeries
from pyro_nf.transforms.residual import InvertibleResidual


def residual_flow(
    input_dim: int | Sequence[int],
    *,
    fast: Literal["log_prob", "sample"] = "log_prob",
    transforms: int | None = None,
    levels: int | None = None,
    hidden_dims: Sequence[int] | None = None,
    lipschitz: float = 0.97,
    context_dim: int = 0,
    context_shape: Sequence[int] | None = None,
    activation: Contractive = "concat_lipswish",
    norm: Norm = "auto",
    log_det: LogDet = "auto",
    series: LogDetSeries | None = None,
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    r"""Creates a residual flow: layers v = u + g(u) whose networks g are contractions.

    All dimensions interact in every layer; activation normalisations between the layers set the
    scales. Cost: one pass in the fast direction, with an exact log-determinant up to 64
    dimensions, D tangents through each network and O(D³) a row; a fixed point of 5 to 30 passes a
    layer in the other. See :class:`~pyro_nf.transforms.InvertibleResidual` for the estimates
    beyond, which are noisy in training.

    Of images the networks are convolutions, whose own spectral norms are bounded (see
    :class:`~pyro_nf.transforms.InvertibleResidual2d`); data -> base, each level squeezes the image
    and takes its layers on all channels.

    Args:
        input_dim: Number D of (unconstrained) dimensions, or channels, height and width.
        fast: The direction in closed form: "log_prob" for densities of data, "sample" for guides.
        transforms: Number of residual layers, None for 8. Of images: layers in a level; None for
            4, beyond 16 × 16 pixels 8.
        levels: Of images: number of levels, each of which halves height and width; None for as
            many as the image allows, 3 at most.
        hidden_dims: Widths of each network's hidden layers; None for (64, 64). Of images: their
            channels; None for (32, 32), beyond 16 × 16 pixels (64, 64).
        lipschitz: The bound on the networks' Lipschitz constants, inside (0, 1). A layer
            stretches between 1 - lipschitz and 1 + lipschitz times.
        context_dim: Size of the context; 0 for an unconditional flow.
        context_shape: Of images: shape (channels, height, width) of a context that is a feature
            map, which enters the flow flattened.
        activation: "concat_lipswish", "lipswish", "tanh", "elu" or "softplus".
        norm: "auto", "exact" or "power": how spectral norms are found (see
            :class:`~pyro_nf.nn.LipschitzMLP`, or :class:`~pyro_nf.nn.LipschitzConvNet`).
        log_det: "auto", "exact", "series" or "roulette".
        series: The options of the estimates.
        base: Base distribution as a module, of flat vectors; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey; of images
            ``constraints.unit_interval`` or None.

    Raises:
        ValueError: If a size is out of range or an option unknown.

    References:
        - Invertible residual networks (Behrmann et al., 2019), arXiv:1811.00995.
        - Residual flows for invertible generative modeling (Chen et al., 2019),
          arXiv:1906.02735.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flow = flows.residual_flow(3, transforms=2, hidden_dims=(16,), context_dim=2)
        >>> d = flow(torch.zeros(5, 2))
        >>> d.sample().shape, d.log_prob(torch.zeros(3)).shape
        (torch.Size([5, 3]), torch.Size([5]))
    """
    if is_image(input_dim):
        return residual_flow_of_images(
            input_dim,
            levels=levels,
            transforms=transforms,
            hidden_dims=hidden_dims,
            base=base,
            support=support,
            fast=fast,
            lipschitz=lipschitz,
            context_dim=context_dim,
            context_shape=context_shape,
            activation=activation,
            norm=norm,
            log_det=log_det,
            series=series,
        )
    only_for_images("residual_flow", levels=levels, context_shape=context_shape)
    count = 8 if transforms is None else positive_int("residual_flow", "transforms", transforms)
    layers: list[FlowTransform] = []
    for i in range(count):
        if i:
            layers.append(ActNorm(input_dim))
        layers.append(
            InvertibleResidual(
                input_dim,
                fast=fast,
                hidden_dims=(64, 64) if hidden_dims is None else hidden_dims,
                lipschitz=lipschitz,
                context_dim=context_dim,
                activation=activation,
                norm=norm,
                log_det=log_det,
                series=series,
            )
        )
    return assemble(input_dim, layers, base, support)
