"""A flow's one continuous layer, and what lies on either side of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_nf._modes import in_mode
from pyro_nf.distributions import Flow
from pyro_nf.transforms import Compose, Continuous, FlowTransform


class Sides:
    """The layers of a flow, divided at its continuous layer; only that one is trained.

    Args:
        owner: The function that got the flow.
        flow: The flow.

    Raises:
        TypeError: If the flow is none.
        ValueError: If it has not exactly one continuous layer, with a fixed end time.
    """

    def __init__(self, owner: str, flow: Any) -> None:
        if not isinstance(flow, Flow):
            raise TypeError(
                f"{owner} got a {type(flow).__name__}; it trains the continuous layer of a Flow. "
                "Pass flows.cnf(input_dim), say, or train by fit_density."
            )
        self.flow = flow
        parts = _parts(flow.transform)
        self.layer = _continuous_layer(owner, flow, parts)
        place = parts.index(self.layer)
        self._base_side, self._data_side = parts[:place], parts[place + 1 :]
        self._fixed = nn.ModuleList([flow.base, *self._base_side, *self._data_side])

    @property
    def end_time(self) -> float:
        """The time T at the layer's data side."""
        return float(self.layer.end_time)

    @torch.no_grad()
    def ends(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Draws z(0) from the base, and pulls data back to z(T).

        Args:
            x: Data, shape ``(rows, *event)``.
            context: Shape ``(rows, context_dim)``.

        Returns:
            z(0) and z(T), each of shape ``(rows, *event)``; a row of both has one context.
        """
        with in_mode(self._fixed, "eval"):  # batch normalisation must not go on learning
            base = self.flow(context).base_dist
            z = base.sample(torch.Size([len(x)] if context is None else []))
            for part in self._base_side:
                z = part.forward_and_ladj(z, context if part.context_dim else None)[0]
            for part in reversed(self._data_side):
                x = part.inverse_and_ladj(x, context if part.context_dim else None)[0]
        return z, x

    def velocity(self, t: Tensor, z: Tensor, context: Tensor | None) -> Tensor:
        """Evaluates the layer's field with a time ``(rows, 1, ...)`` for each row of z."""
        return self.layer.field(t, z, *([context] if self.layer.context_dim else []))


def _parts(transform: FlowTransform) -> list[FlowTransform]:
    """The layers of a chain, base -> data, those of chains within it included."""
    if not isinstance(transform, Compose):
        return [transform]
    return [layer for part in transform.parts for layer in _parts(part)]


def _continuous_layer(owner: str, flow: Flow, parts: Sequence[FlowTransform]) -> Continuous:
    found = [part for part in parts if isinstance(part, Continuous)]
    count = max(len(found), sum(isinstance(part, Continuous) for part in flow.modules()))
    names = ", ".join(type(part).__name__ for part in parts)
    if count != 1:
        raise ValueError(
            f"{owner} got a flow with {count or 'no'} continuous layers (its chain: {names}); it "
            "trains exactly one, between the base and the data. Build the flow with one, such as "
            "flows.cnf(input_dim), or train it by fit_density."
        )
    if not found:
        raise ValueError(
            f"{owner} got a flow whose continuous layer is a part of another layer or of the base "
            f"(its chain: {names}). Put the layer itself into the flow's chain, or train it by "
            "fit_density."
        )
    if isinstance(found[0].end_time, Tensor):
        raise ValueError(
            f"{owner} got a continuous layer with a learned end time, which its loss cannot "
            "train. Build the layer with learn_end_time=False, or train it by fit_density."
        )
    return found[0]
