"""The unconstrained space in which a model's continuous latents live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints

from pyro_nf.infer._first_values import init_to_origin, init_to_scattered
from pyro_nf.transforms._support.same import same_support


@dataclass(frozen=True)
class LatentSite:
    """One latent site and its place in the unconstrained vector.

    Attributes:
        name: The site's name.
        transform: ``biject_to`` of its support, unconstrained -> value.
        shape: Shape of the value: the plates' sizes and the event.
        unconstrained_shape: Shape of the unconstrained value.
        event_dim: Number of event dimensions of the value.
        plates: Names of the plates around it by dimension, counted from the right of the batch.
        start: First index in the unconstrained vector.
        stop: One past its last.
    """

    name: str
    transform: Transform
    shape: torch.Size
    unconstrained_shape: torch.Size
    event_dim: int
    plates: dict[int, str]
    start: int
    stop: int


class LatentSpace:
    """The space of all continuous latents of a model, unconstrained and in the model's order.

    Args:
        owner: Who asks, for messages.
        trace: A trace of the model's latents, at values inside of their supports.

    Attributes:
        sites: The sites by name.
        dim: Number D of dimensions.
        start: The trace's values as one unconstrained vector, ``(D,)``. It lies on the accelerator
            if one of the sites does: priors of plain numbers lie on the CPU.

    Raises:
        ValueError: If there is no latent, or one is discrete, has no bijection to its support, or
            lies in a plate that shows only part of its data.
    """

    def __init__(self, owner: str, trace: poutine.Trace) -> None:
        self.sites: dict[str, LatentSite] = {}
        self.dim = 0
        values: list[Tensor] = []
        for name, site in _latents(trace).items():
            _check_plates(owner, name, site)
            transform = _bijection(owner, name, site)
            value = site["value"].detach()
            unconstrained = transform.inv(value)
            self.sites[name] = LatentSite(
                name=name,
                transform=transform,
                shape=value.shape,
                unconstrained_shape=unconstrained.shape,
                event_dim=site["fn"].event_dim,
                plates={f.dim: f.name for f in site["cond_indep_stack"] if f.vectorized},
                start=self.dim,
                stop=self.dim + unconstrained.numel(),
            )
            self.dim += unconstrained.numel()
            values.append(unconstrained.reshape(-1))
        if not self.sites:
            raise ValueError(
                f"{owner} found no continuous latent in the model: every sample statement is "
                "observed or blocked. Use an empty guide, or unblock the sites it is to cover."
            )
        dtype = max((v.dtype for v in values), key=lambda dtype: torch.finfo(dtype).bits)
        device = next((v.device for v in values if v.device.type != "cpu"), values[0].device)
        self.start = torch.cat([v.to(device=device, dtype=dtype) for v in values])

    @property
    def dtype(self) -> torch.dtype:
        """The widest dtype of the sites."""
        return self.start.dtype

    @property
    def device(self) -> torch.device:
        """Where unconstrained vectors lie."""
        return self.start.device

    def constrain(self, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Maps unconstrained vectors to the sites' values.

        Args:
            z: Shape ``(*batch, D)``.

        Returns:
            The values by name, of shape ``(*batch, *site.shape)``, and ``log|d values / dz|`` of
            shape ``(*batch,)``.
        """
        batch = z.shape[:-1]
        values: dict[str, Tensor] = {}
        total = z.new_zeros(())
        for name, site in self.sites.items():
            u = z[..., site.start : site.stop].reshape(batch + site.unconstrained_shape)
            values[name] = site.transform(u)
            ladj = site.transform.log_abs_det_jacobian(u, values[name])
            total = total + (ladj.reshape(*batch, -1).sum(-1) if ladj.ndim > len(batch) else ladj)
        return values, total.expand(batch)

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """Undoes :meth:`constrain`: values by name to vectors of shape ``(*batch, D)``."""
        parts = []
        for name, site in self.sites.items():
            value = values[name]
            batch = value.shape[: value.ndim - len(site.shape)]
            parts.append(site.transform.inv(value).reshape(*batch, -1))
        return torch.cat(parts, -1)


