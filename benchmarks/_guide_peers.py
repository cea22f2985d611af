"""Pyro's own autoguides under Pyro's SVI."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
from pyro.distributions.transforms import affine_coupling, iterated
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import (
    AutoGuide,
    AutoIAFNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalizingFlow,
)
from pyro.optim import Adam

PEERS: dict[str, Callable[[Any], AutoGuide]] = {
    "AutoNormal": AutoNormal,
    "AutoMultivariateNormal": AutoMultivariateNormal,
    "AutoIAFNormal": AutoIAFNormal,
    "AutoNormalizingFlow": partial(
        AutoNormalizingFlow, init_transform_fn=partial(iterated, 4, affine_coupling)
    ),
}


def fit_peer(name: str, model: Any, args: tuple[Any, ...], *, steps: int = 3000) -> AutoGuide:
    """Fits by one particle and Adam at the learning rate .01, as Pyro's tutorials do."""
    pyro.clear_param_store()
    guide = PEERS[name](model)
    svi = SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(steps):
        svi.step(*args)
    return guide
