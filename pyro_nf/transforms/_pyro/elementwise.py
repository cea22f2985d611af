"""Fixed elementwise maps under Pyro's names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pyro.distributions.transforms import ELUTransform as PyroELUTransform
from pyro.distributions.transforms import LeakyReLUTransform
from torch import Tensor
from torch.distributions import TanhTransform, constraints


class ELUTransform(PyroELUTransform):
    r"""The map :math:`y = x` for x > 0, :math:`y = e^x - 1` below, as Pyro's ``ELUTransform``.

    Its image is :math:`(-1, \infty)`, which ``codomain`` says (Pyro's says (0, ∞), and rejects
    half of its own draws), and its inverse is exact (Pyro's adds 1e-8 before the logarithm).

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> T.ELUTransform().inv(torch.tensor([2.0, 0.0]))
        tensor([2., 0.])
    """

    codomain = constraints.greater_than(-1.0)

    def _call(self, x: Tensor) -> Tensor:
        return F.elu(x)

    def _inverse(self, y: Tensor) -> Tensor:
        # Each branch sees a value of its own side, so that neither spoils the other's gradient.
        return torch.where(y > 0, y, torch.log1p(y.clamp(max=0)))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes ``min(x, 0)``."""
        del y
        return x.clamp(max=0)


def elu(input_dim: int | None = None) -> ELUTransform:
    """Creates an :class:`ELUTransform`, as Pyro's ``elu``.

    Either direction is closed form: one exponential or logarithm an element.

    Args:
        input_dim: Not needed; taken so that all factories can be called alike.

    Returns:
        An elementwise transform without parameters.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.elu()
        ELUTransform()
    """
    del input_dim
    return ELUTransform()


def leaky_relu(input_dim: int | None = None) -> LeakyReLUTransform:
    """Creates Pyro's ``LeakyReLUTransform``: x for x > 0, x / 100 below.

    Either direction is closed form: one product an element.

    Args:
        input_dim: Not needed; taken so that all factories can be called alike.

    Returns:
        An elementwise transform without parameters.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.leaky_relu()
        LeakyReLUTransform()
    """
    del input_dim
    return LeakyReLUTransform()


def tanh(input_dim: int | None = None) -> TanhTransform:
    """Creates torch's ``TanhTransform``, onto (-1, 1).

    Either direction is closed form: one special function an element.

    Args:
        input_dim: Not needed; taken so that all factories can be called alike.

    Returns:
        An elementwise transform without parameters.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.tanh()
        TanhTransform()
    """
    del input_dim
    return TanhTransform()
