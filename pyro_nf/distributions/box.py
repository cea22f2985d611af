"""The uniform distribution on a box as a base."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_nf._checks import positive_int
from pyro_nf.distributions._independent import IndependentDimensions
from pyro_nf.distributions._parameters import Values, per_dimension


class UniformBox(nn.Module):
    r"""The uniform distribution on :math:`[a_1, b_1) \times \dots \times [a_D, b_D)`.

    .. math:: \log p(x) = -\sum_d \log(b_d - a_d) \text{ inside, } -\infty \text{ outside}

    Args:
        input_dim: Number D of dimensions.
        low: Lower bounds :math:`a`, one number or D of them.
        high: Upper bounds :math:`b`, one number or D of them.

    Raises:
        ValueError: If a lower bound is not below its upper bound.

    Warning:
        Outside of the box the density is 0 and its gradient too, with validation on as well as
        off: a flow on this base cannot learn from data that it maps there. Its transform should
        map the box onto all places where data may lie, as autoregressive splines on
        :math:`[a, b]` do; for other data use :class:`DiagonalNormal`.

    Examples:
        >>> import torch
        >>> from pyro_nf.distributions import UniformBox
        >>> box = UniformBox(2, low=-1.0, high=1.0)()
        >>> box.log_prob(torch.tensor([[0.0, 0.0], [0.0, 3.0]]))
        tensor([-1.3863,    -inf])
    """

    low: Tensor
    high: Tensor
    context_dim: int = 0

    def __init__(self, input_dim: int, low: Values = 0.0, high: Values = 1.0) -> None:
        super().__init__()
        self.input_dim = positive_int("UniformBox", "input_dim", input_dim)
        lower = per_dimension("UniformBox", "low", low, input_dim)
        upper = per_dimension("UniformBox", "high", high, input_dim)
        if not (lower.is_meta or bool((lower < upper).all())):
            raise ValueError(
                f"UniformBox got low={low} and high={high}. Pass low < high in every dimension."
            )
        self.register_buffer("low", lower)
        self.register_buffer("high", upper)

    def forward(self, context: Tensor | None = None) -> dist.Independent:
        """Creates the distribution, of event shape ``(D,)``; a context is ignored."""
        del context
        # Validated, a value outside would raise; a flow must be able to say that it is impossible.
        return IndependentDimensions(dist.Uniform(self.low, self.high, validate_args=False), 1)

    def extra_repr(self) -> str:
        """The size."""
        return f"input_dim={self.input_dim}"
