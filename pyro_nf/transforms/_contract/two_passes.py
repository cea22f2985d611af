"""Torch's transform protocol, derived from two passes."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.distributions import Transform

from pyro_nf.transforms._contract.boundary import refuse_context
from pyro_nf.transforms._contract.reuse import Pass, Slot


class TwoPasses(Transform):
    """Torch's transform protocol on top of the two passes of a layer or of its bound view."""

    bijective = True
    ladj_direction: Literal["forward", "inverse"] = "forward"
    _slot: Slot

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _stamped(self) -> tuple[nn.Module | None, Tensor | None]:
        """The module and the context that a pass depends on; (None, _) forbids reuse."""
        raise NotImplementedError

    def __call__(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        refuse_context(self, context)
        return self._pass(x, forward=True)

    def _inv_call(self, y: Tensor) -> Tensor:
        return self._pass(y, forward=False)

    def _pass(self, given: Tensor, *, forward: bool) -> Tensor:
        known = self._slot.counterpart(given, forward=forward)
        if known is not None:
            return known
        produced, ladj = (self.forward_and_ladj if forward else self.inverse_and_ladj)(given)
        module, context = self._stamped()
        if module is not None:
            stored = Pass.remember(given, produced, ladj, module, context)
            self._slot.store(stored, forward=forward)
        return produced

    def _call(self, x: Tensor) -> Tensor:
        return self.forward_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_ladj(y)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes ``log|det dy/dx|``, of shape ``(*batch,)``, of the pair ``(x, y)``.

        The pass that made the pair is reused if all is as it was; else the layer's fast direction
        is evaluated, unless only the other tensor carries a graph.
        """
        known = self._slot.take_ladj(x, y)
        if known is not None:
            return known
        from_x = self.ladj_direction == "forward"
        if x.requires_grad != y.requires_grad:
            from_x = x.requires_grad
        return self.forward_and_ladj(x)[1] if from_x else -self.inverse_and_ladj(y)[1]

    def with_cache(self, cache_size: int = 1) -> TwoPasses:
        """Returns the transform itself: its reuse needs no cache and no size."""
        del cache_size
        return self

    def clear_cache(self) -> None:
        """Forgets the stored pass; needed only after a raw ``parameter.data.copy_(...)``."""
        self._slot.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_slot": Slot()}

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)
