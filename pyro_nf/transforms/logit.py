"""The logit of data in the unit interval, as the last layer of a flow."""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_nf._checks import finite_float, non_negative_int
from pyro_nf.transforms._contract.boundary import check_context, check_dtype, check_tensor
from pyro_nf.transforms._contract.features import sum_rightmost
from pyro_nf.transforms._contract.protocol import FlowTransform


@final
class Logit(FlowTransform):
    r"""The logit of data in [0, 1], which the other layers of a flow then model in real space.

    .. math:: x = \operatorname{logit}(\alpha + (1 - 2\alpha) y), \qquad
        y = \frac{\sigma(x) - \alpha}{1 - 2\alpha}

    The usual last layer of a flow of images, named for its direction data -> base. With
    :math:`\alpha > 0` the data 0 and 1 lie inside of its support, which is a little larger than
    [0, 1]: from :math:`-\alpha / (1 - 2\alpha)` to :math:`(1 - \alpha) / (1 - 2\alpha)`. So a
    flow's draws may leave [0, 1] by that much; :class:`~pyro_nf.distributions.Dequantized` brings
    them back. With :math:`\alpha = 0` it is the map onto the open unit interval.

    Elementwise, with nothing learned. Either direction costs one logistic function or two
    logarithms a number; both log-determinants are exact near the ends, too, in float32:

    .. math:: \log\left|\frac{dx}{dy}\right| = \sum_d \bigl[\log(1 - 2\alpha)
        - \log p_d - \log(1 - p_d)\bigr], \qquad p = \alpha + (1 - 2\alpha) y

    Args:
        alpha: The margin α, in [0, 1/2). Papamakarios et al., whose formula it is, take 1e-6 for
            MNIST and 0.05 for CIFAR-10; Dinh et al. take 0.05, at the lower end alone.
        event_dim: Number of dimensions over which the log-determinant is summed: 3 for images,
            1 for vectors.

    Raises:
        TypeError, ValueError: If ``alpha`` is no number in [0, 1/2), or ``event_dim`` no
            non-negative integer.

    Warning:
        Like :class:`ToSupport` the layer does not check that data lie within its support, and
        takes those beyond it for data at its end; the flow's distribution does check, in
        ``log_prob``.

    References:
        - Density estimation using Real NVP (Dinh et al., 2017), arXiv:1605.08803, section 4.1.
        - Masked autoregressive flow for density estimation (Papamakarios et al., 2017),
          arXiv:1705.07057.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import Logit
        >>> layer = Logit(alpha=0.05)
        >>> x, ladj = layer.inverse_and_ladj(torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1))
        >>> x.flatten()
        tensor([-2.9444,  0.0000,  2.9444])
        >>> ladj.shape
        torch.Size([3])
    """

    def __init__(self, alpha: float = 0.05, *, event_dim: int = 3) -> None:
        super().__init__()
        self.alpha = finite_float("Logit", "alpha", alpha)
        if not 0 <= self.alpha < 0.5:
            raise ValueError(f"Logit got alpha={alpha}. Pass a number in [0, 0.5), such as 0.05.")
        self._event_dim = non_negative_int("Logit", "event_dim", event_dim)  # torch has the name
        self._width = 1 - 2 * self.alpha
        self._margin = self.alpha / self._width
        support = constraints.interval(0.0 - self._margin, 1.0 + self._margin)
        self.domain = _of_events(constraints.real, self._event_dim)
        self.codomain = _of_events(support, self._event_dim)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps real numbers into the support."""
        self._check(x, context, "x")
        low, high = self._least(x.dtype)
        y = (torch.sigmoid(x) - self.alpha) / self._width
        y = y.clamp(low - self._margin, 1 + self._margin - high)
        # log σ(x) + log σ(-x), of which the first is x more than the second.
        ladj = x + 2 * F.logsigmoid(-x) - math.log(self._width)
        return y, sum_rightmost(ladj, self._event_dim)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data in the support to real numbers."""
        self._check(y, context, "y")
        # p and 1 - p each from its own end: 1 - y is exact near 1, the difference 1 - p is not.
        low, high = self._least(y.dtype)
        log_p = (self.alpha + self._width * y).clamp_min(low).log()
        log_rest = (self.alpha + self._width * (1 - y)).clamp_min(high).log()
        ladj = math.log(self._width) - log_p - log_rest
        return log_p - log_rest, sum_rightmost(ladj, self._event_dim)

    def _least(self, dtype: torch.dtype) -> tuple[float, float]:
        """Distances from the support's two ends that rounding leaves apart from them."""
        info = torch.finfo(dtype)
        return max(info.tiny, self._margin * info.eps), (1 + self._margin) * info.eps

    @property
    def sign(self) -> int:
        """+1: it increases."""
        return 1

    def _check(self, value: Tensor, context: Tensor | None, name: str) -> None:
        check_tensor("Logit", name, value)
        check_context(self, context)
        check_dtype("Logit", name, value, self, "layer")
        self._check_rank(value.shape, name)

    def _check_rank(self, shape: torch.Size, name: str) -> torch.Size:
        """Returns the shape if it has the event's dimensions, else raises."""
        if len(shape) < self._event_dim:
            raise ValueError(
                f"Logit(event_dim={self._event_dim}) got {name} of shape {tuple(shape)}, of "
                f"{len(shape)} dimension(s). Pass {self._event_dim} or more, or build it with "
                "event_dim=1 for vectors."
            )
        return shape

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._check_rank(shape, "x")

    def _inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self._check_rank(shape, "y")

    def extra_repr(self) -> str:
        """The margin, and the event's dimensions."""
        return f"alpha={self.alpha:g}, event_dim={self._event_dim}"


def _of_events(constraint: Constraint, event_dim: int) -> Constraint:
    return constraints.independent(constraint, event_dim) if event_dim else constraint
