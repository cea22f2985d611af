"""The two ArviZ: ``InferenceData`` of versions before 1, trees of xarray from 1 on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

Groups = Mapping[str, Mapping[str, np.ndarray]]


def installed_arviz() -> Any:
    """Imports ArviZ, late because that is slow; its announcement of version 1 is passed over."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module("arviz")


def is_version_one(arviz: Any) -> bool:
    """Whether a version of ArviZ keeps its groups in a tree."""
    return int(arviz.__version__.split(".")[0]) >= 1


def pack(groups: Groups, dims: Mapping[str, Sequence[str]], attrs: Mapping[str, Any]) -> Any:
    """Puts groups into the container of the installed ArviZ.

    Args:
        groups: Arrays by group and variable; those of draws begin with chain and draw.
        dims: Names of the other dimensions of each variable.
        attrs: What to write at the root and at the posterior.

    Returns:
        An ``arviz.InferenceData``, or an ``xarray.DataTree`` from version 1 on.
    """
    arviz = installed_arviz()
    names = {name: list(dims_) for name, dims_ in dims.items()}
    if is_version_one(arviz):
        return arviz.from_dict(
            {group: dict(variables) for group, variables in groups.items()},
            sample_dims=["chain", "draw"],
            dims=names,
            attrs={"/": dict(attrs), "posterior": dict(attrs)},
        )
    made = arviz.from_dict(
        **{group: dict(variables) for group, variables in groups.items()},
        dims=names,
        posterior_attrs=dict(attrs),
    )
    made.attrs.update(attrs)  # of those that it is given it drops some
    return made
