"""What the wirings share: a scalar bijection and its form in words."""

from __future__ import annotations

from typing import Any

from torch.distributions import constraints

from pyro_nf._checks import non_negative_int, positive_int
from pyro_nf.bijections import ScalarBijection, VectorBijection
from pyro_nf.transforms._contract.protocol import FlowTransform


class Wiring(FlowTransform):
    """A layer that says where a scalar bijection's parameters come from (abstract).

    Args:
        bijection: The scalar bijection.
        input_dim: Number of dimensions.
        context_dim: Size of the context; 0 for none.
    """

    input_dim: int

    def __init__(self, bijection: ScalarBijection, input_dim: int, context_dim: int) -> None:
        super().__init__()
        owner = type(self).__name__
        self.bijection = checked_bijection(owner, bijection)
        self.input_dim = positive_int(owner, "input_dim", input_dim)
        self.context_dim = non_negative_int(owner, "context_dim", context_dim)
        if bijection.domain is not constraints.real:
            self.domain = self.codomain = constraints.independent(bijection.domain, 1)

    @property
    def sign(self) -> int:
        """The bijection's sign, for one dimension."""
        return self.bijection.sign if self.input_dim == 1 else super().sign

    def extra_repr(self) -> str:
        """The bijection and the sizes."""
        return f"{self.bijection}, {super().extra_repr()}"


def checked_bijection(owner: str, bijection: Any) -> ScalarBijection:
    if isinstance(bijection, ScalarBijection):
        return bijection
    if isinstance(bijection, VectorBijection):
        raise TypeError(
            f"{owner} got {bijection!r}, a bijection of whole vectors. Pass it to "
            "pyro_nf.transforms.Joint; here a scalar one is wanted, such as "
            "pyro_nf.bijections.Affine()."
        )
    got = bijection.__name__ if isinstance(bijection, type) else repr(bijection)
    raise TypeError(
        f"{owner} got {got} for a bijection. Pass an instance, such as "
        "pyro_nf.bijections.Affine()."
    )
