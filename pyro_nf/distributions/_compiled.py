"""The two passes of a flow as programs of ``torch.compile``."""

from __future__ import annotations

import warnings
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit

from pyro_nf._tracing import is_traced
from pyro_nf.distributions.flow_distribution import FlowDistribution
from pyro_nf.transforms._contract import auxiliary

if TYPE_CHECKING:
    from pyro_nf.distributions.flow import Flow


class CompiledPasses:
    """A flow's density and its push from base to data, compiled when first used.

    Args:
        flow: The flow.
        options: For ``torch.compile``.
    """

    def __init__(self, flow: Flow, options: dict[str, Any]) -> None:
        self.flow = flow
        self._log_prob = torch.compile(_with_own_code(_log_prob), **options)
        self._warned = False
        self._push = torch.compile(_with_own_code(_push), **options)

    def serve(self) -> bool:
        """Whether they do now: not for tracers, nor while side results are collected."""
        return not (is_traced() or auxiliary.any_open())

    def log_prob(self, value: Tensor, context: Tensor | None) -> Tensor:
        """The log density of checked values."""
        try:
            return self._log_prob(self.flow, value, context)
        except FailOnRecompileLimitHit:
            self._warn()
            return _log_prob(self.flow, value, context)

    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Base to data, with the log-determinant."""
        try:
            return self._push(self.flow, x, context)
        except FailOnRecompileLimitHit:
            self._warn()
            return _push(self.flow, x, context)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            limit = torch._dynamo.config.recompile_limit
            warnings.warn(
                f"A compiled flow has had {limit} programs made for one direction: one for each "
                "dtype, mode, rank and set of frozen parameters. Others run uncompiled. Call "
                "flow.compile() again for a fresh start.",
                RuntimeWarning,
                stacklevel=4,
            )


def _log_prob(flow: Flow, value: Tensor, context: Tensor | None) -> Tensor:
    inner = context if flow.transform.context_dim else None
    density = FlowDistribution(flow.base(context), flow.transform, inner, validate_args=False)
    return density.log_prob(value, reuse=False)


def _push(flow: Flow, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    return flow.transform.forward_and_ladj(x, context if flow.transform.context_dim else None)


def _with_own_code(function: Any) -> Any:
    """A copy of a function with a code object of its own.

    The compiler keeps its programs with the code object, and only eight of them: without this,
    many flows of one process would use up each other's room.
    """
    code = function.__code__.replace(co_name=function.__name__)
    return FunctionType(code, function.__globals__, function.__name__)
