"""The flow guide: a normalizing flow over all continuous latents of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_nf._checks import positive_float
from pyro_nf.distributions import FlowDistribution
from pyro_nf.infer._first_values import init_to_origin
from pyro_nf.infer._latents import LatentSpace, check_steady
from pyro_nf.infer._validation import without_validation
from pyro_nf.infer.autoguide._guide import FlowGuide
from pyro_nf.infer.autoguide._posterior import (
    Affine,
    FlowLike,
    PosteriorFlow,
    affine_kind,
    posterior_flow,
    supports_path,
)
from pyro_nf.infer.autoguide._quantiles import site_quantiles
from pyro_nf.transforms import FlowTransform


class AutoFlow(FlowGuide, AutoContinuous):
    r"""A guide whose posterior over all continuous latents is a normalizing flow.

    The latents are mapped to an unconstrained vector x, whose distribution is

    .. math:: x = m + L z, \qquad z = A(f(\epsilon)), \qquad \epsilon \sim \mathrm{base},

    with the flow f, an affine layer A and a frame (m, L) that stays fixed while f and A are
    trained, so that a step of the optimiser is as long in each direction as the posterior is wide.
    :func:`~pyro_nf.infer.fit_guide` finds the frame and trains the rest; any other way of training
    a Pyro guide works too, in the frame of ``init_loc_fn`` and ``init_scale``.

    The guide serves wherever Pyro takes an ``AutoContinuous``: ``SVI``, ``Predictive``,
    ``NeuTraReparam``, ``AutoGuideList``, and beside enumerated discrete sites once those are
    blocked. Only shapes and supports of the sites are read, so improper priors serve too.

    Args:
        model: The model.
        flow: The flow f: a name from :mod:`pyro_nf.flows`, a function from the number of
            dimensions to a flow or to transforms, or one of these. ``"realnvp"`` is ten affine
            couplings of random halves.
        init_loc_fn: First values of the latents, as for Pyro's autoguides.
        init_scale: First standard deviation of each unconstrained latent.
        affine: The layer A: "full" (triangular), "lowrank" (a diagonal and rank 20), "diag", None
            for none, or "auto", which is full in up to 300 dimensions and else low-rank.
        tails: The base: None for a standard normal, "student" for Student's t with learned degrees
            of freedom in each dimension, or a module that gives a distribution.
        path_gradient: Whether the guide's own draw is scored by its path alone, which takes the
            gradient's variance to zero where the guide is exact. None: within ``fit_guide`` alone
            and where the flow's inverse is cheap (not for autoregressive layers of more than 64
            dimensions or layers that invert numerically). True is refused by objectives with
            importance weights and by ``JitTrace_ELBO``.
        name: Prefix of the parameters in Pyro's store; None for the class's name, numbered from
            the second guide on so that no two share parameters.

    Attributes:
        latents: The latents and their places in the unconstrained vector, after set-up.
        latent_dim: Number D of dimensions, after set-up.

    Raises:
        ValueError: At set-up, if the model has no latents, or one that is discrete, has no
            bijection to its support, changes shape or support with other latents, or lies in a
            subsampled plate.

    Examples:
        >>> import torch, pyro
        >>> import pyro.distributions as dist
        >>> from pyro_nf.infer.autoguide import AutoFlow
        >>> def model(y):
        ...     scale = pyro.sample("scale", dist.HalfNormal(1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(0.0, scale), obs=y)
        >>> guide = AutoFlow(model).setup(torch.ones(4))
        >>> guide.latent_dim, guide.get_posterior().sample((7,)).shape
        (1, torch.Size([7, 1]))
        >>> guide(torch.ones(4))["scale"].shape
        torch.Size([])
    """

    latents: LatentSpace

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        flow: FlowLike = "realnvp",
        init_loc_fn: Callable[[dict[str, Any]], Tensor] = init_to_origin,
        init_scale: float = 0.1,
        affine: Affine | Literal["auto"] | None = "auto",
        tails: Literal["student"] | nn.Module | None = None,
        path_gradient: bool | None = None,
        name: str | None = None,
    ) -> None:
        if not callable(model):
            raise TypeError(
                f"{type(self).__name__} got a model of type {type(model).__name__}. Pass a "
                "function of Pyro statements."
            )
        super().__init__(model, init_loc_fn=init_loc_fn)
        self._begin(model, name, path_gradient)
        self._flow_like, self._affine, self._tails = (flow,), affine, (tails,)
        affine_kind(type(self).__name__, affine, 1)
        self.init_scale = positive_float(type(self).__name__, "init_scale", init_scale)

    def setup(self, *args: Any, **kwargs: Any) -> AutoFlow:
        """Makes the parameters, given the model's arguments; the first call of the guide does too.

        Args:
            *args: The model's arguments.
            **kwargs: The model's keyword arguments.

        Returns:
            The guide itself.
        """
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        return self

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        owner = type(self).__name__
        # Without validation, which stops at a density that is not finite and names no site.
        with without_validation():
            with poutine.block():
                trace = poutine.trace(self.model).get_trace(*args, **kwargs)
            latents = LatentSpace(owner, trace)
            check_steady(owner, self._bare_model[0], *args, **kwargs)
            super()._setup_prototype(*args, **kwargs)
        self._create_plates()  # Pyro's NeuTra reads them before the guide's first run
        self.latents = latents
        self._modules["posterior"] = self._make_posterior(latents.start)

    @property
    def posterior(self) -> PosteriorFlow:
        """Base, flow, affine layer and frame as one module, after set-up."""
        # Read past PyroModule, which would declare every parameter at each access.
        self._check_set_up()
        return cast("PosteriorFlow", self._modules["posterior"])

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draws from the guide; the parameters are those of Pyro's store if it has them."""
        self.setup(*args, **kwargs)
        name = self._pyro_get_fullname("posterior")
        pyro.module(name, self.posterior, update_module_params=True)
        return super().forward(*args, **kwargs)

    def _make_posterior(self, loc: Tensor) -> PosteriorFlow:
        """Creates the flow around a first location; subclasses make other flows."""
        full = affine_kind(type(self).__name__, self._affine, len(loc)) == "full"
        scale = torch.full_like(loc, self.init_scale)
        return posterior_flow(
            type(self).__name__,
            self._flow_like[0],
            self._affine,
            self._tails[0],
            loc,
            scale.diag() if full else scale,
        )

    def get_base_dist(self) -> Distribution:
        """Creates the base distribution, of event shape ``(D,)``."""
        return self.posterior.base()

    def get_transform(self, *args: Any, **kwargs: Any) -> FlowTransform:
        """Returns the transform from base to unconstrained latents."""
        return self.posterior.transform

    def get_posterior(self, *args: Any, **kwargs: Any) -> FlowDistribution:
        """Creates the distribution of the unconstrained latents, of event shape ``(D,)``."""
        return self.posterior("path" if self._takes_path() else "plain")

    def _takes_path(self) -> bool:
        if self.path_gradient is not None:
            return self.path_gradient
        return self._within_fit and supports_path(self.posterior.transform)

    @torch.no_grad()
    def median(self, *args: Any, num_samples: int = 10_000, **kwargs: Any) -> dict[str, Tensor]:
        """Estimates each latent's median from draws.

        Args:
            *args: The model's arguments.
            num_samples: Number of draws.
            **kwargs: The model's keyword arguments.

        Returns:
            A dict from site to a tensor of the site's shape.
        """
        quantiles = self.quantiles([0.5], *args, num_samples=num_samples, **kwargs)
        return {name: value.squeeze(0) for name, value in quantiles.items()}

    @torch.no_grad()
    def quantiles(
        self,
        quantiles: Sequence[float] | Tensor,
        *args: Any,
        num_samples: int = 10_000,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Estimates quantiles of each latent from draws.

        Args:
            quantiles: Probabilities between 0 and 1.
            *args: The model's arguments.
            num_samples: Number of draws.
            **kwargs: The model's keyword arguments.

        Returns:
            A dict from site to a tensor of shape ``(len(quantiles), *site_shape)``.
        """
        self.setup(*args, **kwargs)
        draws = self.posterior().sample((num_samples,))
        return site_quantiles(self.latents, draws, quantiles)

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Loads what ``state_dict`` returned, into a guide that is set up."""
        self._check_set_up()
        return super().load_state_dict(state_dict, *args, **kwargs)

    def _check_set_up(self) -> None:
        if "posterior" not in self._modules:
            raise RuntimeError(
                f"{type(self).__name__} has no parameters before it has seen the model's "
                "arguments. Call guide.setup(*args, **kwargs) with them once."
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._create_plates()
