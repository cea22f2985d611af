"""Batch normalisation as a layer of a flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_nf._checks import positive_float
from pyro_nf.transforms._contract.features import features_first
from pyro_nf.transforms._linear.affine_map import AffineMap
from pyro_nf.transforms._linear.moments import mean_and_std
from pyro_nf.transforms._linear.precision import widen


class BatchNorm(AffineMap):
    r"""Batch normalisation, data -> base :math:`x_i = (y_i - μ_i) e^{g_i} / \sqrt{v_i + ε} + β_i`.

    g and β are learned. While training, data -> base takes μ and v from the batch and, if
    gradients are on, moves the running averages towards them. Base -> data, and in evaluation both
    directions, take the running averages. So the directions disagree while training, and nothing
    is reused. A batch of fewer than two rows has no variance: it takes the running averages too.
    The log-determinant counts μ and v as constants, as in the paper.

    Either direction costs O(D) a row; the log-determinant is :math:`\sum_i \log(v_i + ε)/2 - g_i`.

    Warning:
        In training the density of a datum depends on its batch, and data -> base does not run
        under ``torch.func`` transforms, which refuse to change the averages in place. ActNorm has
        neither limit.

    Args:
        input_dim: Number of dimensions D.
        momentum: Weight of a new batch in the running averages, in (0, 1].
        eps: ε, added to the variance, in squared units of the data.

    Raises:
        ValueError: If ``momentum`` is not in (0, 1] or ``eps`` not positive.

    References:
        Density Estimation Using Real NVP (Dinh et al., 2016), arXiv 1605.08803, appendix E.

    Example:
        >>> import torch
        >>> from pyro_nf.transforms import BatchNorm
        >>> x, ladj = BatchNorm(3).inverse_and_ladj(torch.randn(4, 5, 3))
        >>> x.shape, ladj.shape
        (torch.Size([4, 5, 3]), torch.Size([4, 5]))
        >>> bool(x.mean((0, 1)).abs().max() < 1e-6)
        True
    """

    running_mean: Tensor
    running_var: Tensor
    initialized: Tensor

    def __init__(self, input_dim: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__(input_dim)
        self.momentum = positive_float("BatchNorm", "momentum", momentum)
        if self.momentum > 1:
            raise ValueError(
                f"BatchNorm got momentum={momentum}. Pass the weight of a new batch, at most 1."
            )
        self.eps = positive_float("BatchNorm", "eps", eps)
        self.log_gamma = nn.Parameter(torch.zeros(self.input_dim))
        self.beta = nn.Parameter(torch.zeros(self.input_dim))
        self.register_buffer("running_mean", torch.zeros(self.input_dim))
        self.register_buffer("running_var", torch.ones(self.input_dim))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    @property
    def reusable(self) -> bool:  # type: ignore[override]
        """False while training, when the two directions take different statistics."""
        return not self.training

    @torch.no_grad()
    def initialize(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Sets the running averages to these data's; only the first call does.

        Args:
            y: Data of shape ``(*batch, D)``, at least two rows, finite.
            context: None; the layer takes no context.

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

    def _map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = widen(self.running_mean), widen(self.running_var)
        log_scale = self._log_scale(var)
        y = (x - widen(self.beta)[:, None]) * log_scale.exp()[:, None] + mean[:, None]
        return y, log_scale.sum()

    def _unmap_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = widen(self.running_mean), widen(self.running_var)
        if self.training and y.shape[1] > 1:
            var, mean = torch.var_mean(y, dim=1, correction=0)
            if torch.is_grad_enabled():
                self._remember(mean.detach(), var.detach(), y.shape[1])
        log_scale = self._log_scale(var)
        x = (y - mean[:, None]) * (-log_scale).exp()[:, None] + widen(self.beta)[:, None]
        return x, -log_scale.sum()

    def _log_scale(self, var: Tensor) -> Tensor:
        """Log of what base -> data multiplies by, shape ``(D,)``."""
        return (var + self.eps).log() / 2 - widen(self.log_gamma)

    def _remember(self, mean: Tensor, var: Tensor, rows: int) -> None:
        """Moves the running averages towards a batch's mean and the unbiased variance."""
        unbiased = var * (rows / (rows - 1))
        for running, batch in ((self.running_mean, mean), (self.running_var, unbiased)):
            # In place: the averages keep their identity, and reuse sees their version change.
            running.lerp_(batch.to(running.dtype), self.momentum)

    def extra_repr(self) -> str:
        """The sizes and options, for ``repr``."""
        return f"{super().extra_repr()}, momentum={self.momentum}, eps={self.eps}"
