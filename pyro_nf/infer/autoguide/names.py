"""Flow guides by the name of their flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro_nf.infer.autoguide.flow import AutoFlow


class AutoIAF(AutoFlow):
    """An :class:`AutoFlow` of inverse autoregressive layers, one pass to draw and score.

    Args:
        model: The model.
        **options: As :class:`AutoFlow` takes them, but for ``flow``.

    References:
        Improving variational inference with inverse autoregressive flow (Kingma et al., 2016),
        arXiv:1606.04934.

    Examples:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_nf.infer.autoguide import AutoIAF
        >>> def model():
        ...     pyro.sample("x", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        >>> AutoIAF(model)()["x"].shape
        torch.Size([3])
    """

    def __init__(self, model: Callable[..., Any], **options: Any) -> None:
        super().__init__(model, flow="iaf", **options)


class AutoNSF(AutoFlow):
    """An :class:`AutoFlow` of spline couplings, one pass in either direction.

    Args:
        model: The model.
        **options: As :class:`AutoFlow` takes them, but for ``flow``.

    References:
        Neural spline flows (Durkan et al., 2019), arXiv:1906.04032.

    Examples:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_nf.infer.autoguide import AutoNSF
        >>> def model():
        ...     pyro.sample("x", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        >>> AutoNSF(model)()["x"].shape
        torch.Size([3])
    """

    def __init__(self, model: Callable[..., Any], **options: Any) -> None:
        super().__init__(model, flow="nsf", **options)
