"""Flows of integers, such as the pixels of images, by noise that fills the gaps between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyro_nf._checks import positive_int
from pyro_nf._modes import in_mode
from pyro_nf.distributions._dequantized import (
    UNIFORM,
    check_density,
    check_dequantizer,
    check_precision,
    floating_like,
    strictly_inside,
    uniform_noise,
)
from pyro_nf.distributions._integers import check_levels, checked_integers
from pyro_nf.distributions.dequantized_distribution import (
    NUMBERS_AT_ONCE,
    DequantizedDistribution,
)
from pyro_nf.distributions.flow import Flow
from pyro_nf.transforms import FlowTransform
from pyro_nf.transforms._contract import auxiliary as auxiliary_channel


class Dequantized(nn.Module):
    r"""A flow of integers 0..L - 1: calling it gives a Pyro distribution over integer tensors.

    The flow models real data in [0, 1]; an integer x has the mass of its cell,

    .. math:: P(x) = \int_{[0,1)^D} p\bigl((x + u) / L\bigr) L^{-D} \, du \;\ge\;
        \exp \mathbb{E}_{q(u|x)} \left[ \log \frac{1}{K} \sum_{k=1}^{K}
        \frac{p\bigl((x + u_k) / L\bigr)}{L^D \, q(u_k | x)} \right].

    ``log_prob`` is the bracket: a lower bound of :math:`\log P(x)` in expectation, random, with
    fresh noise from torch's global generator at each call. With more draws K it is tighter. Noise
    is *uniform*, :math:`q = 1`, or from a second flow, the *dequantizer*, that reads the integers
    and learns which noise the first flow likes (variational dequantisation); it is exact where
    :math:`q(u|x)` is proportional to p within the cell. Gradients reach both flows.

    It serves as a likelihood under SVI, and ``fit_density`` trains it on integers. ``sample``
    floors draws of the flow and clamps them to the levels: exact up to the mass that the flow puts
    outside of [0, 1], which P lacks; none with ``Logit(alpha=0.0)`` or
    ``support=constraints.unit_interval``.

    Warning:
        HMC and NUTS need a deterministic density. With an observation of this one they run, and
        give wrong posteriors without an error.

    Warning:
        Noise in a flow's own log-determinant biases the bound upwards under several draws, which
        are importance weights. Layers that estimate theirs, most of them while training with more
        than 64 dimensions (:class:`~pyro_nf.transforms.InvertibleResidual`,
        :class:`~pyro_nf.transforms.Continuous`, :class:`~pyro_nf.transforms.ConvexPotential`),
        train without that bias with ``draws=1``. ``bits_per_dim`` and ``estimate_log_prob`` run in
        evaluation mode, where these layers draw nothing unless told to.

    Cost: K passes of the flow data -> base, and of the dequantizer base -> data, which is scored
    by the same pass. ``sample`` costs one pass of the flow.

    Args:
        flow: The flow of the dequantised data. Its support has to hold [0, 1]; the last layer of
            one in real space may be :class:`~pyro_nf.transforms.Logit`.
        levels: Number L of levels, 256 for pixels of 8 bits.
        dequantizer: "uniform", or a flow on the unit interval with the flow's event shape. Its
            context is the datum, flattened and scaled to [-1, 1]: ``context_dim`` is the number of
            dimensions, or that plus the flow's ``context_dim`` to read the flow's context as well.
        draws: Number K of draws in ``log_prob``. They are scored at once, so training takes K
            times the memory.

    Attributes:
        event_shape: Shape of one datum.

    Raises:
        TypeError: If one of the flows is none.
        ValueError: If there are less than 2 levels, or too many for the flow's dtype (when
            called); if the flow's support does not hold [0, 1]; or if the dequantizer's event
            shape, context or support does not fit.

    References:
        - Uniform noise: A note on the evaluation of generative models (Theis et al., 2016),
          arXiv:1511.01844.
        - A flow of the noise: Flow++ (Ho et al., 2019), arXiv:1902.00275.
        - More draws: Importance weighted autoencoders (Burda et al., 2016), arXiv:1509.00519;
          Learning discrete distributions by dequantization (Hoogeboom et al., 2020),
          arXiv:2001.11235.

    Examples:
        >>> import torch
        >>> from torch.distributions import constraints
        >>> from pyro_nf import flows
        >>> from pyro_nf.distributions import Dequantized
        >>> noise = flows.realnvp(3, context_dim=3, support=constraints.unit_interval)
        >>> digits = Dequantized(flows.nsf(3), levels=17, dequantizer=noise)
        >>> x = digits().sample((5,))
        >>> digits().log_prob(x).shape, digits.bits_per_dim(x, draws=10).shape
        (torch.Size([5]), torch.Size([5]))
    """

    def __init__(
        self,
        flow: Flow,
        levels: int = 256,
        *,
        dequantizer: Literal["uniform"] | Flow = "uniform",
        draws: int = 1,
    ) -> None:
        super().__init__()
        self.levels = positive_int("Dequantized", "levels", levels)
        if levels < 2:
            raise ValueError(
                f"Dequantized got levels={levels}. Pass 2 or more; data that are always 0 need no "
                "flow."
            )
        self.draws = positive_int("Dequantized", "draws", draws)
        self.flow = check_density(flow)
        self.event_shape = flow.event_shape
        self.dequantizer = check_dequantizer(dequantizer, flow)

    @property
    def input_dim(self) -> int | None:
        """Size of the last dimension of the flow's base side."""
        return self.flow.input_dim

    @property
    def context_dim(self) -> int:
        """Size of the flow's context."""
        return self.flow.context_dim

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the flow computes."""
        return floating_like(self.flow).dtype

    @property
    def aux_weights(self) -> dict[str, float]:
        """The flow's weights of side results."""
        return self.flow.aux_weights

    def forward(
        self, context: Tensor | None = None, *, temperature: float = 1.0
    ) -> DequantizedDistribution:
        """Creates the distribution of integers, given a context where the flow has one.

        Args:
            context: Shape ``(*batch, context_dim)``, which gives the batch shape.
            temperature: Factor on the spread of the flow's base, see :meth:`Flow.forward`.

        Raises:
            TypeError, ValueError: As from the flow; and if its dtype is too coarse for the levels.
        """
        check_precision(self.levels, self.dtype)
        density = self.flow(context, temperature=temperature)
        return DequantizedDistribution(self, density, context)

    def _noise(
        self, x: Tensor, context: Tensor | None, lead: tuple[int, ...]
    ) -> tuple[Tensor, Tensor | float]:
        """Draws noise for integers ``x (*batch, *event)``, as floating numbers.

        Returns:
            u of shape ``(*lead, *batch, *event)`` and log q(u|x) of shape ``(*lead, *batch)``.
        """
        if self.dequantizer is None:
            return uniform_noise(x, lead), 0.0
        batch = x.shape[: x.ndim - len(self.event_shape)]
        scaled = 2 / (self.levels - 1) * x - 1
        seen = scaled.reshape(*batch, self.event_shape.numel())
        if context is not None and self.dequantizer.context_dim > seen.shape[-1]:
            seen = torch.cat([seen, context.expand(*batch, -1)], -1)
        return self.dequantizer(seen).rsample_and_log_prob(lead)

    def _dequantized(self, x: Tensor, u: Tensor) -> Tensor:
        """The real data that stand for integers: (x + u) / L, inside of the unit interval."""
        return strictly_inside((x + u) / self.levels)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets what the flow's layers take from data, here uniformly dequantised.

        Args:
            x: Integers, shape ``(*batch, *event_shape)``, at least 2 rows.
            context: Shape ``(*batch, context_dim)``.

        Raises:
            TypeError: If x is no tensor of integers.
            ValueError: If there are fewer than two rows, an integer is none of the levels, or
                shapes do not fit.
        """
        x = checked_integers("initialize", "x", x, self.levels)
        check_levels("initialize", "x", x, self.levels)
        check_precision(self.levels, self.dtype)
        x = x.to(self.dtype)
        self.flow.initialize(self._dequantized(x, uniform_noise(x, ())), context)

    @torch.no_grad()
    def bits_per_dim(self, x: Tensor, context: Tensor | None = None, *, draws: int = 1) -> Tensor:
        r"""Estimates :math:`-\log_2 P(x) / D`, the bits that a lossless code takes per dimension.

        An upper bound in expectation, the tighter the more draws. Rows are taken a few at a time:
        memory does not grow with them, nor with the draws. Runs in evaluation mode, and gives
        every part the mode it had.

        Args:
            x: Integers, shape ``(*batch, *event_shape)``.
            context: Shape ``(*context_batch, context_dim)``; the batches broadcast.
            draws: Number of draws of the noise for each datum.

        Returns:
            Shape ``(*batch,)``.
        """
        with in_mode(self, "eval"):
            return self._bits_per_dim(x, context, draws)

    def _bits_per_dim(self, x: Tensor, context: Tensor | None, draws: int) -> Tensor:
        x = self(context)._checked(x)
        batch, size = x.shape[: x.ndim - len(self.event_shape)], self.event_shape.numel()
        rows = x.reshape(batch.numel(), *self.event_shape)
        given = None
        if context is not None:
            size_of_context = context.shape[-1]  # -1 is ambiguous where there are no rows
            given = context.expand(*batch, -1).reshape(batch.numel(), size_of_context)
        at_once = max(1, NUMBERS_AT_ONCE // size)
        parts = []
        for start in range(0, max(1, len(rows)), at_once):
            chosen = slice(start, start + at_once)
            d = self(None if given is None else given[chosen])
            parts.append(d.estimate_log_prob(rows[chosen], draws))
        return torch.cat(parts).reshape(batch) / (-size * math.log(2))

    def compile(self, **options: Any) -> Dequantized:  # type: ignore[override]
        """Compiles the passes of the flow and of the dequantizer, see :meth:`Flow.compile`.

        Args:
            options: As for ``torch.compile``.

        Returns:
            The module itself.
        """
        for part in self._flows():
            part.compile(**options)
        return self

    def recompute_activations(self, segments: int | None = None) -> Dequantized:
        """Trades time for memory in both flows, see :meth:`Flow.recompute_activations`.

        Args:
            segments: Number of segments of each chain of layers; None for about the square root
                of their number.

        Returns:
            The module itself.
        """
        for part in self._flows():
            part.recompute_activations(segments)
        return self

    def _flows(self) -> list[Flow]:
        return [self.flow] if self.dequantizer is None else [self.flow, self.dequantizer]

    @contextmanager
    def auxiliary(self, names: Iterable[str] | None = None) -> Iterator[dict[str, Tensor]]:
        """Collects what the layers of both flows report beside the density, added up by name.

        Args:
            names: What to collect; None for all.

        Yields:
            A dict from name to tensor of shape ``(*batch,)``, or ``(draws, *batch)`` with several
            draws, filled by the passes in the block.
        """
        tokens = [p._token for p in self.modules() if isinstance(p, FlowTransform)]
        with auxiliary_channel.collect(tokens, names) as results:
            yield results

    def extra_repr(self) -> str:
        """The levels, and how the noise is drawn."""
        noise = f", dequantizer={UNIFORM!r}" if self.dequantizer is None else ""
        draws = f", draws={self.draws}" if self.draws > 1 else ""
        return f"levels={self.levels}{noise}{draws}"
