"""Checks of constructor arguments: a sentence of fact with the value, then one of remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def positive_int(owner: str, name: str, value: Any) -> int:
    """Returns ``value`` if it is an integer ≥ 1, else raises."""
    return _int_from(owner, name, value, 1, "a positive integer")


def non_negative_int(owner: str, name: str, value: Any) -> int:
    """Returns ``value`` if it is an integer ≥ 0, else raises."""
    return _int_from(owner, name, value, 0, "a non-negative integer")


def _int_from(owner: str, name: str, value: Any, least: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{owner} got {name}={value!r} of type {type(value).__name__}. Pass {what}."
        )
    if value < least:
        raise ValueError(f"{owner} got {name}={value}. Pass {what}.")
    return value


def positive_float(owner: str, name: str, value: Any) -> float:
    """Returns ``value`` as a float if it is a finite number > 0, else raises."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{owner} got {name}={value!r} of type {type(value).__name__}. Pass a positive number."
        )
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{owner} got {name}={value}. Pass a finite number above 0.")
    return float(value)


def negative_float(owner: str, name: str, value: Any) -> float:
    """Returns ``value`` as a float if it is a finite number < 0, else raises."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{owner} got {name}={value!r} of type {type(value).__name__}. Pass a negative number."
        )
    if not (math.isfinite(value) and value < 0):
        raise ValueError(f"{owner} got {name}={value}. Pass a finite number below 0.")
    return float(value)


def finite_float(owner: str, name: str, value: Any) -> float:
    """Returns ``value`` as a float if it is a finite number, else raises."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{owner} got {name}={value!r} of type {type(value).__name__}. Pass a number."
        )
    if not math.isfinite(value):
        raise ValueError(f"{owner} got {name}={value}. Pass a finite number.")
    return float(value)


def choice(owner: str, name: str, value: Any, options: Sequence[Any]) -> Any:
    """Returns ``value`` if it is one of ``options``, else raises."""
    if value not in options:
        known = ", ".join(repr(option) for option in options)
        raise ValueError(f"{owner} got {name}={value!r}. Pass one of {known}.")
    return value


def hidden_sizes(owner: str, name: str, value: Any) -> tuple[int, ...]:
    """Returns ``value`` as a tuple of positive integers (it may be empty), else raises."""
    if isinstance(value, (str, int)) or not isinstance(value, Sequence):
        raise TypeError(
            f"{owner} got {name}={value!r}. Pass a sequence of widths such as [64, 64]."
        )
    return tuple(positive_int(owner, f"{name}[{i}]", width) for i, width in enumerate(value))


def checked_shape(
    owner: str, name: str, value: Any, remedy: str = "Pass a shape such as (3, 32, 32)."
) -> tuple[int, ...]:
    """Returns ``value`` as a tuple of positive integers if it is a sequence of them."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{owner} got {name}={value!r}. {remedy}")
    return tuple(positive_int(owner, f"{name}[{i}]", size) for i, size in enumerate(value))


def checked_image_shape(owner: str, name: str, value: Any) -> tuple[int, int, int]:
    """Returns channels, height and width if ``value`` is three positive integers, else raises."""
    remedy = "Pass (channels, height, width)."
    shape = checked_shape(owner, name, value, remedy)
    if len(shape) != 3:
        raise ValueError(f"{owner} got {name}={shape}. {remedy}")
    channels, height, width = shape
    return channels, height, width
