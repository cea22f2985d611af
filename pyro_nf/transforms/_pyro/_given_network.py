"""Layers of a vector bijection whose parameters a user's network makes of the context."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pyro_nf.bijections._vector import VectorBijection
from pyro_nf.transforms._joint import JointWiring
from pyro_nf.transforms._linear.precision import widen
from pyro_nf.transforms._pyro.networks import Network, size_of_context


class GivenNetwork(JointWiring):
    """A vector bijection at what a given network makes of the context (abstract).

    Args:
        bijection: The vector bijection.
        input_dim: Number D of dimensions.
        network: Maps a context ``(*batch, context_dim)`` to tensors ``(*batch, p)``.
        context_dim: Size of the context; None for ``network.input_dim``.
    """

    def __init__(
        self,
        bijection: VectorBijection,
        input_dim: int,
        network: Network,
        context_dim: int | None = None,
    ) -> None:
        super().__init__(bijection, input_dim)
        for name in self._shapes:  # the network makes all of them
            delattr(self, name)
        self.context_dim = size_of_context(type(self).__name__, network, context_dim)
        self.nn = network
        # Parameters outside a module cannot be watched, so a pass that used them is not reused.
        self.reusable = isinstance(network, nn.Module)

    def _read(self, made: Any) -> dict[str, Tensor]:
        """The bijection's parameters by name, each ``(*batch, *shape)``, from the network's."""
        raise NotImplementedError

    def _params(self, context: Tensor | None) -> dict[str, Tensor]:
        made = {name: widen(value) for name, value in self._read(self.nn(context)).items()}
        return made | {name: getattr(self, name) for name in self._fixed}


def outputs_of(network: Network, index: int, given: int | None, owner: str) -> int:
    """Returns a size that one of a network's outputs has, or the one given, or raises."""
    if given is not None:
        return given
    sizes = getattr(network, "param_dims", None)
    if sizes is None:
        raise ValueError(
            f"{owner} got a network of type {type(network).__name__}, which has no attribute "
            "param_dims. Pass the number of dimensions: input_dim=2, say."
        )
    return int(sizes[index])
