"""NeuTra: Hamiltonian Monte Carlo in the coordinates in which a guide is simple."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous
from pyro.infer.reparam import NeuTraReparam
from torch import Tensor, nn

from pyro_nf._checks import positive_int
from pyro_nf._modes import in_mode
from pyro_nf.infer._draws import latents_of

_OWNER = "neutra"


class NeutraModel:
    """A model whose latents are drawn through a guide's transform, and the way back.

    Called like the model, it has one latent site instead of the guide's: the base draw, whose
    posterior is close to the guide's base distribution. It goes wherever a model goes, such as
    ``pyro.infer.NUTS``. The guide's parameters are held fixed and receive no gradient.

    Args:
        model: The model.
        guide: A fitted ``AutoContinuous`` that has seen the model's arguments.

    Attributes:
        site: Name of the latent site.
    """

    def __init__(self, model: Callable[..., Any], guide: AutoContinuous) -> None:
        self._guide = guide
        self._model = NeuTraReparam(guide).reparam(model)
        self._latents = latents_of(guide, (), {})
        self.site = f"{next(iter(self._latents.sites))}_shared_latent"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the reparameterised model."""
        with poutine.block():  # NeuTraReparam reads the plates of the guide's latest run
            self._guide._create_plates(*args, **kwargs)
        with _fixed(self._guide):
            return self._model(*args, **kwargs)

    @torch.no_grad()
    def samples(self, latent: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Maps draws of the latent site back to the model's latents.

        Args:
            latent: What ``MCMC.get_samples()`` returned, with or without ``group_by_chain``, or
                the draws of ``site``: shape ``(*batch, D)``.

        Returns:
            A dict from site to values of shape ``(*batch, *site_shape)``.
        """
        if isinstance(latent, Mapping):
            if self.site not in latent:
                raise ValueError(
                    f"NeutraModel.samples got draws of {sorted(latent)}, not of {self.site!r}. "
                    "Pass mcmc.get_samples() of a chain that ran on this model."
                )
            latent = latent[self.site]
        with _fixed(self._guide):
            return self._latents.constrain(self._guide.get_transform()(latent))[0]

    @torch.no_grad()
    def initial_params(self, num_chains: int = 1) -> dict[str, Tensor]:
        """Draws first states from the guide, as ``pyro.infer.MCMC(initial_params=...)`` takes.

        Args:
            num_chains: Number of chains; one has no dimension of chains.

        Returns:
            A dict of one tensor, of shape ``(D,)`` or ``(num_chains, D)``.
        """
        positive_int("NeutraModel.initial_params", "num_chains", num_chains)
        shape = torch.Size([num_chains] if num_chains > 1 else [])
        return {self.site: self._guide.get_base_dist().sample(shape)}


def neutra(model: Callable[..., Any], guide: AutoContinuous) -> NeutraModel:
    r"""Creates the model in a guide's base coordinates, for Hamiltonian Monte Carlo.

    With the guide's transform f from base draws z to unconstrained latents, the density of z is

    .. math:: p(x, f(z)) \, |\det \partial f / \partial z|,

    which is nearly the base's, so short trajectories of HMC cross a funnel or a strong
    correlation that the model's own coordinates make narrow. Pyro's ``NeuTraReparam`` does the
    substitution; the flow is held fixed and in evaluation mode. Unlike importance weights, the
    chains correct the guide wherever they can go, but they too see a lost mode only by chance.

    Cost: one pass of the flow's base -> data direction, and its gradient, for each evaluation.

    Args:
        model: The model.
        guide: A fitted :class:`~pyro_nf.infer.autoguide.AutoFlow` or another ``AutoContinuous``
            whose transform does not depend on the model's arguments.

    Returns:
        The reparameterised model; its ``samples`` is the way back.

    Raises:
        TypeError: If the guide is no ``AutoContinuous``.
        ValueError: If the guide has not seen the model's arguments.

    References:
        NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo Using Neural Transport (Hoffman,
        Sountsov, Dillon, Langmore, Tran, Vasudevan, 2019), arXiv 1903.03704.

    Examples:
        >>> import torch, pyro
        >>> import pyro.distributions as dist
        >>> from pyro.infer import MCMC, NUTS
        >>> from pyro_nf import infer
        >>> from pyro_nf.infer.autoguide import AutoFlow
        >>> def model(y):
        ...     scale = pyro.sample("scale", dist.HalfNormal(1.0))
        ...     pyro.sample("y", dist.Normal(0.0, scale), obs=y)
        >>> y = torch.tensor(0.5)
        >>> transformed = infer.neutra(model, AutoFlow(model, init_scale=1.0).setup(y))
        >>> mcmc = MCMC(NUTS(transformed), num_samples=4, warmup_steps=4, disable_progbar=True)
        >>> mcmc.run(y)
        >>> samples = transformed.samples(mcmc.get_samples())
        >>> samples["scale"].shape, bool((samples["scale"] > 0).all())
        (torch.Size([4]), True)
    """
    if not isinstance(guide, AutoContinuous):
        raise TypeError(
            f"{_OWNER} got a guide of type {type(guide).__name__}, which has no one transform "
            "from a base draw to all latents. Pass an AutoContinuous, such as AutoFlow."
        )
    if guide.prototype_trace is None:
        raise ValueError(
            f"{_OWNER} got a {type(guide).__name__} that has not seen the model's arguments, so "
            "it has no parameters. Fit it first: infer.fit_guide(model, guide, *args)."
        )
    return NeutraModel(model, guide)


@contextmanager
def _fixed(guide: nn.Module) -> Iterator[None]:
    """Holds a guide's parameters out of the graph and its layers in evaluation mode."""
    trained = [p for p in guide.parameters() if p.requires_grad]
    with in_mode(guide, "eval"):
        try:
            for parameter in trained:
                parameter.requires_grad = False
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad = True
