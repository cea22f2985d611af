"""What a flow asks of its base."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, VonMises
from torch.distributions.constraints import Constraint

from pyro_nf._modes import in_mode
from pyro_nf.transforms._support.same import is_interval, same_support


def check_base(base: nn.Module, context: Tensor | None, domain: Constraint) -> None:
    """Raises if a base's call gives no distribution, or one on another interval.

    Args:
        base: The module.
        context: A context that it takes, of any values.
        domain: The transform's.
    """
    if any(tensor.is_meta for tensor in chain(base.parameters(), base.buffers())):
        return  # on that device a distribution cannot even check its own parameters
    try:
        made = called(base, context)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise TypeError(base_wanted(base)) from error
    if not isinstance(made, Distribution):
        raise TypeError(base_wanted(base))
    if is_interval(domain) and not (_is_on_circles(made) or same_support(domain, made.support)):
        raise ValueError(
            f"Flow got a {type(base).__name__} base with support {made.support!r} and a transform "
            f"of {domain!r}. Pass a base on that interval, such as "
            "pyro_nf.distributions.UniformBox(input_dim, low, high)."
        )


@torch.no_grad()
def called(base: nn.Module, context: Tensor | None) -> Any:
    """The base's distribution; the call leaves no trace in a model, a store, or a generator."""
    store, seeds = pyro.get_param_store(), torch.random.fork_rng(devices=[])
    with in_mode(base, "eval"), store.scope(), poutine.block(), seeds:
        return base(context)


def _is_on_circles(distribution: Any) -> bool:
    """Whether it is von Mises's, whose support torch calls real although it is one turn."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return isinstance(distribution, VonMises)


def base_wanted(base: Any) -> str:
    """The message about a base that is none."""
    return (
        f"Flow got a base of type {type(base).__name__}. Pass a module whose call, with a context "
        "or None, gives the distribution, such as pyro_nf.distributions.DiagonalNormal(input_dim)."
    )
