"""Student's t distribution as a base, for heavy tails."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Chi2, Distribution

from pyro_nf._checks import positive_float, positive_int
from pyro_nf.distributions._independent import IndependentDimensions
from pyro_nf.distributions._parameters import (
    Parameters,
    Values,
    check_parameters,
    per_dimension,
)


class StudentT(nn.Module):
    r"""Independent Student's t distributions with degrees of freedom for each dimension.

    .. math:: x_d \sim t_{\nu_d}(\mu_d, \sigma_d), \qquad
        p(x_d) \propto \bigl(1 + (x_d - \mu_d)^2 / (\nu_d \sigma_d^2)\bigr)^{-(\nu_d + 1) / 2}

    A Lipschitz map cannot make a tail heavier than its base's, and most flow layers are Lipschitz:
    so data or posteriors with heavy tails need them in the base. Learned, the tails are found by
    training, with :math:`\nu = \nu_{min} + \mathrm{softplus}(\rho)`, and so are location and
    log-scale; the distribution starts at ``df``, location 0 and scale 1.

    Drawing costs a gamma variate for each number; its gradient reaches :math:`\nu`.

    Args:
        input_dim: Number D of dimensions.
        df: Degrees of freedom :math:`\nu`, one number or D of them: 1 is Cauchy's distribution,
            30 nearly a normal.
        parameters: "learned" or "fixed".
        min_df: Lower bound of learned degrees of freedom. Below 1 draws overflow in float32.

    Raises:
        ValueError: If ``df`` is not positive or, learned, not above ``min_df``.

    References:
        - Tails of Lipschitz triangular flows (Jaini et al., 2020), arXiv:1907.04481.
        - Marginal tail-adaptive normalizing flows (Laszkiewicz et al., 2022), arXiv:2206.10311.

    Examples:
        >>> import torch
        >>> from pyro_nf.distributions import StudentT
        >>> base = StudentT(2, df=[3.0, 30.0])
        >>> base.df
        tensor([ 3., 30.], grad_fn=<AddBackward0>)
        >>> base().rsample((5,)).shape, base().log_prob(torch.zeros(5, 2)).shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    loc: Tensor
    scale: Tensor
    fixed_df: Tensor
    context_dim: int = 0

    def __init__(
        self,
        input_dim: int,
        *,
        df: Values = 5.0,
        parameters: Parameters = "learned",
        min_df: float = 1.0,
    ) -> None:
        super().__init__()
        self.input_dim = positive_int("StudentT", "input_dim", input_dim)
        self.learned = check_parameters("StudentT", parameters)
        self.min_df = positive_float("StudentT", "min_df", min_df)
        start = per_dimension("StudentT", "df", df, input_dim)
        least = self.min_df if self.learned else 0.0
        if not (start.is_meta or bool((start > least).all())):
            raise ValueError(
                f"StudentT got df={df}; expected numbers above {least:g}. Pass df=5.0, say"
                + (f", or min_df below {self.min_df:g}." if self.learned else ".")
            )
        if self.learned:
            # The inverse of softplus, ρ = log(exp(ν - ν_min) - 1), without an overflow.
            excess = start - self.min_df
            self.raw_df = nn.Parameter(excess + (-torch.expm1(-excess)).log())
            self.loc = nn.Parameter(torch.zeros_like(start))
            self.log_scale = nn.Parameter(torch.zeros_like(start))
        else:
            self.register_buffer("fixed_df", start)
            self.register_buffer("loc", torch.zeros_like(start))
            self.register_buffer("scale", torch.ones_like(start))

    @property
    def df(self) -> Tensor:
        """The degrees of freedom, of shape ``(D,)``."""
        return self.min_df + F.softplus(self.raw_df) if self.learned else self.fixed_df

    def forward(self, context: Tensor | None = None) -> dist.Independent:
        """Creates the distribution, of event shape ``(D,)``; a context is ignored."""
        del context
        scale = self.log_scale.exp() if self.learned else self.scale
        return IndependentDimensions(_UncheckedStudentT(self.df, self.loc, scale), 1)

    def extra_repr(self) -> str:
        """The size, and what is learned."""
        parameters = "learned" if self.learned else "fixed"
        return f"input_dim={self.input_dim}, parameters={parameters!r}"


class _UncheckedStudentT(dist.StudentT):
    """Torch's distribution without the check of ``df``, which waits for the device at each call.

    Torch's has no switch for it. It also lacks gamma variates of 16 bits: they are drawn in 32.
    """

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.df, self.loc, self.scale = torch.broadcast_tensors(df, loc, scale)
        wide = torch.promote_types(self.df.dtype, torch.float32)
        self._chi2 = Chi2(self.df.to(wide), validate_args=False)
        Distribution.__init__(self, self.df.shape, validate_args=False)

    def expand(
        self, batch_shape: torch.Size | tuple[int, ...], _instance: Any = None
    ) -> dist.StudentT:
        new = self._get_checked_instance(_UncheckedStudentT, _instance)
        return super().expand(batch_shape, _instance=new)

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        return super().rsample(torch.Size(sample_shape)).to(self.df.dtype)
