"""A monotone map as the integral of a positive network."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_nf._checks import positive_float, positive_int
from pyro_nf.bijections._elements import flat_elements
from pyro_nf.bijections._quadrature import Rule, gauss_legendre
from pyro_nf.bijections._root import NumericallyInverted, Root, check_root

_MAX_LOG_SCALE = 5.0
_MAX_LOG_RANGE = 2.5
_LEAST_NODES = 16
_MAX_STEEPNESS = 7.0  # in units of 1 / bound


@dataclass(frozen=True)
class UnconstrainedMonotonic(NumericallyInverted):
    r"""The integral of a positive network (UMNN): its weights are unconstrained.

    .. math:: y = b + \int_0^x f(t) \, dt, \qquad \log \frac{dy}{dx} = \log f(x), \qquad
        f(t) = \exp\Bigl(a + \sum_{h=1}^{H} v_h \tanh\bigl(w_h (t - c_h)\bigr)\Bigr)

    on [-B, B], B = ``bound``; outside the map goes on with the slope it has at the end, so it is
    onto the real line. The network's own weights are the parameters of each element, 2 + 3H in
    this order: the shift b, the log-scale a, and H each of the weights v, the steepnesses w and
    the centres c. They are bounded softly: :math:`|a| < 5`, :math:`\sum_h |v_h| < 2.5`,
    :math:`0 < w_h < 7/B`, and c_h within B of one of H points spread evenly over [-B, B]. Zero
    parameters make v = 0, the identity, and units that differ.

    These bounds are what makes the integral exact. The integrand is analytic near the real line,
    so a Gauss-Legendre rule converges geometrically; at the bounds' worst the relative error of
    the slope is

    ====== ====== ====== ====== ======
    nodes  24     32     40     48
    error  7e-5   1e-7   2e-10  4e-13
    ====== ====== ====== ====== ======

    and at parameters of unit size some thousand times smaller.

    Cost: forward ``(nodes + 1) * units`` hyperbolic tangents for each element; the inverse is a
    numerical root, some eight times that.

    Args:
        units: Number H of hidden units.
        nodes: Number of nodes of the quadrature, at least 16.
        bound: The network acts on [-bound, bound].
        root: Budget and tolerance of the inverse.

    Raises:
        TypeError, ValueError: If an option is out of range.

    Warning:
        Features narrower than about ``bound / 7`` can not be resolved: standardise the data.

    References:
        - Unconstrained monotonic neural networks (Wehenkel & Louppe, 2019), arXiv:1908.05164.

    Examples:
        >>> import torch
        >>> umnn = UnconstrainedMonotonic(units=4)
        >>> y, ladj = umnn.forward(torch.linspace(-9, 9, 5), torch.ones(umnn.param_count, 5))
        >>> x, _ = umnn.inverse(y, torch.ones(umnn.param_count, 5))
        >>> torch.allclose(x, torch.linspace(-9, 9, 5), atol=1e-4)
        True
    """

    units: int = 6
    nodes: int = 40
    bound: float = 3.0
    root: Root = Root()
    _rule: Rule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the options, and makes the quadrature."""
        check_root("UnconstrainedMonotonic", self.root)
        positive_int("UnconstrainedMonotonic", "units", self.units)
        positive_int("UnconstrainedMonotonic", "nodes", self.nodes)
        positive_float("UnconstrainedMonotonic", "bound", self.bound)
        if self.nodes < _LEAST_NODES:
            raise ValueError(
                f"UnconstrainedMonotonic got nodes={self.nodes}, too few for the integral to have "
                f"the slope that the log-determinant reads. Pass at least {_LEAST_NODES}; 40 is "
                "exact to ten digits."
            )
        object.__setattr__(self, "_rule", gauss_legendre(self.nodes))

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: 2 + 3 units."""
        return 2 + 3 * self.units

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``b`` plus the integral of ``f`` from 0 to ``x``."""
        flat, raw, dtype = flat_elements(self, x, params)
        nodes, weights = self._rule.tensors(flat)
        inside = flat.clamp(-self.bound, self.bound)
        log_slopes = self._log_slope(torch.cat([inside * nodes, inside.unsqueeze(0)]), raw[1:])
        ladj = log_slopes[-1]
        mean_slope = (weights * log_slopes[:-1].exp()).sum(0)
        y = raw[0] + inside * mean_slope + (flat - inside) * ladj.exp()
        return y.view(x.shape).to(dtype), ladj.view(x.shape).to(dtype)

    def _log_slope(self, t: Tensor, raw: Tensor) -> Tensor:
        """The log of f at points t ``(points, n)``, given the raw parameters but the shift."""
        log_scale = raw[0] / (1 + raw[0].abs() / _MAX_LOG_SCALE)
        weight, steepness, shift = raw[1:].view(3, self.units, -1)  # (units, n) each
        weight = weight / (1 + weight.abs().sum(0) / _MAX_LOG_RANGE)
        steepness = _MAX_STEEPNESS / self.bound * steepness.sigmoid()
        grid = torch.linspace(
            -self.bound, self.bound, self.units, dtype=raw.dtype, device=raw.device
        )
        offset = -steepness * (grid.unsqueeze(1) + shift / (1 + shift.abs() / self.bound))
        # One unit at a time: a tensor of all would be written and read once more to be summed.
        log_slope = log_scale
        for v, w, b in zip(weight.unbind(), steepness.unbind(), offset.unbind(), strict=True):
            log_slope = torch.addcmul(log_slope, v, torch.addcmul(b, w, t).tanh())
        return log_slope
