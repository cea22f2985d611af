"""What flow guides share: names of their own, copies that keep the model, path gradients."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pyro.infer.autoguide import AutoGuide

_COUNTS: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
G = TypeVar("G", bound="FlowGuide")


class FlowGuide(AutoGuide):
    """An autoguide whose posterior is a flow (abstract).

    Attributes:
        path_gradient: The user's wish; None for path gradients within ``fit_guide`` alone.
    """

    path_gradient: bool | None

    def _begin(
        self,
        model: Callable[..., Any],
        name: str | None,
        path_gradient: bool | None,  # noqa: FBT001
    ) -> None:
        """Notes what every flow guide is given; called once, in the constructor."""
        self._pyro_name = _unique_name(type(self).__name__) if name is None else name
        self._bare_model = (model,)  # a tuple, so that a module is not registered
        self.path_gradient, self._within_fit = path_gradient, False

    @contextmanager
    def path_gradients(self) -> Iterator[None]:
        """Turns path gradients on for a block, unless the guide was built with or without them."""
        before, self._within_fit = self._within_fit, True
        try:
            yield
        finally:
            self._within_fit = before

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():  # Pyro's weak reference, which it makes anew
            vars(parameter).pop("unconstrained", None)
        # Pyro's empties the guide that is copied; here only the copy goes without its model. The
        # plates of the latest run hold weak references, and each run makes its own.
        gone: dict[str, Any] = {"_model": None, "_bare_model": None, "master": None, "plates": {}}
        return {**self.__dict__, **gone}

    def __deepcopy__(self: G, memo: dict[int, Any]) -> G:
        new = object.__new__(type(self))
        memo[id(self)] = new
        state = copy.deepcopy(self.__getstate__(), memo)
        if "." not in self._pyro_name:  # else it is part of another guide that is copied
            state["_pyro_name"] = _unique_name(type(self).__name__)
        # The copy guides the same model.
        new.__setstate__({**state, "_model": self._model, "_bare_model": self._bare_model})
        return new


def _unique_name(class_name: str) -> str:
    """A prefix in Pyro's store that no other guide has: two of one name would share parameters."""
    number = next(_COUNTS[class_name])
    return class_name if number == 0 else f"{class_name}_{number}"
