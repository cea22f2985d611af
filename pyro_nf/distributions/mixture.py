"""A mixture of normals as a base, for data with several modes."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_nf._checks import positive_float, positive_int
from pyro_nf.distributions._independent import IndependentDimensions


class GaussianMixture(nn.Module):
    r"""A mixture of K normals with diagonal covariances, all learned.

    .. math:: p(x) = \sum_{k=1}^K w_k \prod_d N(x_d; \mu_{kd}, \sigma_{kd}^2), \qquad
        w = \mathrm{softmax}(\text{logits})

    A continuous bijection of one normal leaves a bridge of density between separate modes; a
    mixture need not. Weights start equal, scales at 1 and locations at independent normal draws
    from a generator of its own, so that a seed gives the same base everywhere.

    It draws without gradients (there is no ``rsample``): it serves densities and priors, and not
    guides trained by an ELBO. ``log_prob`` costs K normal densities.

    Args:
        input_dim: Number D of dimensions.
        components: Number K of normals.
        spread: Standard deviation of the initial locations.
        seed: Seed of the initial locations.

    Raises:
        ValueError: If a size or ``spread`` is not positive.

    References:
        - Resampling base distributions of normalizing flows (Stimper et al., 2022),
          arXiv:2110.15828.

    Examples:
        >>> import torch
        >>> from pyro_nf.distributions import GaussianMixture
        >>> base = GaussianMixture(2, components=4)
        >>> base().sample((5,)).shape, base().log_prob(torch.zeros(5, 2)).shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    context_dim: int = 0

    def __init__(
        self, input_dim: int, components: int = 8, *, spread: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.input_dim = positive_int("GaussianMixture", "input_dim", input_dim)
        self.components = positive_int("GaussianMixture", "components", components)
        spread = positive_float("GaussianMixture", "spread", spread)
        generator = torch.Generator().manual_seed(seed)
        locs = torch.randn(components, input_dim, generator=generator, device="cpu") * spread
        self.logits = nn.Parameter(torch.zeros(components))
        self.locs = nn.Parameter(locs.to(self.logits))
        self.log_scales = nn.Parameter(torch.zeros(components, input_dim))

    def forward(self, context: Tensor | None = None) -> dist.MixtureSameFamily:
        """Creates the distribution, of event shape ``(D,)``; a context is ignored."""
        del context
        each = dist.Normal(self.locs, self.log_scales.exp(), validate_args=False)
        normals = IndependentDimensions(each, 1)
        weights = dist.Categorical(logits=self.logits, validate_args=False)
        return dist.MixtureSameFamily(weights, normals, validate_args=False)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"input_dim={self.input_dim}, components={self.components}"
