"""The log density of a model's data and latents over many unconstrained points at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.utils import _pytree as pytree

from pyro_nf.infer._enumeration import summed_out
from pyro_nf.infer._latents import LatentSpace
from pyro_nf.infer._validation import without_validation

Particles = Literal["plate", "vmap", "loop"]
_TEST_POINTS = 7
_MOST_DIFFERENCE = 1e-4
_PLATE = "_pyro_nf_particles"


class LogJoint:
    r"""The log density of data and latents in the latents' unconstrained space.

    .. math:: \log p(x, \theta(z)) + \log |\det \partial \theta / \partial z|

    for each row z. The model runs once for all rows if it can: ``"plate"`` puts an outermost plate
    around it, as Pyro vectorises particles, ``"vmap"`` maps one run by ``torch.func.vmap``,
    ``"loop"`` runs it for one row after another. A model that is written for one particle can give
    *wrong* numbers under the plate without an error (``Normal(b.sum(), 1)`` sums over particles
    too), so the way is chosen by comparing values at a few points with the loop's.

    Discrete sites are summed out exactly (``"plate"`` or ``"loop"``). The indices of subsampled
    plates are drawn anew at each call and shared by all its rows.

    Args:
        model: The model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        space: The latents it is a function of.
        particles: How to run it; None to choose.

    Attributes:
        particles: How it runs.
        parameters: The model's own parameters, unconstrained.
        subsampled: Whether plates show random parts of the data, so that calls differ.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        space: LatentSpace,
        particles: Particles | None = None,
    ) -> None:
        self.space = space
        self._model, self._args, self._kwargs = model, args, dict(kwargs)
        self._default_dtype: torch.dtype | None = None
        self._nesting = 0
        self._subsamples: dict[str, tuple[int, int]] = {}
        self._discrete: list[str] = []
        self.parameters: list[Tensor] = []
        self._look_at_structure()
        self.particles: Particles = particles or self._choose()

    def __call__(self, z: Tensor) -> Tensor:
        """Computes the log density of each row: ``(n, D) -> (n,)``, in nats, differentiable."""
        values, ladj = self.space.constrain(z)
        with self._fixed_subsamples():
            return self._log_model(self.particles, values, len(z)) + ladj

    def in_float64(self) -> LogJoint:
        """Creates the same log density with float64 arithmetic, or returns self if it has none.

        Tensors among the arguments are cast and the model runs with float64 as torch's default;
        a model that mixes in float32 tensors of its own may refuse.
        """
        if self.space.dtype == torch.float64:
            return self
        wide = object.__new__(LogJoint)
        wide.__dict__.update(self.__dict__)
        wide._args, wide._kwargs = pytree.tree_map(_wide, (self._args, self._kwargs))
        wide._default_dtype = torch.float64
        z = self._test_points()[:2]
        try:
            with torch.no_grad(), without_validation(), self._fixed_subsamples() as chosen:
                narrow_value = self(z)
                with poutine.condition(data=chosen):
                    value = wide(z.double())
        except Exception:  # noqa: BLE001  what a model raises on another dtype is its own affair
            return self
        same = torch.allclose(value, narrow_value.double(), rtol=1e-2, equal_nan=True)
        return wide if same and value.dtype == torch.float64 else self

    def by_site(self, z: Tensor) -> dict[str, Tensor]:
        """Returns the log density of each sample site at one point ``(D,)``, priors and data."""
        trace = self._trace(self.space.constrain(z)[0])
        trace.compute_log_prob()
        return {
            name: site["log_prob"]
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and not site_is_subsample(site)
        }

    # One run for all rows, or one for each.

    def _log_model(self, particles: Particles, values: dict[str, Tensor], n: int) -> Tensor:
        total = torch.zeros(n, dtype=self.space.dtype, device=self.space.device)
        for term in self._terms(particles, values, n).values():
            total = total + term
        return total

    def _terms(self, particles: Particles, values: dict[str, Tensor], n: int) -> dict[str, Tensor]:
        """The log density of each site for each row; of all at once if some are summed out."""
        with self._dtype():
            if particles == "plate" and not (self._discrete and n == 1):  # sums drop sizes of 1
                return self._under_plate(values, n)
            if particles == "vmap":
                with without_validation():
                    return torch.func.vmap(self._of_one, randomness="different")(values)
            rows = [self._of_one({k: v[i] for k, v in values.items()}) for i in range(n)]
            zero = torch.zeros((), dtype=self.space.dtype, device=self.space.device)
            names = dict.fromkeys(name for row in rows for name in row)  # sites may come and go
            return {name: torch.stack([row.get(name, zero) for row in rows]) for name in names}

    def _of_one(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The log densities of the model's sites at one point."""
        trace = self._trace(values)
        if self._discrete:
            return {"all": summed_out(trace, None)}
        trace.compute_log_prob()
        return {
            name: site["log_prob"].sum()
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and not site_is_subsample(site)
        }

    def _trace(self, values: Mapping[str, Tensor]) -> poutine.Trace:
        model = poutine.condition(self._model, data=dict(values))
        if self._discrete:
            # One dimension more than the plates may take: the particles'.
            model = poutine.infer_config(model, self._in_parallel)
            model = poutine.enum(model, first_available_dim=-2 - self._nesting)
        return poutine.trace(model).get_trace(*self._args, **self._kwargs)

    def _in_parallel(self, site: dict[str, Any]) -> dict[str, Any]:
        """Pyro's setting by which a discrete site is summed out, whatever the model asks for."""
        return {"enumerate": "parallel"} if site["name"] in self._discrete else {}

    def _under_plate(self, values: dict[str, Tensor], n: int) -> dict[str, Tensor]:
        """The log densities of the sites in one run, with an outermost plate over the rows."""
        spread = {}
        for name, site in self.space.sites.items():
            value = values[name]
            missing = self._nesting - (value.ndim - 1 - site.event_dim)
            spread[name] = value.reshape(n, *(1,) * missing, *value.shape[1:])
        with pyro.plate(_PLATE, n, dim=-1 - self._nesting, device=self.space.device):
            trace = self._trace(spread)
        if self._discrete:
            return {"all": summed_out(trace, _PLATE).expand(n)}
        return row_log_probs(trace, n, self._nesting)

    # Set-up.

    def _look_at_structure(self) -> None:
        """Notes how deep plates nest, which sites are summed out and which plates are drawn."""
        with poutine.block():
            values, _ = self.space.constrain(self._test_points()[0])
            model = poutine.condition(self._model, data=values)
            trace = poutine.trace(model).get_trace(*self._args, **self._kwargs)
        for name, site in trace.nodes.items():
            if site["type"] == "param" and site["value"] is not None:
                self.parameters.append(unconstrained_parameter(site["value"]))
            if site["type"] != "sample":
                continue
            frames = [f for f in site["cond_indep_stack"] if f.vectorized]
            self._nesting = max([self._nesting, *(-f.dim for f in frames)])
            if site_is_subsample(site):
                size, shown = site["fn"].size, len(site["value"])
                if shown != size:
                    self._subsamples[name] = (size, shown)
                continue
            self._nesting = max(self._nesting, len(site["fn"].batch_shape))
            if not site["is_observed"] and name not in self.space.sites:
                if not site["fn"].support.is_discrete:
                    raise ValueError(
                        f"The model's latent site {name!r} is not covered by the guide. Give the "
                        "guide the same model, or sample the site in another guide."
                    )
                if not site["fn"].has_enumerate_support:
                    raise ValueError(
                        f"The model's discrete site {name!r} ({type(site['fn']).__name__}) has no "
                        "finite support to be summed over. Replace it by its moments or by a "
                        "truncated Categorical."
                    )
                self._discrete.append(name)
        self.subsampled = bool(self._subsamples)

    def _choose(self) -> Particles:
        """The fastest way whose values are those of the loop."""
        z = self._test_points()
        with torch.no_grad(), self._fixed_subsamples():
            values = self.space.constrain(z)[0]
            loop = self._terms("loop", values, len(z))
            # Pyro's sums over discrete sites cannot be mapped.
            ways: list[Particles] = ["plate"] if self._discrete else ["plate", "vmap"]
            for particles in ways:
                try:
                    result = self._terms(particles, values, len(z))
                except Exception:  # noqa: BLE001  a model may fail in any way under a plate
                    continue
                # Site by site: in the total of much data a wrong prior is a rounding error.
                if result.keys() == loop.keys() and all(
                    result[name].shape == loop[name].shape
                    and torch.allclose(
                        result[name], loop[name], rtol=_MOST_DIFFERENCE, atol=1e-5, equal_nan=True
                    )
                    for name in loop
                ):
                    return particles
        return "loop"

    def _test_points(self) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(0)
        shape = _TEST_POINTS, self.space.dim
        z = torch.rand(shape, generator=generator, dtype=self.space.dtype, device="cpu") - 0.5
        return z.to(self.space.device)

    @contextmanager
    def _fixed_subsamples(self) -> Iterator[dict[str, Tensor]]:
        """Holds the indices of subsampled plates for a block, so that all rows see one batch."""
        chosen = {
            name: torch.randperm(size, device=self.space.device)[:shown]
            for name, (size, shown) in self._subsamples.items()
        }
        if not chosen:
            yield chosen
            return
        with poutine.condition(data=chosen):
            yield chosen

    @contextmanager
    def _dtype(self) -> Iterator[None]:
        if self._default_dtype is None:
            yield
            return
        before = torch.get_default_dtype()
        torch.set_default_dtype(self._default_dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def row_log_probs(trace: Any, n: int, nesting: int) -> dict[str, Tensor]:
    """The log density of each site for each row of a plate outside of all others."""
    trace.compute_log_prob()
    terms: dict[str, Tensor] = {}
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        log_prob = site["log_prob"]
        if log_prob.ndim != nesting + 1 or log_prob.shape[0] != n:
            raise ValueError(f"site {name!r} has no dimension for the rows")
        terms[name] = log_prob.reshape(n, -1).sum(-1)
    return terms


def unconstrained_parameter(value: Tensor) -> Tensor:
    """The leaf behind the value of a ``pyro.param`` statement."""
    return value.unconstrained() if hasattr(value, "unconstrained") else value


def _wide(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