def check_steady(owner: str, model: Any, *args: Any, **kwargs: Any) -> None:
    """Raises if a latent's shape or support changes with the values of other latents.

    Two runs of the model are compared whose latents lie at different points; nothing is drawn
    from priors, some of which cannot be drawn from.

    Raises:
        ValueError: If sites, shapes or bounds differ; the message names the site.
    """
    first, second = (_run(model, init, args, kwargs) for init in (init_to_origin, _elsewhere))
    if first.keys() != second.keys():
        changing = ", ".join(sorted(first.keys() ^ second.keys()))
        raise ValueError(
            f"{owner} needs the same latents in every run, but {changing} came and went with the "
            "values of other latents. Sample every site in each run and mask what does not apply."
        )
    for name, site in first.items():
        shape, other = site["value"].shape, second[name]["value"].shape
        if shape != other:
            raise ValueError(
                f"{owner} needs latents of fixed shapes, but site {name!r} had shape "
                f"{tuple(shape)} and then {tuple(other)}, depending on other latents. Sample it "
                "at its largest size and mask what does not apply."
            )
        support, moved = site["fn"].support, second[name]["fn"].support
        if not same_support(support, moved):
            raise ValueError(
                f"{owner} needs latents of fixed supports, but the support of site {name!r} "
                f"changed from {support} to {moved}, so its bounds depend on other latents and "
                "would stay at their first values. Sample a site on a fixed support, compute the "
                "bounded value from it, and add the Jacobian by pyro.factor."
            )


def _elsewhere(site: dict[str, Any]) -> Tensor:
    return init_to_scattered(site, radius=1.0, seed=1)


def _run(model: Any, init: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    with poutine.block(), torch.no_grad(), pyro.validation_enabled(False):  # noqa: FBT003
        trace = poutine.trace(InitMessenger(init)(model)).get_trace(*args, **kwargs)
    return {n: s for n, s in _latents(trace).items() if not s["fn"].support.is_discrete}


def _latents(trace: poutine.Trace) -> dict[str, Any]:
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
    }


def _check_plates(owner: str, name: str, site: Any) -> None:
    for frame in site["cond_indep_stack"]:
        if not frame.vectorized:
            raise ValueError(
                f"{owner} got site {name!r} inside of the sequential plate {frame.name!r}. Use "
                "the plate as a context manager: with pyro.plate(...)."
            )
        if frame.full_size is not None and frame.full_size != frame.size:
            raise ValueError(
                f"{owner} got the latent site {name!r} in plate {frame.name!r}, which shows "
                f"{frame.size} of {frame.full_size} rows: positions in a mini-batch would be "
                "taken for latents. Use AutoAmortizedFlow, or the plate without subsampling."
            )


def _is_angle(distribution: Any) -> bool:
    """Whether a distribution of angles says that its support is the real line."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return isinstance(distribution, (dist.VonMises, dist.SineBivariateVonMises, dist.SineSkewed))


def _is_trained(value: Any) -> bool:
    """Whether a tensor with a gradient stands in a support."""
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, constraints.Constraint):
        return any(map(_is_trained, vars(value).values()))
    return isinstance(value, (list, tuple)) and any(map(_is_trained, value))


def _bijection(owner: str, name: str, site: Any) -> Transform:
    support = site["fn"].support
    if support.is_discrete:
        raise ValueError(
            f"{owner} got the discrete site {name!r} (support {support}); it covers continuous "
            f"latents only. Block it, poutine.block(model, hide=[{name!r}]), and sum it out by "
            "TraceEnum_ELBO with config_enumerate."
        )
    if _is_angle(site["fn"]):
        raise ValueError(
            f"{owner} got the angle {name!r} ({type(site['fn']).__name__}), whose density repeats "
            "over the real line and has no integral there. Sample it from Uniform(-pi, pi) "
            "and add its log density by pyro.factor, or sample a direction from ProjectedNormal "
            "with ProjectedNormalReparam."
        )
    if _is_trained(support):
        raise ValueError(
            f"{owner} got site {name!r} with a bound that is trained (a pyro.param); the bound "
            "would stay at its first value. Sample a site on a fixed support and scale it."
        )
    try:
        return biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"{owner} got site {name!r} with support {support}, for which biject_to knows no "
            "bijection. Register one, torch.distributions.biject_to.register, or reparameterise."
        ) from error
