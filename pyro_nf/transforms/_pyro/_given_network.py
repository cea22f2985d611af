"""Layers of a vector bijection whose parameters a user's network makes of the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from pyro_nf._checks import positive_int
from pyro_nf._precision import widen
from pyro_nf.bijections._vector import VectorBijection
from pyro_nf.transforms._joint import JointWiring
from pyro_nf.transforms._pyro.networks import (
    Network,
    check_network,
    shapes_of,
    size_of_context,
    tensors_of,
)


class GivenNetwork(JointWiring):
    """A vector bijection at what a given network makes of the context (abstract).

    Args:
        bijection: The vector bijection.
        input_dim: Number D of dimensions.
        network: Maps a context ``(*batch, context_dim)`` to tensors ``(*batch, p)``.
        context_dim: Size of the context; None for ``network.input_dim``.
    """

    _owner: ClassVar[str] = ""  # the name in messages; "" for the class's

    def __init__(
        self,
        bijection: VectorBijection,
        input_dim: int,
        network: Network,
        context_dim: int | None = None,
    ) -> None:
        owner = self._owner or type(self).__name__
        size = size_of_context(owner, network, context_dim)
        super().__init__(bijection, input_dim)
        for name in self._shapes:  # the network makes all of them
            delattr(self, name)
        self.context_dim = positive_int(owner, "context_dim", size)
        self.nn = network
        # Parameters outside a module cannot be watched, so a pass that used them is not reused.
        self.reusable = isinstance(network, nn.Module)

    def _sizes(self) -> tuple[int, ...]:
        """The last dimensions of the tensors that the network has to make."""
        raise NotImplementedError

    def _read(self, made: Sequence[Tensor]) -> dict[str, Tensor]:
        """The bijection's parameters by name, each ``(*batch, *shape)``, from the network's."""
        raise NotImplementedError

    def _params(self, context: Tensor | None) -> dict[str, Tensor]:
        made = self._checked(self.nn(context))
        params = {name: widen(value) for name, value in self._read(made).items()}
        return params | {name: getattr(self, name) for name in self._fixed}

    def _checked(self, made: Any) -> tuple[Tensor, ...]:
        """Returns what the network made as tensors of the right sizes, or raises."""
        owner, sizes = self._owner or type(self).__name__, self._sizes()
        parts = tensors_of(made, owner)
        if [part.shape[-1:] for part in parts] != [(size,) for size in sizes]:
            raise ValueError(
                f"{owner} of size {self.input_dim} got from its network {shapes_of(parts)}. Let "
                f"it make tensors (*batch, p) with p = {', '.join(map(str, sizes))}, as "
                f"pyro.nn.DenseNN does with param_dims={list(sizes)}."
            )
        return parts


def outputs_of(network: Network, index: int, given: int | None, owner: str) -> int:
    """Returns a size that one of a network's outputs has, or the one given, or raises."""
    check_network(owner, network)
    if given is not None:
        return given
    sizes = getattr(network, "param_dims", None)
    if sizes is None:
        raise ValueError(
            f"{owner} got a network of type {type(network).__name__}, which has no attribute "
            "param_dims. Pass the number of dimensions: input_dim=2, say."
        )
    if len(sizes) <= index:
        raise ValueError(
            f"{owner} got a network of param_dims={list(sizes)}. Build it with three of them."
        )
    return int(sizes[index])
