"""The system of equations that one solve integrates, with its state in one flat tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_nf.nn.field import Values
from pyro_nf.transforms._continuous.rates import Rates

Trace = Literal["closed", "exact", "hutchinson"]

END_TIME, PROBE = "the end time", "the probe"  # no names of parameters


@dataclass(frozen=True)
class Dynamics:
    """d/ds of (z, log-determinant, side results...), flattened one after the other, s in [0, 1].

    One flat tensor instead of a tuple spares the solver the packing. The time of the field is
    t = s · end_time, so the end time is one more value with a gradient like any other.

    Attributes:
        values: Every tensor that an evaluation reads: weights, what depends on the context, the
            random probe, the end time (absent if it is 1).
        read: Makes the field's rates of the values.
        shape: Shape of z, ``(D, N)`` or ``(N, *event)``.
        samples: Number N of samples.
        features_lead: Which of the two shapes it is.
        trace: How the divergence is computed.
        side_results: What is integrated besides: "kinetic", "jacobian" or a rate of the field.
    """

    values: Values
    read: Callable[[Values], Rates]
    shape: torch.Size
    samples: int
    features_lead: bool
    trace: Trace
    side_results: tuple[str, ...]

    def initial(self, z: Tensor) -> Tensor:
        """The flat state that begins at z."""
        rest = z.new_zeros(self.samples * (1 + len(self.side_results)))
        return torch.cat([z.reshape(-1), rest])

    def split(self, state: Tensor) -> tuple[Tensor, ...]:
        """The parts of a flat state: z, the log-determinant, and each side result."""
        z = state[: self.shape.numel()].view(self.shape)
        rest = state[self.shape.numel() :].view(1 + len(self.side_results), self.samples)
        return z, *rest.unbind(0)

    def evaluator(self, values: Values) -> Callable[[Tensor, Tensor], Tensor]:
        """The right-hand side ``(s, state) -> d state / ds`` that reads these values."""
        rates, size = self.read(values), self.shape.numel()
        end_time, probe = values.get(END_TIME), values.get(PROBE)

        def evaluate(s: Tensor, state: Tensor) -> Tensor:
            t = s if end_time is None else s * end_time
            parts = self._parts(rates, probe, t, state[:size].view(self.shape))
            flat = torch.cat([part.reshape(-1) for part in parts])
            return flat if end_time is None else flat * end_time

        return evaluate

    def _parts(self, rates: Rates, probe: Tensor | None, t: Tensor, z: Tensor) -> list[Tensor]:
        frobenius: Tensor | None = None
        if self.trace == "closed":
            velocity, divergence = rates.closed(t, z)
        elif self.trace == "exact":
            velocity, divergence, frobenius = rates.exact(t, z)
        else:
            assert probe is not None
            velocity, divergence, frobenius = rates.estimated(t, z, probe)
        parts = [velocity, divergence]
        for name in self.side_results:
            if name == "kinetic":
                parts.append(rates.squared_norm(velocity))
            elif name == "jacobian":
                if frobenius is None:
                    assert probe is not None
                    frobenius = rates.estimated(t, z, probe)[2]
                parts.append(frobenius)
            else:
                parts.append(rates.side_rate(name, t, z))
        return parts
