"""Checkpoints of a fit: written whole or not at all, and read without running code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

_VERSION = 1


def save_checkpoint(
    path: str | os.PathLike[str], state: dict[str, Any], owner: str = "fit_density"
) -> None:
    """Writes ``state`` to ``path``; an interruption leaves the former file as it was.

    Args:
        path: Where to; the folder is made if it is missing.
        state: Nested dicts and lists of tensors, numbers and strings.
        owner: The function whose fit it is, which alone continues it.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        torch.save({"format": _format(owner), **state}, unfinished)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def load_checkpoint(path: str | os.PathLike[str], owner: str = "fit_density") -> dict[str, Any]:
    """Returns the state written by :func:`save_checkpoint`, on the CPU.

    Raises:
        ValueError: If the file is no checkpoint of a fit by ``owner``.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what torch raises depends on the first bytes of the file
        raise _no_checkpoint(path, owner) from error
    if not isinstance(state, dict) or state.get("format") != _format(owner):
        raise _no_checkpoint(path, owner)
    return state


def _format(owner: str) -> str:
    return f"pyro_nf.{owner}/{_VERSION}"


def _no_checkpoint(path: str | os.PathLike[str], owner: str) -> ValueError:
    return ValueError(
        f"{os.fspath(path)!r} is no checkpoint of a fit in format {_format(owner)!r}. "
        "Pass the path given as checkpoint= before, or resume=False."
    )


def random_state() -> dict[str, Any]:
    """Returns the state of torch's global generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Goes back to a state of torch's global generators."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
