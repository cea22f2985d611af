"""Batch normalisation as a layer of a flow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_nf._checks import non_negative_int, positive_float, positive_int
from pyro_nf._precision import narrow, widen
from pyro_nf.nn import MLP
from pyro_nf.nn.mlp import Activation, Residual
from pyro_nf.transforms._contract.features import features_first, features_last
from pyro_nf.transforms._contract.protocol import FlowTransform
from pyro_nf.transforms._linear.moments import mean_and_std


class BatchNorm(FlowTransform):
    r"""Batch normalisation, data -> base :math:`x_i = (y_i - μ_i) e^{g_i} / \sqrt{v_i + ε} + β_i`.

    g and β are learned; a network of the context, which starts at 0, adds to them. While training,
    data -> base takes μ and v from the batch and, if gradients are on, moves the running averages
    towards them. Base -> data, and in evaluation both directions, take the running averages. So
    the directions disagree while training, and nothing is reused. A batch of fewer than two rows
    has no variance: it takes the running averages too.
    The log-determinant counts μ and v as constants, as in the paper.

    Either direction costs O(D) a row; the log-determinant is :math:`\sum_i \log(v_i + ε)/2 - g_i`.

    Warning:
        In training the density of a datum depends on its batch, and data -> base does not run
        under ``torch.func`` transforms, which refuse to change the averages in place. ActNorm has
        neither limit. Pyro's parameter store keeps no buffers, so it drops the running averages:
        save the ``state_dict``.

    Args:
        input_dim: Number of dimensions D.
        momentum: Weight of a new batch in the running averages, in (0, 1].
        epsilon: Pyro's name for ``eps``; None for that.
        eps: ε, added to the variance, in squared units of the data.
        context_dim: Size of the context; 0 for constants alone.
        hidden_dims: Widths of the network that reads the context.
        activation: Its activation: a name, a function or a module.
        residual: "skip" adds skip connections between its layers of equal width.

    Raises:
        ValueError: If ``momentum`` is not in (0, 1] or ``eps`` not positive.

    References:
        Density Estimation Using Real NVP (Dinh et al., 2016), arXiv 1605.08803, appendix E.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import BatchNorm
        >>> x, ladj = BatchNorm(3).inverse_and_ladj(torch.randn(4, 5, 3))
        >>> x.shape, ladj.shape
        (torch.Size([4, 5, 3]), torch.Size([4, 5]))
        >>> bool(x.mean((0, 1)).abs().max() < 1e-6)
        True
    """

    input_dim: int
    running_mean: Tensor
    running_var: Tensor
    initialized: Tensor

    def __init__(
        self,
        input_dim: int,
        momentum: float = 0.1,
        epsilon: float | None = None,
        *,
        eps: float = 1e-5,
        context_dim: int = 0,
        hidden_dims: Sequence[int] = (64, 64),
        activation: Activation = "relu",
        residual: Residual = "none",
    ) -> None:
        super().__init__()
        size = self.input_dim = positive_int("BatchNorm", "input_dim", input_dim)
        self.context_dim = non_negative_int("BatchNorm", "context_dim", context_dim)
        self.momentum = positive_float("BatchNorm", "momentum", momentum)
        if self.momentum > 1:
            raise ValueError(
                f"BatchNorm got momentum={momentum}. Pass the weight of a new batch, at most 1."
            )
        name, value = ("eps", eps) if epsilon is None else ("epsilon", epsilon)
        self.eps = positive_float("BatchNorm", name, value)
        self.log_gamma = nn.Parameter(torch.zeros(size))
        self.beta = nn.Parameter(torch.zeros(size))
        if context_dim:
            self.network = MLP(
                context_dim, 2 * size, hidden_dims, activation=activation, residual=residual
            )
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    @property
    def reusable(self) -> bool:  # type: ignore[override]
        """False while training, when the two directions take different statistics."""
        return not self.training

    @property
    def sign(self) -> int:
        """+1 for one dimension."""
        return 1 if self.input_dim == 1 else super().sign

    @torch.no_grad()
    def initialize(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Sets the running averages to these data's; only the first call does.

        Args:
            y: Data of shape ``(*batch, D)``, at least two rows, finite.
            context: The rows' context.

        Returns:
            The base side of the data, without a graph.

        Raises:
            ValueError: If there are fewer than two rows or a value is not finite.
        """
        if not self.initialized:
            h = features_first(self, y, context, "y")
            mean, std = mean_and_std(self, h.reshape(h.shape[0], -1), self.running_var.dtype)
            self.running_mean.copy_(mean)
            self.running_var.copy_(std.square())
            self.initialized.copy_(torch.ones_like(self.initialized))
        return self.inverse_and_ladj(y, context)[0]

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data by the running averages."""
        h = features_first(self, x, context, "x")  # (D, *batch)
        mean, var = widen(self.running_mean), widen(self.running_var)
        log_gamma, beta = self._learned(h, context)
        log_scale = _beside(h, (var + self.eps).log() / 2) - log_gamma
        y = (widen(h) - beta) * log_scale.exp() + _beside(h, mean)
        return _as_pass(h, y, log_scale)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base, in training by the batch's moments."""
        h = features_first(self, y, context, "y")  # (D, *batch)
        mean, var = self._moments(widen(h))
        log_gamma, beta = self._learned(h, context)
        log_scale = log_gamma - _beside(h, (var + self.eps).log() / 2)
        x = (widen(h) - _beside(h, mean)) * log_scale.exp() + beta
        return _as_pass(h, x, log_scale)

    def _learned(self, h: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Creates g and β, shaped to broadcast with h."""
        log_gamma, beta = _beside(h, widen(self.log_gamma)), _beside(h, widen(self.beta))
        if context is None:
            return log_gamma, beta
        changes = widen(self.network(context.movedim(-1, 0)))  # (2 D, *context_batch)
        more_gamma, more_beta = (_beside(h, change) for change in changes.chunk(2))
        return log_gamma + more_gamma, beta + more_beta

    def _moments(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance ``(D,)``: the batch's in training, else the running averages."""
        rows = h[0].numel()
        if not self.training or rows < 2:
            return widen(self.running_mean), widen(self.running_var)
        var, mean = torch.var_mean(h.reshape(h.shape[0], rows), dim=1, correction=0)
        if torch.is_grad_enabled():
            self._remember(mean.detach(), var.detach(), rows)
        return mean, var

    def _remember(self, mean: Tensor, var: Tensor, rows: int) -> None:
        """Moves the running averages towards a batch's mean and the unbiased variance."""
        unbiased = var * (rows / (rows - 1))
        for running, batch in ((self.running_mean, mean), (self.running_var, unbiased)):
            # In place: the averages keep their identity, and reuse sees their version change.
            running.lerp_(batch.to(running.dtype), self.momentum)

    def extra_repr(self) -> str:
        """The sizes and options, for ``repr``."""
        return f"{super().extra_repr()}, momentum={self.momentum}, eps={self.eps}"


def _beside(h: Tensor, values: Tensor) -> Tensor:
    """Values ``(D, *context_batch)`` with the dimensions of h, ``(D, *batch)``, aligned right."""
    lead = (1,) * (h.ndim - values.ndim)
    return values.reshape(values.shape[0], *lead, *values.shape[1:])


def _as_pass(h: Tensor, result: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """The result and the log-determinant of each row, in the shapes of the contract."""
    ladj = log_scale.sum(0).expand(h.shape[1:])
    return features_last(narrow(result, h.dtype)), narrow(ladj, h.dtype)
