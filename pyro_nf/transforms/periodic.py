"""Periodic convolutions, invertible frequency by frequency."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from pyro_nf._checks import positive_int
from pyro_nf._precision import narrow, widen, without_autocast
from pyro_nf.transforms._images.channel_weights import PlainWeight
from pyro_nf.transforms._images.determinant import Factors, factorize
from pyro_nf.transforms._images.image_transform import ImageTransform, as_pass


@final
class PeriodicConv2d(ImageTransform):
    r"""An invertible k×k convolution on a torus: the image continues at its opposite edge.

    With ĉ the discrete Fourier transform of an image and Ŵ that of the kernel, C×C at each of the
    H W frequencies f,

    .. math:: ŷ_f = Ŵ_f x̂_f, \qquad \log|\det dy/dx| = \sum_f \log|\det Ŵ_f|

    An unconstrained kernel W, that of torch's ``Conv2d(padding_mode="circular")``. It may become
    singular at a frequency: a pass then raises ``torch.linalg.LinAlgError`` on a CPU, and gives
    NaN on an accelerator, compiled or mapped, never finite garbage.

    Cost: base -> data one convolution, O(k²C²) a pixel; data -> base two transforms and a solve at
    each frequency, O(C² + C log(HW)) a pixel. Both factor the Ŵ of half of the frequencies (the
    others are conjugate) once a pass, O(H W C³), however many images there are.

    Args:
        channels: Number C of channels.
        kernel_size: Width k of the kernel, at most the height and width of the images.
        seed: None starts at the identity; else at a rotation of the channels at every pixel,
            drawn from this seed, as :class:`InvertibleConv1x1` does.

    Raises:
        TypeError, ValueError: If a size is no positive integer; in use, if the kernel is larger
            than the image.
        torch.linalg.LinAlgError: In use, if a frequency is singular and the host can see it.

    References:
        Emerging Convolutions for Generative Normalizing Flows (Hoogeboom et al., 2019),
        arXiv:1901.11137, section 3.2.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import PeriodicConv2d
        >>> layer = PeriodicConv2d(3)
        >>> y, ladj = layer.forward_and_ladj(torch.ones(5, 3, 8, 8))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3, 8, 8]), torch.Size([5]))
    """

    def __init__(self, channels: int, kernel_size: int = 3, *, seed: int | None = None) -> None:
        super().__init__(channels)
        self.kernel_size = positive_int("PeriodicConv2d", "kernel_size", kernel_size)
        weight = torch.zeros(channels, channels, kernel_size, kernel_size)
        weight[:, :, self._before, self._before] = PlainWeight(seed).initial(channels)["weight"]
        self.weight = nn.Parameter(weight)

    @property
    def _before(self) -> int:
        """Rows and columns that the kernel reads before a pixel; as many after, or one more."""
        return (self.kernel_size - 1) // 2

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data."""
        rows, batch = self._rows(x, context, "x")
        weight = widen(self.weight)
        with without_autocast(x):
            log_det = _total(self._factors(weight, rows), rows)
            y = conv2d(self._continued(widen(rows)), weight)
        return as_pass(narrow(y, x.dtype), log_det, batch)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base."""
        rows, batch = self._rows(y, context, "y")
        with without_autocast(y):
            factors = self._factors(widen(self.weight), rows)
            if not len(rows):  # which torch's transforms refuse
                return as_pass(rows, -_total(factors, rows), batch)
            spectrum = torch.fft.rfft2(widen(rows)).permute(2, 3, 1, 0)  # (H, W', C, N)
            solved = factors.solve(spectrum).permute(3, 2, 0, 1)
            x = torch.fft.irfft2(solved, s=rows.shape[-2:])
            x = x.roll((-self._before, -self._before), (-2, -1))
        return as_pass(narrow(x, y.dtype), -_total(factors, rows), batch)

    def _factors(self, weight: Tensor, rows: Tensor) -> Factors:
        """Factors of Ŵ, ``(H, W // 2 + 1, C, C)``, as if the kernel read no pixel before its own.

        That differs by a phase for each frequency, which no determinant's size sees, and by the
        roll of x. A kernel reads what lies ahead, which is the conjugate of its transform.
        """
        transform = torch.fft.rfft2(weight, s=rows.shape[-2:]).conj().permute(2, 3, 0, 1)
        remedy = "Train with a smaller step, or take EmergingConv2d, which is never singular."
        return factorize("PeriodicConv2d", "a weight with a frequency", transform, remedy)

    def _continued(self, rows: Tensor) -> Tensor:
        """Images with the margins that the kernel reads beyond their edges."""
        before, after = self._before, self.kernel_size - 1 - self._before
        height, width = rows.shape[-2:]
        rows = torch.cat([rows[..., height - before :, :], rows, rows[..., :after, :]], -2)
        return torch.cat([rows[..., width - before :], rows, rows[..., :after]], -1)

    def _check_image(self, shape: torch.Size, name: str) -> torch.Size:
        super()._check_image(shape, name)
        if min(shape[-2:]) < self.kernel_size:
            raise ValueError(
                f"PeriodicConv2d(kernel_size={self.kernel_size}) got {name} of {shape[-2]}×"
                f"{shape[-1]} pixels, which the kernel exceeds. Pass a kernel_size of "
                f"{min(shape[-2:])} or less."
            )
        return shape

    def extra_repr(self) -> str:
        """The sizes, for ``repr``."""
        return f"channels={self.channels}, kernel_size={self.kernel_size}"


def _total(factors: Factors, rows: Tensor) -> Tensor:
    """The sum of log|det Ŵ| over all frequencies, of which half are conjugate to others."""
    columns = torch.arange(factors.log_det.shape[-1], device=rows.device)
    alone = 2 * columns % rows.shape[-1] == 0  # conjugate to a frequency of the same column
    return torch.where(alone, factors.log_det, 2 * factors.log_det).sum()
