"""A layer that puts each latent where its prior, given the latents before it, expects it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_nf.infer._latents import LatentSite
from pyro_nf.infer._structure_prior import LocScale
from pyro_nf.infer._structure_walk import PriorWalk
from pyro_nf.transforms import ActNorm, FlowTransform
from pyro_nf.transforms._contract.features import features_first

if TYPE_CHECKING:
    from pyro_nf.infer.autoguide._whitening import Whitening

# The precision that a latent is left with spans many orders of magnitude.
_PRECISION_UNIT = 3.0


@final
class ModelInformed(FlowTransform):
    r"""Shifts and scales each latent by its prior's location and scale, given those before it.

    Let the prior of a latent, given its parents' values, lie at :math:`\mu` with scale
    :math:`\sigma`, in the coordinates of this layer. Then

    .. math:: y = (1 - g) \mu + g\, t + \sigma \sqrt{1 - g}\; x, \qquad
        g = \frac{\kappa \sigma^2}{1 + \kappa \sigma^2},

    which is the posterior of a normal prior after one observation t of precision κ. Both are
    learned for each dimension: κ → 0 is the model itself (the non-centred parameterisation), large
    κσ² leaves the latent to the layers before this one (the centred one). The gate g depends on
    σ, as it does in a posterior: where a group's scale is small its members follow their prior.
    Latents whose prior does not depend on other latents, or is of no known location and scale, are
    left as they are.

    Cost: in either direction one run of the model up to its last latent, mapped over the rows;
    the rest of the model does not run. The log-determinant is exact.

    Args:
        walk: The model's latents, in its order.
        affine: The layer between this one and the frame.
        frame: The last layer, with a diagonal scale: y is in units of what the two make of it.

    References:
        - Model-informed flows for Bayesian inference (Ko & Domke, 2025), arXiv:2505.24243.
        - Automatic reparameterisation of probabilistic programs (Gorinova et al., 2020),
          arXiv:1906.03028.
        - Automatic structured variational inference (Ambrogioni et al., 2021), arXiv:2002.00643.
    """

    input_dim: int

    def __init__(self, walk: PriorWalk, affine: ActNorm, frame: Whitening) -> None:
        super().__init__()
        self.input_dim = frame.input_dim
        self.log_precision = nn.Parameter(torch.zeros_like(frame.loc))
        self.observation = nn.Parameter(torch.zeros_like(frame.loc))
        self.walk = walk
        # In a tuple: their parameters belong to the chain that holds them, not to this layer.
        self._outer = affine, frame
        self.informed = _informed_sites(walk, frame.loc)
        self._mapped = True
        self._mapped = self._maps()

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data, one site of the model after another."""
        return self._each_row(self._place, x, context, "x")

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base."""
        return self._each_row(self._displace, y, context, "y")

    def _each_row(
        self,
        one: Callable[..., tuple[Tensor, Tensor]],
        x: Tensor,
        context: Tensor | None,
        name: str,
    ) -> tuple[Tensor, Tensor]:
        if torch._C._get_tracing_state():
            raise ValueError(
                "A model-informed layer runs the model, mapped over draws, which torch.jit cannot "
                "trace. Use Trace_ELBO, or build the guide with model_informed=False."
            )
        batch = features_first(self, x, context, name).shape[1:]
        rows = x.reshape(-1, self.input_dim)
        center, unit = self._units()
        if not len(rows):
            return x.clone(), x.new_zeros(batch)
        if self._mapped:
            mapped = torch.func.vmap(one, in_dims=(0, None, None), randomness="different")
            result, ladj = mapped(rows, center, unit)
        else:
            pairs = [one(row, center, unit) for row in rows]
            result, ladj = (torch.stack(each) for each in zip(*pairs, strict=True))
        return result.reshape(x.shape), ladj.reshape(batch)

    def _place(self, x: Tensor, center: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """One row ``(D,)``, base -> data."""
        found, ladjs = {}, []

        def visit(site: LatentSite, prior: LocScale | None) -> Tensor:
            place = slice(site.start, site.stop)
            shift, log_scale = self._coefficients(site, prior, center, unit)
            y = found[site.start] = x[place] * log_scale.exp() + shift
            ladjs.append(log_scale.sum())
            return center[place] + unit[place] * y

        self.walk(visit)
        return torch.cat([found[start] for start in sorted(found)]), torch.stack(ladjs).sum()

    def _displace(self, y: Tensor, center: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """One row ``(D,)``, data -> base."""
        found, ladjs = {}, []

        def visit(site: LatentSite, prior: LocScale | None) -> Tensor:
            place = slice(site.start, site.stop)
            shift, log_scale = self._coefficients(site, prior, center, unit)
            found[site.start] = (y[place] - shift) * torch.exp(-log_scale)
            ladjs.append(-log_scale.sum())
            return center[place] + unit[place] * y[place]

        self.walk(visit)
        return torch.cat([found[start] for start in sorted(found)]), torch.stack(ladjs).sum()

    def _coefficients(
        self, site: LatentSite, prior: LocScale | None, center: Tensor, unit: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Shift and log-scale of the dimensions of one site."""
        place = slice(site.start, site.stop)
        unit = unit[place]
        if prior is None or site.name not in self.informed:
            return torch.zeros_like(unit), torch.zeros_like(unit)
        loc, scale = (moment.to(unit.dtype) for moment in prior)
        loc, log_scale = (loc - center[place]) / unit, (scale / unit).log()
        log_odds = _PRECISION_UNIT * self.log_precision[place] + 2 * log_scale
        shift = loc * torch.sigmoid(-log_odds) + self.observation[place] * torch.sigmoid(log_odds)
        return shift, log_scale - F.softplus(log_odds) / 2

    def _units(self) -> tuple[Tensor, Tensor]:
        """Unconstrained value of y = 0, and its change with y: both ``(D,)``."""
        affine, frame = self._outer
        scale = frame.scale.detach()
        shift, _ = affine.forward_and_ladj(torch.zeros_like(scale))
        return frame.loc.detach() + scale * shift, scale * affine.log_scale.exp()

    @torch.no_grad()
    def _maps(self) -> bool:
        """Whether the model's runs can be mapped over rows, with the values of one run each."""
        rows = torch.linspace(-1, 1, 2 * self.input_dim).to(self.observation).reshape(2, -1)
        try:
            mapped = self.forward_and_ladj(rows)
        except Exception:  # noqa: BLE001  a model may fail in any way under vmap
            return False
        each = [self._place(row, *self._units()) for row in rows]
        single = [torch.stack(part) for part in zip(*each, strict=True)]
        return all(map(torch.allclose, mapped, single))


def _informed_sites(walk: PriorWalk, like: Tensor) -> frozenset[str]:
    """The sites whose prior's moments are known and depend on other latents, and on them alone.

    Moments that differ between two runs at one point depend on something drawn, and are left out.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    points = torch.rand(2, len(like), generator=generator, device="cpu").to(like) - 0.5
    first, again, moved = (walk.moments(z) for z in (points[0], points[0], points[1]))
    informed = set()
    for name, site in walk.sites.items():
        a, b, c = (moments[:, site.start : site.stop] for moments in (first, again, moved))
        if bool(a.isfinite().all() & (a == b).all() & (a != c).any()):
            informed.add(name)
    return frozenset(informed)
