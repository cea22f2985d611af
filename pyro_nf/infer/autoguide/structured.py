"""The flow guide whose dependences follow the model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from pyro_nf._checks import hidden_sizes, positive_int
from pyro_nf.bijections import Affine, Chain, RationalQuadraticSpline
from pyro_nf.infer._first_values import init_to_origin
from pyro_nf.infer._structure import Structure, find_structure
from pyro_nf.infer._structure_frame import StructuredAffine, StructuredWhitening
from pyro_nf.infer._structure_informed import ModelInformed
from pyro_nf.infer._structure_walk import PriorWalk
from pyro_nf.infer.autoguide._posterior import PosteriorFlow, posterior_flow
from pyro_nf.infer.autoguide._whitening import Whitening
from pyro_nf.infer.autoguide.flow import AutoFlow
from pyro_nf.transforms import ActNorm, Autoregressive, Compose

_LARGEST_MIXING = 300
_UNITS_PER_SET = 4
_BOUND = 6.0  # further than a base draw goes, so that a tail can be stretched


class AutoStructuredFlow(AutoFlow):
    r"""A flow guide in which a latent depends on others only where the model makes it.

    The structure of the posterior is read off the model: latents that stand in one factor of its
    density are joined, rows of a plate only where the plate keeps them apart in that factor, and
    eliminating the latents from the last to the first gives each its parents (see
    ``guide.structure``). The flow is one autoregressive layer, spline and affine map, on a learned
    and a fixed affine map, all of which read the base draws of a latent's *ancestors*: the
    parents, their parents, and so on. This is the least that can hold the posterior: each
    :math:`p(z_i | z_{\mathrm{parents}(i)})` is a function of z, and so of those draws. The
    Jacobian base -> latents is zero wherever there is no ancestor.

    A hierarchical model gains most: its groups share their parents, and do not know of each other.
    A chain of latents gains nothing in this direction, for each has all before it as ancestors.

    Cost: as an inverse autoregressive flow, one pass to draw and to score the draw. The network's
    hidden layers have four units for each distinct set of ancestors, but no fewer than asked for.

    Warning:
        Dependence that leaves no trace in tensors is not seen: ``if tau > 1:`` in the model's own
        Python code. A model whose sites change with their values gets a dense flow and a warning.

    Args:
        model: The model.
        model_informed: Whether the location and scale of each latent's prior, given the latents
            before it, enter the flow: the affine maps become diagonal, and a layer moves each
            latent to where its prior expects it, as strongly as it learns to. It fits funnels,
            whose scales vary by orders of magnitude; a draw costs a run of the model up to its
            last latent, mapped over the rows, with the arguments of the set-up. Not for
            ``JitTrace_ELBO``.
        hidden_dims: Least widths of the network's hidden layers.
        bins: Number of bins of each spline, which acts on [-6, 6].
        init_loc_fn: First values of the latents, as for Pyro's autoguides.
        init_scale: First standard deviation of each unconstrained latent.
        tails: The base, as for :class:`AutoFlow`; "student" has each dimension's own.
        path_gradient: As for :class:`AutoFlow`.
        name: As for :class:`AutoFlow`.

    Attributes:
        structure: The graph of parents over the unconstrained dimensions, after set-up.

    Raises:
        ValueError: At set-up, as :class:`AutoFlow`.

    References:
        - Faithful inversion of generative models for effective amortized inference (Webb et al.,
          2018), arXiv:1712.00287.
        - Graphical normalizing flows (Wehenkel & Louppe, 2020), arXiv:2006.02548.
        - Model-informed flows for Bayesian inference (Ko & Domke, 2025), arXiv:2505.24243.

    Examples:
        >>> import torch, pyro
        >>> import pyro.distributions as dist
        >>> from pyro_nf.infer.autoguide import AutoStructuredFlow
        >>> def model(y):
        ...     tau = pyro.sample("tau", dist.HalfNormal(1.0))
        ...     with pyro.plate("groups", len(y)):
        ...         theta = pyro.sample("theta", dist.Normal(0.0, tau))
        ...         pyro.sample("y", dist.Normal(theta, 1.0), obs=y)
        >>> guide = AutoStructuredFlow(model).setup(torch.ones(3))
        >>> guide.structure.parents.int()  # tau, theta
        tensor([[0, 0, 0, 0],
                [1, 0, 0, 0],
                [1, 0, 0, 0],
                [1, 0, 0, 0]], dtype=torch.int32)
    """

    structure: Structure

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        model_informed: bool = False,
        hidden_dims: Sequence[int] = (32, 32),
        bins: int = 10,
        init_loc_fn: Callable[[dict[str, Any]], Tensor] = init_to_origin,
        init_scale: float = 0.1,
        tails: Literal["student"] | nn.Module | None = None,
        path_gradient: bool | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            model,
            init_loc_fn=init_loc_fn,
            init_scale=init_scale,
            tails=tails,
            path_gradient=path_gradient,
            name=name,
        )
        self.model_informed = model_informed
        owner = type(self).__name__
        self.hidden_dims = hidden_sizes(owner, "hidden_dims", hidden_dims)
        self.bins = positive_int(owner, "bins", bins)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        self._arguments = args, kwargs
        try:
            super()._setup_prototype(*args, **kwargs)
        finally:
            del self._arguments  # they may be all of the data

    def _make_posterior(self, loc: Tensor) -> PosteriorFlow:
        model, (args, kwargs) = self._bare_model[0], self._arguments
        self.structure = find_structure(model, args, kwargs, self.latents.sites)
        ancestors = self.structure.ancestors
        layer = self._autoregressive(ancestors)
        scale = torch.full_like(loc, self.init_scale)
        plain = posterior_flow(type(self).__name__, layer, "diag", self._tails[0], loc, scale)
        if self.model_informed:
            affine, frame = plain.affine, plain.whitening
            assert isinstance(affine, ActNorm)
            walk = PriorWalk(model, args, kwargs, self.latents.sites)
            # Beside the affine map, so that the two are trained together before the flow is.
            informed = Compose([ModelInformed(walk, affine, frame), affine])
            return PosteriorFlow(plain.base, plain.flow, informed, frame)
        if len(loc) > _LARGEST_MIXING or bool(ancestors.triu().any()):
            return plain
        frame = StructuredWhitening(loc, scale, ancestors)
        return _StructuredPosterior(plain, StructuredAffine(ancestors).to(loc), frame)

    def _autoregressive(self, ancestors: Tensor) -> Autoregressive:
        sets = {tuple(row) for row in ancestors.tolist()}
        widths = [max(width, _UNITS_PER_SET * len(sets)) for width in self.hidden_dims]
        return Autoregressive(
            Chain(
                [RationalQuadraticSpline(bins=self.bins, bound=_BOUND), Affine(max_log_scale=8.0)]
            ),
            len(ancestors),
            fast="sample",
            adjacency=ancestors,
            hidden_dims=widths,
            activation="silu",
        )


class _StructuredPosterior(PosteriorFlow):
    """A posterior flow in a structured frame, which moves as the plain one does."""

    def __init__(
        self, plain: PosteriorFlow, affine: StructuredAffine, frame: StructuredWhitening
    ) -> None:
        super().__init__(plain.base, plain.flow, affine, cast("Whitening", frame))

    @property
    def whitening(self) -> Whitening:
        """The frame."""
        return cast("Whitening", self.transform[-1])
