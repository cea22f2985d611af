"""A prior over sequences of latent vectors, each a flow of those before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_nf._checks import non_negative_int, positive_int
from pyro_nf.distributions._values import check_finite_context, check_values
from pyro_nf.distributions.flow import Flow
from pyro_nf.transforms import ActNorm
from pyro_nf.transforms._contract.boundary import check_context, check_dtype, check_tensor


class AutoregressivePrior(nn.Module):
    r"""A distribution over sequences of T vectors: calling it gives a Pyro distribution.

    .. math:: p(z_1, \dots, z_T \mid c) = \prod_{t=1}^{T} p(z_t \mid h_t), \qquad
        h_{t+1} = \mathrm{GRU}(z_t, h_t)

    Each factor is the same conditional flow, whose context is a summary :math:`h_t` of the vectors
    before: the state of a recurrent network that reads them. The first state is learned, or an
    affine function of the context c. A fresh prior with a fresh flow is standard normal, with all
    vectors independent.

    It serves as a prior of latent sequences (event shape ``(T, D)``) under SVI and NUTS, and as a
    density: ``fit_density`` trains it on data of shape ``(rows, T, D)``.

    Cost: ``log_prob`` one run of the recurrent network and one pass of the flow for all times
    together; ``sample`` T steps, each of both.

    Args:
        flow: The flow of one vector, of event shape ``(D,)``, built with a context: its
            ``context_dim`` is the size of the state.
        length: Number T of vectors.
        context_dim: Size of the context c; 0 for none.

    Raises:
        TypeError: If ``flow`` is none.
        ValueError: If it takes no context or vectors, or a size is out of range.

    References:
        - Multivariate probabilistic time series forecasting via conditioned normalizing flows
          (Rasul et al., 2020), arXiv:2002.06103.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> prior = AutoregressivePrior(flows.maf(3, context_dim=16), length=5)
        >>> z = prior().rsample((7,))
        >>> z.shape, prior().log_prob(z).shape
        (torch.Size([7, 5, 3]), torch.Size([7]))
    """

    def __init__(self, flow: Flow, length: int, *, context_dim: int = 0) -> None:
        super().__init__()
        if not isinstance(flow, Flow):
            raise TypeError(
                f"AutoregressivePrior got a flow of type {type(flow).__name__}. Pass "
                "pyro_nf.flows.nsf(input_dim, context_dim=32), say."
            )
        if not flow.context_dim or len(flow.event_shape) != 1:
            raise ValueError(
                f"AutoregressivePrior got a flow of event shape {tuple(flow.event_shape)} with "
                f"context_dim={flow.context_dim}. Build it for vectors and with a context_dim, "
                "the size of the state that it reads."
            )
        self.flow = flow
        self.length = positive_int("AutoregressivePrior", "length", length)
        self.context_dim = non_negative_int("AutoregressivePrior", "context_dim", context_dim)
        self.input_dim = size = flow.event_shape[0]
        self.event_shape = torch.Size([self.length, size])
        self.normalize = ActNorm(size)  # what the recurrent network reads has unit scale
        self.cell = nn.GRU(size, flow.context_dim, batch_first=True)
        if self.context_dim:
            self.first = nn.Linear(self.context_dim, flow.context_dim)
        else:
            self.first_state = nn.Parameter(torch.zeros(flow.context_dim))

    @property
    def state_dim(self) -> int:
        """Size of the state that summarises the past."""
        return self.flow.context_dim

    @property
    def aux_weights(self) -> dict[str, float]:
        """The flow's weights of side results, which weigh their mean over rows and times."""
        return self.flow.aux_weights

    def forward(self, context: Tensor | None = None) -> FlowSequence:
        """Creates the distribution of sequences, given a context where the prior has one.

        Args:
            context: Shape ``(*batch, context_dim)``, which gives the batch shape.

        Raises:
            ValueError: If a context is missing, superfluous or of another size; under validation
                if it is not finite.
        """
        check_context(self, context)
        if context is None:
            return FlowSequence(self, self.first_state)
        check_dtype("This prior", "context", context, self)
        if FlowSequence._validate_args:
            check_finite_context("A prior over sequences", context)
        return FlowSequence(self, self.first(context))

    def states(self, z: Tensor, first: Tensor) -> Tensor:
        """Runs the recurrent network over the past of each vector.

        Args:
            z: Sequences, shape ``(*batch, T, D)``.
            first: First states, ``(*first_batch, state_dim)``; the batches broadcast.

        Returns:
            The states before each vector, ``(*batch, T, state_dim)``: that at t depends on
            ``z[..., :t, :]`` alone.
        """
        batch = torch.broadcast_shapes(z.shape[:-2], first.shape[:-1])
        state = first.expand(*batch, self.state_dim)
        if z.shape[-2] < 2 or not batch.numel():
            return state.unsqueeze(-2).expand(*batch, z.shape[-2], self.state_dim)
        past = z[..., :-1, :].expand(*batch, -1, -1)
        return torch.cat([state.unsqueeze(-2), self._run(past, state)], -2)

    def _run(self, z: Tensor, state: Tensor) -> Tensor:
        """The states after each of ``z (*batch, steps, D)``, from ``state (*batch, H)``."""
        *batch, steps, size = z.shape
        seen = self.normalize.inverse_and_ladj(z)[0].reshape(-1, steps, size)
        after = self.cell(seen, state.reshape(1, -1, self.state_dim).contiguous())[0]
        return after.reshape(*batch, steps, self.state_dim)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets what the layers take from data (scales, locations).

        Args:
            x: Sequences, shape ``(*batch, T, D)``, at least 2 finite vectors.
            context: Shape ``(*batch, context_dim)``.

        Raises:
            ValueError: If there are fewer than two vectors, a value is not finite, or shapes do
                not fit.
        """
        distribution = self(context)
        check_tensor("initialize", "x", x)
        distribution._check_value(x)
        self.normalize.initialize(x.reshape(-1, x.shape[-1]))
        self.flow.initialize(x, self.states(x, distribution.first))

    @contextmanager
    def auxiliary(self, names: Iterable[str] | None = None) -> Iterator[dict[str, Tensor]]:
        """Collects what the flow's layers report beside the density (see ``Flow.auxiliary``).

        Args:
            names: What to collect; None for all.

        Yields:
            A dict from name to tensor of shape ``(*batch, T)``, filled by the passes in the block.
        """
        with self.flow.auxiliary(names) as results:
            yield results

    def extra_repr(self) -> str:
        """The sizes."""
        return f"length={self.length}, context_dim={self.context_dim}"


class FlowSequence(dist.TorchDistribution):
    """The distribution of sequences, made by calling an :class:`AutoregressivePrior`.

    Cost: ``log_prob`` one run of the recurrent network and one pass of the flow for all T times
    together; ``sample`` and ``rsample`` T steps, each of both.

    Args:
        prior: The module.
        first: The first states, ``(*batch, state_dim)``.
        validate_args: As for any torch distribution.

    Raises:
        ValueError: From ``log_prob``, if a value has another event shape; under validation, if a
            number is not finite or outside of the flow's support.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> d = AutoregressivePrior(flows.maf(3, context_dim=16), length=5)()
        >>> d
        FlowSequence(batch_shape=(), event_shape=(5, 3), transform=Compose)
        >>> d.log_factors(d.sample((7,))).shape
        torch.Size([7, 5])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  (torch's way)

    def __init__(
        self,
        prior: AutoregressivePrior,
        first: Tensor,
        validate_args: bool | None = None,  # noqa: FBT001  (torch's signature)
    ) -> None:
        self.prior, self.first = prior, first
        super().__init__(first.shape[:-1], prior.event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        """Whether the flow's draws have gradients: whether its base's do."""
        return self._factor(self.first).has_rsample

    @property
    def support(self) -> constraints.Constraint:
        """The flow's support, for each vector."""
        return constraints.independent(self._factor(self.first).support, 1)

    def _factor(self, state: Tensor) -> dist.TorchDistribution:
        """The distribution of one vector given the states ``(*batch, H)``."""
        return self.prior.flow(state)

    def log_prob(self, value: Tensor) -> Tensor:
        """Computes the log density, of shape ``sample_shape + batch_shape``, in nats."""
        return self.log_factors(value).sum(-1)

    def log_factors(self, value: Tensor) -> Tensor:
        """Computes log p(z_t | z_<t) for each time, ``(*sample_shape, *batch_shape, T)``."""
        self._check_value(value)
        return self._factor(self.prior.states(value, self.first)).log_prob(value)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws without gradients: ``sample_shape + batch_shape + (T, D)``."""
        with torch.no_grad():
            return self._draw(sample_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws with gradients: ``sample_shape + batch_shape + (T, D)``, in T steps."""
        return self._draw(sample_shape)

    def _draw(self, sample_shape: Sequence[int]) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        state = self.first.expand(*shape, self.prior.state_dim)
        drawn: list[Tensor] = []
        for t in range(self.prior.length):
            factor = self._factor(state)
            z = factor.rsample() if torch.is_grad_enabled() else factor.sample()
            drawn.append(z)
            if t + 1 < self.prior.length and shape.numel():
                state = self.prior._run(z.unsqueeze(-2), state).squeeze(-2)
        return torch.stack(drawn, -2)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> FlowSequence:
        """Creates the distribution with a larger batch shape; draws are independent over it."""
        new = self._get_checked_instance(FlowSequence, _instance)
        first = self.first.expand(*batch_shape, self.prior.state_dim)
        FlowSequence.__init__(new, self.prior, first, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        return (
            f"FlowSequence(batch_shape={tuple(self.batch_shape)}, "
            f"event_shape={tuple(self.event_shape)}, "
            f"transform={type(self.prior.flow.transform).__name__})"
        )

    def _check_value(self, value: Tensor) -> None:
        check_tensor("log_prob", "value", value)
        check_dtype("This prior", "value", value, self.prior)
        if value.shape[max(0, value.ndim - 2) :] != self.event_shape:
            raise ValueError(
                f"A prior over sequences of event shape {tuple(self.event_shape)} got a value of "
                f"shape {tuple(value.shape)}; expected (*batch, {self.event_shape[0]}, "
                f"{self.event_shape[1]})."
            )
        if self._validate_args:
            check_values(value, self.support, self.prior.flow.transform)
