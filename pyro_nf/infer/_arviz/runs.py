"""Runs of a model at many draws of its latents: values and pointwise log densities."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import config_enumerate
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_nf.infer._arviz.discrete import summed_out
from pyro_nf.infer._arviz.sites import Site, sites_of
from pyro_nf.infer._validation import without_validation

_PLATE = "_pyro_nf_runs"
_TEST_DRAWS = 7
_CHUNK = 1000

Way = Literal["plate", "vmap", "loop"]


class Runs(NamedTuple):
    """What many runs saw.

    Attributes:
        values: Values ``(n, *site_shape)`` of the sites that were drawn or derived.
        log_probs: Log densities ``(n, *batch_shape)`` of sites, without the plates' scales.
    """

    values: dict[str, Tensor]
    log_probs: dict[str, Tensor]


class ManyRuns:
    """A model, run at many draws of its latents.

    One run under a plate of draws serves all, if a test of values says so: at a few draws its
    densities and derived values must be those of the runs one by one. Else the runs are mapped by
    ``torch.func.vmap`` under the same test, else made one by one.

    Args:
        model: The model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        redraw: Observed sites whose values are drawn anew.
        enumerate_discrete: Whether discrete sites are summed out of the observed sites' densities,
            the only ones that the runs then see.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        redraw: Collection[str] = (),
        enumerate_discrete: bool = False,
    ) -> None:
        self._model = _Redraw(redraw)(model) if redraw else model
        self._args, self._kwargs = args, dict(kwargs)
        self._redraw, self._enumerate = redraw, enumerate_discrete
        self._sites: dict[str, Site] = {}
        self._nesting = 0

    @torch.no_grad()
    def look(self, one: Mapping[str, Tensor]) -> dict[str, Site]:
        """Runs once, at one draw, and returns the sites."""
        with poutine.block(), without_validation():
            trace = self._trace(one)
            trace.compute_log_prob()
        self._sites = sites_of(trace, one.keys())
        depths = [len(site.batch_shape) for site in self._sites.values()]
        depths += [-dim for site in self._sites.values() for dim in site.plates]
        self._nesting = max(depths, default=0)
        return self._sites

    @torch.no_grad()
    def run(self, draws: Mapping[str, Tensor], count: int) -> Runs:
        """Runs at every draw.

        Args:
            draws: Values of latents by name, ``(count, *site_shape)``; sites not among them are
                drawn by the model.
            count: Number of draws.
        """
        self.look({name: value[0] for name, value in draws.items()})
        with poutine.block(), without_validation():
            way = self._choose(draws, min(count, _TEST_DRAWS))
            parts = []
            for start in range(0, count, _CHUNK):
                chunk = {name: value[start : start + _CHUNK] for name, value in draws.items()}
                parts.append(self._run(way, chunk, min(_CHUNK, count - start)))
        return _joined(parts, torch.cat)

    # One run.

    def _trace(
        self, values: Mapping[str, Tensor], *, enumerate_discrete: bool = False
    ) -> poutine.Trace:
        model = poutine.condition(self._model, data=dict(values))
        if enumerate_discrete:
            model = poutine.enum(config_enumerate(model), first_available_dim=-1 - self._nesting)
        return poutine.trace(model).get_trace(*self._args, **self._kwargs)

    def _one(self, values: Mapping[str, Tensor]) -> Runs:
        trace = self._trace(values, enumerate_discrete=self._enumerate)
        trace.compute_log_prob()
        found = {name: trace.nodes[name]["value"] for name in self._made()}
        if not self._enumerate:
            return Runs(found, {name: _log_prob(trace.nodes[name]) for name in self._scored()})
        # What depends on a discrete site has a dimension for its values.
        found = {k: v for k, v in found.items() if v.shape == self._sites[k].shape}
        return Runs(found, summed_out(trace, self._sites, self._nesting))

    def _made(self) -> list[str]:
        """The sites whose values the runs make; enumerated ones have no single value."""
        kinds = ("derived",) if self._enumerate else ("derived", "drawn")
        return [n for n, s in self._sites.items() if s.kind in kinds or n in self._redraw]

    def _scored(self) -> list[str]:
        return [name for name, site in self._sites.items() if site.kind != "derived"]

    # All runs.

    def _run(self, way: Way, draws: Mapping[str, Tensor], n: int) -> Runs:
        if way == "plate":
            return self._under_plate(draws, n)
        if way == "vmap":

            def one(_: Tensor, values: dict[str, Tensor]) -> tuple[Any, Any]:
                return tuple(self._one(values))  # type: ignore[return-value]

            mapped = torch.func.vmap(one, randomness="different")
            return Runs(*mapped(torch.zeros(n), dict(draws)))
        rows = [self._one({k: v[i] for k, v in draws.items()}) for i in range(n)]
        return _joined(rows, torch.stack)

    def _under_plate(self, draws: Mapping[str, Tensor], n: int) -> Runs:
        spread = {}
        for name, value in draws.items():
            missing = self._nesting - (value.ndim - 1 - self._sites[name].event_dim)
            spread[name] = value.reshape(n, *(1,) * missing, *value.shape[1:])
        device = next((value.device for value in draws.values()), None)
        with pyro.plate(_PLATE, n, dim=-1 - self._nesting, device=device):
            trace = self._trace(spread)
        trace.compute_log_prob()
        values, log_probs = {}, {}
        for name in self._scored():
            rows = _rows(_log_prob(trace.nodes[name]), n, self._sites[name].batch_shape)
            log_probs[name] = rows
        for name in self._made():
            values[name] = _rows(trace.nodes[name]["value"], n, self._sites[name].shape)
        return Runs(values, log_probs)

    def _choose(self, draws: Mapping[str, Tensor], n: int) -> Way:
        few = {name: value[:n] for name, value in draws.items()}
        ways: list[Way] = ["vmap"] if self._enumerate else ["plate", "vmap"]
        for way in ways:
            try:
                if self._is_right(self._run(way, few, n), few, n):
                    return way
            except Exception:  # noqa: BLE001  models fail under a plate or a map in any way
                continue
        return "loop"

    def _is_right(self, many: Runs, few: Mapping[str, Tensor], n: int) -> bool:
        """Whether runs at once, with what they drew, have the values of the runs one by one."""
        made = [name for name in many.values if self._sites[name].kind != "derived"]
        for i in range(n):
            values = {name: value[i] for name, value in few.items()}
            alone = self._one({**values, **{name: many.values[name][i] for name in made}})
            pairs = [(many.log_probs[k][i], v) for k, v in alone.log_probs.items()]
            pairs += [(many.values[k][i], v) for k, v in alone.values.items() if k not in made]
            if not all(_same(a, b) for a, b in pairs):
                return False
        return True


class _Redraw(Messenger):
    """Draws the values of some observed sites."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self._names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._names and msg["is_observed"]:
            msg["is_observed"], msg["value"], msg["done"] = False, None, False


def _joined(parts: Sequence[Runs], join: Callable[[list[Tensor]], Tensor]) -> Runs:
    values, log_probs = (
        {name: join([part[i][name] for part in parts]) for name in parts[0][i]} for i in (0, 1)
    )
    return Runs(values, log_probs)


def _log_prob(site: Any) -> Tensor:
    """The log density without the plates' scale, whose mask stays."""
    return torch.as_tensor(scale_and_mask(site["unscaled_log_prob"], 1.0, site["mask"]))


def _rows(x: Tensor, n: int, shape: torch.Size) -> Tensor:
    """``(n, 1, ..., *shape)``, or ``shape`` where nothing depends on the draw, as rows."""
    return x.expand(n, *shape) if x.shape == shape else x.reshape(n, *shape)


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if not (a.is_floating_point() and b.is_floating_point()):
        return bool((a == b).all())
    return torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5, equal_nan=True)
