"""Jacobians of convolutional maps from few tangents: far pixels share one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Colouring(NamedTuple):
    """Groups of input numbers no two of which reach the same output number.

    An output pixel of a convolutional map sees the input pixels within a distance R. Two input
    pixels more than 2R apart in their rows or columns are seen by no common output, so one tangent
    along both of them has both columns of the Jacobian, at different places. The pixels of every
    (2R + 1)th row and column form a group: there are :math:`C (2R + 1)^2` for C channels, however
    large the image.

    Attributes:
        directions: The sum of each group's unit vectors, ``(K, D)``.
        colour: The group of each input number, ``(D,)``.
        near: 1 where an input number is seen by an output number, else 0, ``(D, 1, D)``.
    """

    directions: Tensor
    colour: Tensor
    near: Tensor

    def spread(self, tangents: Tensor) -> Tensor:
        """Puts the products with the directions, ``(K, columns, D)``, in their places.

        Returns:
            The Jacobians, ``(inputs, columns, outputs)``.
        """
        if len(self.directions) == len(self.colour):  # every number has a tangent of its own
            return tangents
        return tangents.index_select(0, self.colour) * self.near


def colour_pixels(shape: tuple[int, int, int], reach: tuple[int, int], like: Tensor) -> Colouring:
    """Groups the numbers of an image, which come in the order height, width, channels.

    Args:
        shape: Channels, height and width.
        reach: How many rows and columns away an output pixel sees.
        like: A tensor of the dtype and device wished for.

    References:
        On the Estimation of Sparse Jacobian Matrices (Curtis, Powell & Reid, 1974).
    """
    channels, height, width = shape
    rows = min(2 * reach[0] + 1, height)
    columns = min(2 * reach[1] + 1, width)
    number = torch.arange(height * width * channels, device=like.device)
    pixel, channel = number // channels, number % channels
    row, column = pixel // width, pixel % width
    colour = ((row % rows) * columns + column % columns) * channels + channel
    groups = torch.arange(rows * columns * channels, device=like.device)
    directions = (groups[:, None] == colour).to(like.dtype)
    near = (row[:, None] - row).abs() <= reach[0]
    near = near & ((column[:, None] - column).abs() <= reach[1])
    return Colouring(directions, colour, near.to(like.dtype).unsqueeze(1))
