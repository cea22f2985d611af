"""Mean and standard deviation of data from which a layer starts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mean_and_std(
    layer: nn.Module,
    columns: Tensor,
    dtype: torch.dtype,
    *,
    datum: str = "row",
    axis: str = "dimension",
) -> tuple[Tensor, Tensor]:
    """Creates the mean and standard deviation of each dimension, in float64.

    Args:
        layer: The layer that asks, for the messages.
        columns: Data of shape ``(D, rows)``.
        dtype: What the layer will keep them in; a deviation too small for it counts as none.
        datum: What the messages call a datum.
        axis: What they call a dimension.

    Returns:
        The mean and the standard deviation, each ``(D,)``; 1 for the deviation of a constant.

    Raises:
        ValueError: If there are fewer than two rows or a value is not finite.
    """
    name, count = type(layer).__name__, columns.shape[1]
    if count < 2:
        raise ValueError(
            f"{name}.initialize got data with {count} {datum}{'s' * (count != 1)}. Pass at least "
            "two."
        )
    bad = (~columns.isfinite()).any(1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"{name}.initialize got data with NaN or infinity in {axis} {bad[0]}. Remove such "
            f"{datum}s."
        )
    # Relative to the first row a constant is exactly 0, and a common offset costs no precision.
    first = columns[:, :1].double()
    std, mean = torch.std_mean(columns.double() - first, dim=1)
    return mean + first[:, 0], torch.where(std > torch.finfo(dtype).tiny, std, 1.0)
