"""The diagonal normal distribution as a base."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_nf._checks import non_negative_int, positive_int
from pyro_nf.distributions._independent import IndependentDimensions
from pyro_nf.distributions._parameters import Parameters, check_parameters, softly_bounded

_MAX_LOG_SCALE = 5.0
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class DiagonalNormal(nn.Module):
    r"""Independent normals: the standard normal, a learned one, or one that depends on a context.

    .. math:: x_d \sim N(\mu_d, \sigma_d^2)

    Fixed, :math:`\mu = 0` and :math:`\sigma = 1` are buffers. Learned, :math:`\mu` and
    :math:`\log\sigma` are parameters that start at 0. With a context c they are affine in it, the
    log-scale softly bounded to ±5, and a fresh base is the standard normal for every context:

    .. math:: (\mu, s) = W c + b, \qquad \sigma = \exp(5 \tanh(s / 5))

    Args:
        input_dim: Number D of dimensions.
        parameters: "fixed" or "learned"; with a context they are learned in either case.
        context_dim: Size of the context; 0 ignores a context.

    Raises:
        ValueError: If a size is out of range or ``parameters`` is neither word.

    References:
        - Learning likelihoods with conditional normalizing flows (Winkler et al., 2019),
          arXiv:1912.00042.

    Examples:
        >>> import torch
        >>> from pyro_nf.distributions import DiagonalNormal
        >>> base = DiagonalNormal(3)
        >>> base().rsample((5,)).shape, base().log_prob(torch.zeros(5, 3)).shape
        (torch.Size([5, 3]), torch.Size([5]))
        >>> DiagonalNormal(3, context_dim=2)(torch.zeros(7, 2)).batch_shape
        torch.Size([7])
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self, input_dim: int, *, parameters: Parameters = "fixed", context_dim: int = 0
    ) -> None:
        super().__init__()
        self.input_dim = positive_int("DiagonalNormal", "input_dim", input_dim)
        self.context_dim = non_negative_int("DiagonalNormal", "context_dim", context_dim)
        self.learned = check_parameters("DiagonalNormal", parameters)
        if context_dim:
            self.from_context = nn.Linear(context_dim, 2 * input_dim)
            nn.init.zeros_(self.from_context.weight)
            nn.init.zeros_(self.from_context.bias)
        elif self.learned:
            self.loc = nn.Parameter(torch.zeros(input_dim))
            self.log_scale = nn.Parameter(torch.zeros(input_dim))
        else:
            self.register_buffer("loc", torch.zeros(input_dim))
            self.register_buffer("scale", torch.ones(input_dim))

    def forward(self, context: Tensor | None = None) -> dist.Independent:
        """Creates the distribution, of event shape ``(D,)``.

        Args:
            context: Shape ``(*batch, context_dim)``, which gives the batch shape.

        Raises:
            ValueError: If a context is needed and is missing or of another size.
        """
        loc, scale = self._loc_and_scale(context)
        return _Normals(dist.Normal(loc, scale, validate_args=False), 1)

    def _loc_and_scale(self, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if not self.context_dim:
            return self.loc, (self.log_scale.exp() if self.learned else self.scale)
        if context is None or context.ndim == 0 or context.shape[-1] != self.context_dim:
            got = "no context" if context is None else f"one of shape {tuple(context.shape)}"
            raise ValueError(
                f"DiagonalNormal(context_dim={self.context_dim}) got {got}. Pass a context of "
                f"shape (*batch, {self.context_dim})."
            )
        loc, log_scale = self.from_context(context).chunk(2, -1)  # (*batch, D) each
        return loc, softly_bounded(log_scale, _MAX_LOG_SCALE).exp()

    def extra_repr(self) -> str:
        """The sizes, and what is learned."""
        if self.context_dim:
            return f"input_dim={self.input_dim}, context_dim={self.context_dim}"
        parameters = "learned" if self.learned else "fixed"
        return f"input_dim={self.input_dim}, parameters={parameters!r}"


class _Normals(IndependentDimensions):
    """Independent normals, scored in half the operations of torch's own."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Computes the log density, summed over the event."""
        loc, scale = self.base_dist.loc, self.base_dist.scale
        # Not divided by: a scale made in inference mode may not be kept for a backward.
        squares = ((value - loc) * scale.reciprocal()).square().sum(-1)
        log_volume = scale.log().sum(-1) + loc.shape[-1] * _HALF_LOG_2PI
        return torch.sub(-log_volume, squares, alpha=0.5)
