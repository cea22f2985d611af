"""Simulation-based calibration: whether a guide is right about data that the model makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.infer.autoguide import AutoContinuous
from pyro.infer.autoguide.guides import AutoGuide
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from tqdm.auto import tqdm

from pyro_nf._checks import non_negative_int, positive_float, positive_int
from pyro_nf.infer._draws import latents_of, weighted_draws
from pyro_nf.infer._ranks import UniformityTest, fractions_of, ranks_of
from pyro_nf.infer._seeding import seeded
from pyro_nf.infer.calibration import CalibrationResult

Values = dict[str, Tensor]

_OWNER = "sbc"
_FEWEST_SIMULATIONS = 10


def sbc(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_simulations: int = 200,
    num_draws: int = 500,
    observed: Sequence[str] = (),
    arguments: Callable[[Values], tuple[Any, ...]] | None = None,
    amortized: bool = False,
    significance: float = 0.05,
    seed: int = 0,
    progress: bool | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> CalibrationResult:
    r"""Checks by simulation that a way of fitting guides is calibrated.

    For :math:`\theta \sim p(\theta)` and data :math:`x \sim p(x \mid \theta)` of the model itself,
    a draw from the exact posterior of x is distributed as :math:`\theta` is. So the rank of
    :math:`\theta` among draws of the guide for x must be uniform, over simulations: ranks at both
    ends tell of a guide that is too narrow, ranks in the middle of one too wide, ranks on one
    side of a bias. The ECDF of the ranks is tested against the band that a uniform one stays
    within. The test is of the average over the prior, not of the posterior of the data at hand.

    Cost: ``num_simulations`` fits, or none with ``amortized=True``.

    Args:
        model: The model; every site can be drawn from.
        guide: A function ``(model, *args) -> guide`` that fits a new guide to the model it is
            given, whose data are the simulated ones; with ``amortized=True`` the guide itself.
        *args: The model's arguments. The data among them give shapes only.
        num_simulations: Number of simulations; 200 find a guide's sd wrong by a third.
        num_draws: Draws of the guide in each.
        observed: Names of data sites that the model, called with ``args``, draws and does not
            observe. Those that it observes are found.
        arguments: Function from simulated data by site to the arguments for them; None for
            ``args`` themselves, where data reach the model by its data sites alone.
        amortized: Whether ``guide`` is a guide that reads the data in its arguments, so that
            nothing is fitted; needs ``arguments``.
        significance: Probability of calling a calibrated guide miscalibrated, over all quantities.
        seed: Seed of all draws; the global generator is left as it was.
        progress: Whether to show a progress bar; None shows one in a terminal.
        model_kwargs: Keyword arguments of the model.

    Returns:
        The ranks of every element of every latent, p-values, a verdict in words and a picture.

    Raises:
        ValueError: If the model has no data sites, factors that cannot be simulated, or draws that
            are not finite.
        TypeError: If a guide is given where a function that fits one is expected.

    References:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts,
        Betancourt, Simpson, Vehtari, Gelman, 2018), arXiv 1804.06788.
        Graphical test for discrete uniformity and its applications in goodness-of-fit evaluation
        and multiple sample comparison (Säilynoja, Bürkner, Vehtari, 2022), arXiv 2103.10522.

    Examples:
        >>> import torch, pyro
        >>> import pyro.distributions as dist
        >>> from pyro_nf import infer
        >>> def model(y):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        >>> def guide(y):  # the posterior of z, but half as wide as it should be
        ...     pyro.sample("z", dist.Normal(y / 2, 0.5**0.5 / 2))
        >>> result = infer.sbc(
        ...     model,
        ...     guide,
        ...     torch.tensor(0.0),
        ...     amortized=True,
        ...     arguments=lambda data: (data["y"],),
        ...     num_simulations=50,
        ...     num_draws=19,
        ... )
        >>> result.calibrated, result.verdict[:13], result.ranks["z"].shape
        (False, 'miscalibrated', torch.Size([50]))
    """
    if positive_int(_OWNER, "num_simulations", num_simulations) < _FEWEST_SIMULATIONS:
        raise ValueError(
            f"{_OWNER} got num_simulations={num_simulations}, too few for a test of uniformity. "
            f"Pass {_FEWEST_SIMULATIONS} at least, better 200."
        )
    positive_int(_OWNER, "num_draws", num_draws)
    non_negative_int(_OWNER, "seed", seed)
    if positive_float(_OWNER, "significance", significance) >= 1:
        raise ValueError(f"{_OWNER} got significance={significance}. Pass a number below 1.")
    _check_guide(guide, amortized=amortized, has_arguments=arguments is not None)
    kwargs = dict(model_kwargs or {})
    # All simulations come first: a fit that seeds the generators would repeat one for ever.
    with seeded(seed), poutine.block(), torch.no_grad():
        simulations = [_simulate(model, args, kwargs, observed) for _ in range(num_simulations)]
    generator = torch.Generator("cpu").manual_seed(seed)
    ranks: dict[str, list[Tensor]] = {}
    bar = tqdm(simulations, desc=_OWNER, disable=None if progress is None else not progress)
    for index, (truth, data) in enumerate(bar):
        own_args = args if arguments is None else tuple(arguments(data))
        conditioned = poutine.condition(poutine.uncondition(model), data=data)
        # A new guide would take over the parameters of the last one by their names.
        store: AbstractContextManager[Any] = (
            nullcontext() if amortized else pyro.get_param_store().scope()
        )
        with store, seeded(seed + 1 + index):
            fitted = guide if amortized else guide(conditioned, *own_args, **kwargs)
            draws = _draw(conditioned, fitted, own_args, kwargs, num_draws)
        for name in _shared(truth, draws):
            ranks.setdefault(name, []).append(ranks_of(truth[name], draws[name], generator))
    return _result({n: torch.stack(r) for n, r in ranks.items()}, num_draws, significance, seed)


def _result(
    ranks: dict[str, Tensor], num_draws: int, significance: float, seed: int
) -> CalibrationResult:
    generator = torch.Generator("cpu").manual_seed(seed)
    test = UniformityTest(len(next(iter(ranks.values()))), seed)
    fractions = {name: fractions_of(r, num_draws, generator) for name, r in ranks.items()}
    p_values = {}
    for name, values in fractions.items():
        each = [
            test.p_value(column.numpy()) for column in values.reshape(len(values), -1).unbind(1)
        ]
        p_values[name] = torch.tensor(each, dtype=torch.float64).reshape(values.shape[1:])
    return CalibrationResult(ranks, fractions, num_draws, significance, test, p_values)


def _check_guide(guide: Any, *, amortized: bool, has_arguments: bool) -> None:
    if not callable(guide):
        raise TypeError(
            f"{_OWNER} got a guide of type {type(guide).__name__}. Pass a function (model, *args) "
            "-> guide that fits one, or a guide with amortized=True."
        )
    if not amortized and isinstance(guide, AutoGuide):
        raise TypeError(
            f"{_OWNER} got a {type(guide).__name__}, which belongs to one data set. Pass a "
            "function (model, *args) -> guide that fits one to each set, or amortized=True if it "
            "reads the data."
        )
    if amortized and not has_arguments:
        raise ValueError(
            f"{_OWNER}(amortized=True) got no arguments, so the guide would not see the simulated "
            "data. Pass arguments=lambda data: (data['y'],), say."
        )


def _simulate(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    observed: Sequence[str],
) -> tuple[Values, Values]:
    """Draws latents and data from the model."""
    try:
        trace = poutine.trace(poutine.uncondition(model)).get_trace(*args, **kwargs)
    except NotImplementedError as error:
        raise ValueError(
            f"{_OWNER} draws every site from the model, and one cannot be drawn from ({error}). "
            "Give it a proper prior."
        ) from error
    latents: Values = {}
    data: Values = {}
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        if isinstance(site["fn"], Unit):
            raise ValueError(
                f"{_OWNER} cannot simulate the factor {name!r}: it belongs to no distribution. "
                "Write it as a sample statement."
            )
        if site["infer"].get("_deterministic"):
            continue
        is_data = name in observed or site["infer"].get("was_observed")
        (data if is_data else latents)[name] = site["value"]
    missing = [name for name in observed if name not in data]
    if missing or not data or not latents:
        raise ValueError(
            f"{_OWNER} found the latents {sorted(latents)} and the data {sorted(data)} in the "
            f"model{f', and no site {missing[0]!r}' if missing else ''}. Name the data sites "
            "that the model does not observe: observed=['y'], say."
        )
    return latents, data


@torch.no_grad()
def _draw(
    model: Callable[..., Any],
    guide: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    count: int,
) -> Values:
    """Draws from a guide, of shape ``(count, *site_shape)``."""
    if isinstance(guide, AutoContinuous):
        z = guide.get_posterior(*args, **kwargs).sample(torch.Size([count]))
        return latents_of(guide, args, kwargs).constrain(z)[0]
    return weighted_draws(model, guide, args, kwargs, count).values


def _shared(truth: Values, draws: Values) -> list[str]:
    names = [name for name in truth if name in draws]
    if not names:
        raise ValueError(
            f"{_OWNER} got a guide for {sorted(draws)}, but the model's latents are "
            f"{sorted(truth)}. Pass a guide for them."
        )
    for name in names:
        if not bool(draws[name].isfinite().all()):
            raise ValueError(
                f"{_OWNER} drew values of site {name!r} from the guide that are not finite. Mend "
                "the fit: fewer or shorter steps, or another start."
            )
    return names
