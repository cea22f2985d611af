"""Guides made from a model, whose posteriors are normalizing flows."""

from __future__ import annotations

from pyro_nf.infer._first_values import init_to_origin
from pyro_nf.infer.autoguide.amortized import AutoAmortizedFlow
from pyro_nf.infer.autoguide.flow import AutoFlow
from pyro_nf.infer.autoguide.names import AutoIAF, AutoNSF
from pyro_nf.infer.autoguide.structured import AutoStructuredFlow

__all__ = [
    "AutoAmortizedFlow",
    "AutoFlow",
    "AutoIAF",
    "AutoNSF",
    "AutoStructuredFlow",
    "init_to_origin",
]
