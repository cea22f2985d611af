"""Chains of alike layers that treat all dimensions alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pyro_nf._checks import positive_int
from pyro_nf.transforms.compose import Compose


def iterated(repeats: int, base_fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Compose:
    """Creates a chain of layers that one function makes, as Pyro's ``iterated``.

    Where the function has an option ``parity`` it is given 0, 1, 0, …: couplings exchange what
    they keep and what they move, autoregressive layers reverse their order. Pyro's chain has equal
    layers, and so never moves the half of the dimensions that a coupling keeps. An option ``seed``
    is given 0, 1, 2, …. Either stays as it is where the caller sets it, and a function without
    them is called as often as there are layers.

    Either direction costs what its layers cost in sum.

    Args:
        repeats: Number of layers.
        base_fn: Makes a layer: one of the factories here, or any function.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        The chain, of ``repeats`` parts.

    Raises:
        TypeError, ValueError: If ``repeats`` is no positive integer, or ``base_fn`` no callable.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> chain = T.iterated(2, T.affine_coupling, 4)
        >>> [part.kept for part in chain.parts]
        ['lower', 'upper']
    """
    positive_int("iterated", "repeats", repeats)
    if not callable(base_fn):
        raise TypeError(
            f"iterated got {base_fn!r} for a function that makes a layer. Pass one, such as "
            "pyro_nf.transforms.affine_coupling."
        )
    free = _options(base_fn) - set(kwargs)
    return Compose(
        base_fn(*args, **kwargs, **{name: _VALUES[name](i) for name in free & set(_VALUES)})
        for i in range(repeats)
    )


_VALUES: dict[str, Callable[[int], int]] = {"parity": lambda i: i % 2, "seed": lambda i: i}


def _options(base_fn: Callable[..., Any]) -> set[str]:
    """The names of a function's keyword-only options that a ``partial`` has not set."""
    try:
        parameters = inspect.signature(base_fn).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have none
        return set()
    set_before = set(getattr(base_fn, "keywords", None) or {})
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - set_before
