"""A posterior with reference draws: its model, its data and the columns of its reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Posterior:
    """A Pyro model of real data, in the words of posteriordb.

    Attributes:
        name: Its name in posteriordb, and that of its folder.
        model: The Pyro model, a function of the tensors that ``arguments`` makes.
        arguments: From the fields of the data file to the model's arguments.
        constrained: From draws, site name -> (n, *site_shape), to (n, columns) in the order of
            the reference draws' columns.
        log_evidence: The exact log evidence, a function of the model's arguments, where it has a
            closed form. An improper flat density counts as 1.
    """

    name: str
    model: Callable[..., None]
    arguments: Callable[[dict[str, Any]], tuple[Tensor, ...]]
    constrained: Callable[[dict[str, Tensor]], Tensor]
    log_evidence: Callable[..., float] | None = None

    def data(self, path: str | Path, *, dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
        """Reads the model's arguments from a folder with posteriordb's data.

        Args:
            path: The folder; holds ``NAME/data.json``.
            dtype: That of every argument, and so of the latents; None for torch's default.
        """
        with open(Path(path) / self.name / "data.json") as file:
            record = json.load(file)
        return tuple(
            argument.to(dtype or torch.get_default_dtype()) for argument in self.arguments(record)
        )


class Reference(NamedTuple):
    """Draws from a long run of a sampler: ``draws`` (n, columns) and the names of the columns."""

    draws: Tensor
    columns: list[str]


def reference(path: str | Path, name: str) -> Reference:
    """Reads a posterior's reference draws, all chains joined, in float64.

    Args:
        path: A folder with posteriordb's data; holds ``NAME/reference_draws.npz``.
        name: The posterior's name.
    """
    with np.load(Path(path) / name / "reference_draws.npz", allow_pickle=False) as file:
        draws, columns = file["draws"], file["columns"]  # (chains, draws, columns)
    joined = torch.as_tensor(draws.reshape(-1, draws.shape[-1]), dtype=torch.float64)
    return Reference(joined, [str(column) for column in columns])


def vector(values: Any) -> Tensor:
    """A field of the data file as a float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


def joined(values: dict[str, Tensor], *names: str) -> Tensor:
    """The named scalar and vector sites side by side: (n, columns)."""
    parts = [values[name] for name in names]
    return torch.cat([part[:, None] if part.dim() == 1 else part for part in parts], -1)
