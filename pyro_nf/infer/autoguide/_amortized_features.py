"""What the flow of a row's latents knows of the row: encoded data, or parameters of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_OWNER = "AutoAmortizedFlow"


class RowTable(nn.Module):
    """A location and a log-scale for each row and dimension, which start at zero.

    Args:
        num_rows: Number of rows.
        dim: Number of dimensions of a row.
        like: Tensor whose dtype and device they take.
    """

    def __init__(self, num_rows: int, dim: int, like: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(like.new_zeros(num_rows, 2 * dim))

    def forward(self, index: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Gathers the parameters of rows, ``(n, 2 dim)``."""
        return self.values[torch.as_tensor(index, device=self.values.device)]


class RowEncoder(nn.Module):
    """Features of rows from their data.

    Args:
        encoder: Module or function from n rows of data to ``(n, H)``.
        data: Function from row numbers and the model's arguments to the rows.
    """

    def __init__(self, encoder: Callable[[Any], Tensor], data: Callable[..., Any]) -> None:
        super().__init__()
        self.encoder, self._data = encoder, data

    def forward(self, index: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Encodes the data of rows, ``(n, H)``."""
        features = self.encoder(self._data(index, *args, **kwargs))
        if not isinstance(features, Tensor):
            raise TypeError(
                f"{_OWNER} got features of type {type(features).__name__} from the encoder. "
                "Return a tensor of shape (rows, features)."
            )
        if features.ndim != 2 or len(features) != len(index):
            raise ValueError(
                f"{_OWNER} got features of shape {tuple(features.shape)} for {len(index)} rows. "
                "Let data(index, *args) return the rows of index, and the encoder "
                f"({len(index)}, features)."
            )
        return features


def joined(parts: list[Tensor]) -> Tensor:
    """Concatenates features whose batches broadcast, aligned right."""
    batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*batch, part.shape[-1]) for part in parts], -1)


def check_callables(model: Any, encoder: Any, data: Any, create_plates: Any) -> None:
    """Raises if an argument is no function, or encoder and data do not come together."""
    named = {"model": model, "encoder": encoder, "data": data, "create_plates": create_plates}
    for name, value in named.items():
        if not callable(value) and (value is not None or name == "model"):
            raise TypeError(
                f"{_OWNER} got {name} of type {type(value).__name__}. Pass a function."
            )
    if (encoder is None) != (data is None):
        given, missing = ("data", "encoder") if encoder is None else ("encoder", "data")
        raise ValueError(
            f"{_OWNER} got {given} without {missing}. Pass both, so that a row's latents depend "
            "on encoder(data(index, *args)), or neither for parameters of each row."
        )
