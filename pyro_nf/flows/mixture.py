"""Named flows of mixture distribution functions: Flow++ and Gaussianization."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pyro_nf._checks import positive_int
from pyro_nf.bijections import GaussianMixtureProbit, LogisticMixture
from pyro_nf.distributions import Flow
from pyro_nf.flows._assemble import Support, assemble, coupling_layers
from pyro_nf.flows._image_forms import flow_plus_plus_of_images
from pyro_nf.flows._images import is_image, only_for_images, only_for_vectors
from pyro_nf.nn.mlp import Activation, Residual
from pyro_nf.transforms import Elementwise, FlowTransform, Householder
from pyro_nf.transforms._partition import MaskKind


def flow_plus_plus(
    input_dim: int | Sequence[int],
    *,
    transforms: int | None = None,
    components: int = 8,
    mask: MaskKind = "half",
    hidden_dims: Sequence[int] | None = None,
    context_dim: int = 0,
    context_shape: Sequence[int] | None = None,
    activation: Activation = "tanh",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates Flow++: couplings by the distribution function of a logistic mixture.

    Of images the networks are gated convolutions with self-attention. Data -> base, couplings on
    alternating checkerboards of pixels, one squeeze, then steps of a checkerboard coupling, a 1×1
    convolution and a channel coupling, with normalisations that start from data before each
    coupling.
    Integers want :class:`~pyro_nf.distributions.Dequantized` with :func:`dequantizer`.

    Cost: one pass for ``log_prob``, in closed form; ``sample`` takes one pass of each network and
    a numerical root of the mixture, some 5 to 12 evaluations.

    Args:
        input_dim: Number D of (unconstrained) dimensions, or channels, height and width.
        transforms: Number of coupling layers, None for 6; kept and moved features alternate. Of
            images: checkerboard couplings before the squeeze, and steps behind it; None for 2,
            beyond 16 × 16 pixels 4.
        components: Number of logistics in each mixture.
        mask: Which features a layer keeps (see :func:`~pyro_nf.transforms.coupling_mask`).
        hidden_dims: Widths of each network's hidden layers; None for (64, 64). Of images: the
            channels of each gated block, all equal; None for (32,), beyond 16 × 16 pixels
            four blocks of 64.
        context_dim: Size of the context; 0 for an unconditional flow.
        context_shape: Of images: shape (channels, height, width) of a context that is a feature
            map, which enters the flow flattened.
        activation: The networks' activation: a name, a function or a module. That of the default
            saturates, so that the mixtures stay put where rows lie far from all others.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module, of flat vectors; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey; of images
            ``constraints.unit_interval`` or None.

    Raises:
        ValueError: If a size is out of range or an option unknown.

    References:
        Flow++: improving flow-based generative models with variational dequantization and
        architecture design (Ho et al., 2019), arXiv:1902.00275.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flow = flows.flow_plus_plus(3, context_dim=2)
        >>> flow(torch.zeros(5, 2)).log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
        >>> flow = flows.flow_plus_plus((1, 4, 4), transforms=1, hidden_dims=(8,))
        >>> flow().log_prob(torch.zeros(5, 1, 4, 4)).shape
        torch.Size([5])
    """
    if is_image(input_dim):
        only_for_vectors(
            "flow_plus_plus",
            mask=(mask, "half"),
            residual=(residual, "none"),
            activation=(activation, "tanh"),
        )
        return flow_plus_plus_of_images(
            input_dim,
            transforms=transforms,
            components=components,
            hidden_dims=hidden_dims,
            context_dim=context_dim,
            context_shape=context_shape,
            base=base,
            support=support,
        )
    only_for_images("flow_plus_plus", context_shape=context_shape)
    couplings = coupling_layers(
        "flow_plus_plus",
        LogisticMixture(components=components),
        input_dim,
        6 if transforms is None else transforms,
        mask,
        hidden_dims=(64, 64) if hidden_dims is None else hidden_dims,
        context_dim=context_dim,
        activation=activation,
        residual=residual,
    )
    # The closed form runs data -> base.
    return assemble(input_dim, [layer.inv for layer in couplings], base, support)


def gaussianization(
    input_dim: int,
    *,
    transforms: int = 8,
    components: int = 12,
    reflections: int | None = None,
    hidden_dims: Sequence[int] = (64, 64),
    context_dim: int = 0,
    activation: Activation = "tanh",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates a Gaussianization flow: turns of the axes, and a Gaussianization of each.

    Data -> base, each layer maps every dimension to a standard normal through the distribution
    function of its own mixture of normals, then turns the axes by a trained orthogonal matrix, so
    that the next layer sees other marginals. Dimensions meet in the turns alone: without a context
    no network is needed. The matrices start from fixed random directions.

    Cost: one evaluation of D mixtures and an orthogonal product for each layer for ``log_prob``,
    in closed form; ``sample`` takes a numerical root of each mixture, some 5 to 12 evaluations.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transforms: Number of layers.
        components: Number of normals in each mixture.
        reflections: Number of Householder reflections in each orthogonal matrix; None for D,
            which reach every one.
        hidden_dims: Widths of the hidden layers of the networks that read a context.
        context_dim: Size of the context, which the mixtures then come from; 0 for none.
        activation: Those networks' activation: a name, a function or a module.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range or an option unknown.

    References:
        Gaussianization flows (Meng et al., 2020), arXiv:2003.01941.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flows.gaussianization(3)().log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """
    size = positive_int("gaussianization", "input_dim", input_dim)
    count = positive_int("gaussianization", "transforms", transforms)
    mixture = GaussianMixtureProbit(components=components)
    layers: list[FlowTransform] = []
    for i in range(count):
        kernel = Elementwise(
            mixture,
            input_dim,
            context_dim=context_dim,
            hidden_dims=hidden_dims,
            activation=activation,
            residual=residual,
        )
        if size > 1 and i > 0:
            layers.append(_turn(size, size if reflections is None else reflections, seed=i))
        layers.append(kernel.inv)
    return assemble(input_dim, layers, base, support)


def _turn(size: int, reflections: int, seed: int) -> Householder:
    """Creates an orthogonal layer of fixed random directions."""
    layer = Householder(size, reflections=reflections)
    generator = torch.Generator().manual_seed(seed)
    for vectors in layer.parameters():
        with torch.no_grad():
            vectors.copy_(torch.randn(vectors.shape, generator=generator, device="cpu"))
    return layer
