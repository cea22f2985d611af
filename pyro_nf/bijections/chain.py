"""Several scalar bijections as one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.bijections._elements import check_params


@dataclass(frozen=True)
class Chain(ScalarBijection):
    r"""Scalar bijections one after the other.

    .. math:: y = f_K(\dots f_2(f_1(x; \theta_1); \theta_2) \dots; \theta_K), \qquad
        \log |dy/dx| = \sum_k \log |f_k'|

    The parameters of each element are those of the parts, in their order. In a wiring all parts
    get their parameters from one network, so that an autoregressive layer on a chain keeps its
    graph, where a stack of layers would not. Either direction costs the sum of its parts.

    Args:
        parts: The bijections, base -> data; at least one.

    Raises:
        TypeError: If the parts are no sequence, or one is no scalar bijection.
        ValueError: If there is none, or their domains differ.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import Affine, RationalQuadraticSpline
        >>> chain = Chain((RationalQuadraticSpline(bins=4), Affine()))
        >>> y, ladj = chain.forward(torch.linspace(-1, 1, 5), torch.zeros(chain.param_count, 5))
        >>> y.shape, ladj.shape
        (torch.Size([5]), torch.Size([5]))
    """

    parts: Sequence[ScalarBijection]

    def __post_init__(self) -> None:
        """Checks the parts, and keeps them as a tuple."""
        if not isinstance(self.parts, Iterable):
            raise TypeError(
                f"Chain got {self.parts!r} for its parts. Pass a sequence of scalar bijections, "
                "such as [pyro_nf.bijections.Affine()]."
            )
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise ValueError("Chain got no parts. Pass at least one scalar bijection.")
        for part in self.parts:
            if not isinstance(part, ScalarBijection):
                raise TypeError(
                    f"Chain got a part of type {type(part).__name__}. Pass scalar bijections, "
                    "such as pyro_nf.bijections.Affine()."
                )
            if part.domain is not self.parts[0].domain:
                raise ValueError(
                    f"Chain got parts on {self.parts[0].domain} and on {part.domain}. Chain "
                    "bijections of one domain."
                )

    @property
    def sign(self) -> int:  # type: ignore[override]
        """+1 for an increasing chain, -1 for a decreasing one."""
        return math.prod(part.sign for part in self.parts)

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        """The set that is mapped onto itself."""
        return self.parts[0].domain

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: the sum of the parts'."""
        return sum(part.param_count for part in self.parts)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps through the parts from the first to the last."""
        check_params(self, x, params)
        y, ladjs = x, []
        for part, own in self._shares(params):
            y, ladj = part.forward(y, own)
            ladjs.append(ladj)
        return y, sum(ladjs[1:], ladjs[0])

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps back through the parts from the last to the first."""
        check_params(self, y, params)
        x, ladjs = y, []
        for part, own in reversed([*self._shares(params)]):
            x, ladj = part.inverse(x, own)
            ladjs.append(ladj)
        return x, sum(ladjs[1:], ladjs[0])

    def inverse_at(self, x: Tensor, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Is ``inverse(y, params)`` where x, its value, is known: so are the values between."""
        with torch.no_grad():
            known = [x]
            for part, own in self._shares(params):
                known.append(part.forward(known[-1], own)[0])
        value, ladjs = y, []
        for before, (part, own) in reversed([*zip(known, self._shares(params), strict=False)]):
            value, ladj = part.inverse_at(before, value, own)
            ladjs.append(ladj)
        return value, sum(ladjs[1:], ladjs[0])

    def _shares(self, params: Tensor) -> Iterator[tuple[ScalarBijection, Tensor]]:
        """Each part with its rows of the parameters."""
        counts = [part.param_count for part in self.parts]
        return zip(self.parts, params.split(counts), strict=True)
