"""Whether a plate's indices and the data that a model shows there belong together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

# What asks for a tensor's shape, and not for its numbers.
_SHAPE_ONLY = {"__get__", "__len__", "dim", "ndimension", "nelement", "numel", "size"}


class IndexWatch(Messenger):
    """Sees where plates take their indices from, and whether the run makes use of these.

    Attributes:
        given: Names of the plates whose indices were handed to them, by ``subsample=``.
        read: Names of the plates whose indices entered an operation.
        plates: Names of the plates that a function returned, for :func:`watch_plates`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.given: set[str] = set()
        self.read: set[str] = set()
        self.plates: list[str] = []
        self._indices: dict[str, Any] = {}
        self._reads = _Reads(self._note)

    def __enter__(self) -> IndexWatch:
        super().__enter__()
        self._reads.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._reads.__exit__(*error)
        super().__exit__(*error)

    def _pyro_sample(self, message: Any) -> None:
        if site_is_subsample(message) and message["value"] is not None:
            self.given.add(message["name"])

    def _pyro_post_sample(self, message: Any) -> None:
        if site_is_subsample(message):
            self._indices[message["name"]] = message["value"]

    def saw(self, plate: str) -> bool:
        """Whether a plate of this name took or drew indices."""
        return plate in self._indices

    def _note(self, tensor: Tensor) -> None:
        self.read.update(name for name, indices in self._indices.items() if indices is tensor)


class _Reads(TorchFunctionMode):
    """Passes every tensor that enters an operation to a function."""

    def __init__(self, note: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._note_tensor = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in _SHAPE_ONLY:
            for leaf in pytree.tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor):
                    self._note_tensor(leaf)
        return func(*args, **(kwargs or {}))


def watch_plates(
    create_plates: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> IndexWatch | None:
    """Returns what a user's function does with the indices of its plates; None without one."""
    if create_plates is None:
        return None
    watch = IndexWatch()
    with poutine.block(), watch:
        made = create_plates(*args, **kwargs)
    watch.plates = [plate.name for plate in ([made] if isinstance(made, pyro.plate) else made)]
    return watch


def check_indices(
    owner: str, plate: Any, model: IndexWatch, own: IndexWatch | None, *, per_row: bool
) -> None:
    """Raises if the guide's indices would not be those of the data that the model shows.

    Args:
        owner: Who asks, for messages.
        plate: The plate's frame in the model.
        model: What a run of the model showed.
        own: What ``create_plates`` showed; None without it.
        per_row: Whether the guide has parameters for each row.
    """
    name, shown, size = plate.name, plate.size, plate.full_size
    if own is None:
        if name in model.given:
            raise ValueError(
                f"{owner} draws the indices of plate {name!r} itself, but the model hands it its "
                "own by subsample=, so latents and data would belong to different rows. Pass "
                "create_plates, a function of the model's arguments that returns the same plate, "
                "or let the plate draw by subsample_size=."
            )
        if shown != size and not model.saw(name):
            raise ValueError(
                f"{owner} cannot see plate {name!r} draw its indices: poutine.block hides them. "
                "Name the sites to hide, poutine.block(model, hide=[...]), instead of those to "
                "expose."
            )
        if shown != size and name not in model.read:
            raise ValueError(
                f"{owner} draws {shown} of {size} indices of plate {name!r}, but the model never "
                "reads them: its data must be a batch that was chosen outside. Index the whole "
                f"data in the model (with pyro.plate({name!r}, ...) as index), or pass "
                "create_plates, which returns the plate with subsample= the batch's indices."
            )
    elif per_row and shown != size and name not in own.given and name not in model.read:
        raise ValueError(
            f"{owner} without an encoder needs to know which rows a batch holds, but "
            f"create_plates gave plate {name!r} no indices and the model reads none. Return "
            f"pyro.plate({name!r}, {size}, subsample=indices), or pass an encoder."
        )
