"""What a result depends on, as autograd sees it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor


def leaves(result: Tensor) -> Iterator[Tensor]:
    """The tensors that the gradient of a result ends in."""
    ahead, seen = [result.grad_fn], set()
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [parent for parent, _ in node.next_functions]
            if hasattr(node, "variable"):  # where a gradient is accumulated
                yield node.variable


def depends_beyond(result: Tensor, z: Tensor) -> bool:
    """Whether a result has a gradient by anything else than z."""
    return any(leaf is not z for leaf in leaves(result))
