"""Batches to train on and rows held out: split and shuffled by a generator of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, Subset

from pyro_nf.infer._inputs import Expected

Batch = tuple[Tensor, Tensor | None]

_DEFAULT_BATCH = 512
_MOST_ROWS = 4096  # at once, where the layers are initialised and rows held out are scored
_MOST_NUMBERS = 2**20  # of data at once there: images have many to a row


class TensorBatches:
    """Endless batches of rows that lie in memory, in a new order on every pass.

    The rest of a pass that fills no batch is dropped: the next pass has another order, so that no
    row is neglected.
    """

    def __init__(
        self, x: Tensor, context: Tensor | None, batch_size: int, generator: torch.Generator
    ) -> None:
        self.x, self.context, self.batch_size = x, context, batch_size
        self._generator = generator
        self._shuffle()

    def _shuffle(self) -> None:
        self._pass_state = self._generator.get_state()
        self._order = _permutation(len(self.x), self._generator).to(self.x.device)
        self._position = 0

    def next(self) -> Batch:
        """Returns the next batch."""
        if self._position + self.batch_size > len(self.x):
            self._shuffle()
        index = self._order[self._position : self._position + self.batch_size]
        self._position += self.batch_size
        return _take(self.x, self.context, index)

    def initial(self) -> Batch:
        """Returns rows for a data-dependent initialisation: a random few thousand."""
        return _take(self.x, self.context, self._order[: _rows_at_once(self.x.shape[1:])])

    @property
    def fingerprint(self) -> dict[str, int]:
        """What a checkpoint must agree on to be continued with these batches."""
        return {"rows": len(self.x), "batch_size": self.batch_size}

    def state_dict(self) -> dict[str, Any]:
        """Returns the place in the stream of batches."""
        return {"pass": self._pass_state, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a place in the stream of batches."""
        self._generator.set_state(state["pass"])
        self._shuffle()
        self._position = state["position"]


class LoaderBatches:
    """Endless batches from a ``DataLoader``, pass after pass.

    A place in the stream is the state of the random generators at the start of a pass and a number
    of batches: going back there reads these batches once more. The first pass checks all values.
    """

    def __init__(self, loader: DataLoader, expected: Expected) -> None:
        self._loader, self._expected = loader, expected
        self._passes = 0
        self._begin()

    def _begin(self) -> None:
        own = self._loader.generator
        self._passes += 1
        self._pass_state = {
            "global": torch.get_rng_state(),
            "own": None if own is None else own.get_state(),
        }
        self._batches = iter(self._loader)
        self._position = 0

    def next(self) -> Batch:
        """Returns the next batch."""
        try:
            batch = next(self._batches)
        except StopIteration:
            if self._position == 0:
                raise _no_batches(self._expected.owner) from None
            self._begin()
            return self.next()
        self._position += 1
        return self._convert(batch, check_values=self._passes == 1)

    def initial(self) -> Batch:
        """Returns rows for a data-dependent initialisation: one batch of a pass of its own."""
        global_state = torch.get_rng_state()
        own = self._loader.generator
        own_state = None if own is None else own.get_state()
        for batch in self._loader:
            torch.set_rng_state(global_state)
            if own is not None and own_state is not None:
                own.set_state(own_state)
            return self._convert(batch, check_values=True)
        raise _no_batches(self._expected.owner)

    def _convert(self, batch: Any, *, check_values: bool) -> Batch:
        name = "the DataLoader's batch"
        x, context = self._expected.unpack(batch, name)
        return self._expected.pair(x, context, name=name, check_values=check_values)

    @property
    def fingerprint(self) -> dict[str, int]:
        """What a checkpoint must agree on to be continued with these batches."""
        return {"batch_size": self._loader.batch_size or 0}

    def state_dict(self) -> dict[str, Any]:
        """Returns the place in the stream of batches."""
        return {"pass": self._pass_state, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a place in the stream of batches."""
        torch.set_rng_state(state["pass"]["global"])
        if self._loader.generator is not None:
            self._loader.generator.set_state(state["pass"]["own"])
        self._begin()
        for _ in range(state["position"]):
            next(self._batches)
        self._position = state["position"]


Batches = TensorBatches | LoaderBatches


@dataclass
class HeldOut:
    """Rows that are scored and never trained on; a loader's are checked when first read."""

    source: Batch | DataLoader
    expected: Expected
    checked: bool = False

    def batches(self) -> Iterator[Batch]:
        """Iterates over the rows once, in order."""
        if isinstance(self.source, DataLoader):
            for batch in self.source:
                name = "the held-out DataLoader's batch"
                x, context = self.expected.unpack(batch, name)
                yield self.expected.pair(x, context, name=name, check_values=not self.checked)
            self.checked = True
            return
        x, context = self.source
        at_once = _rows_at_once(x.shape[1:])
        for start in range(0, len(x), at_once):
            rows = slice(start, start + at_once)
            yield x[rows], None if context is None else context[rows]


def prepare(
    expected: Expected,
    data: Any,
    context: Any,
    *,
    validation: Any,
    batch_size: int | None,
    seed: int,
) -> tuple[Batches, HeldOut | None]:
    """Checks all data and returns the batches to train on and the rows held out, if any."""
    generator = torch.Generator("cpu").manual_seed(seed)
    owner = expected.owner
    fraction = _fraction(owner, validation)
    held_out = None if fraction is not None else _given(expected, validation)

    if isinstance(data, DataLoader):
        if context is not None or batch_size is not None:
            what = "context" if context is not None else "batch_size"
            raise ValueError(
                f"{owner} got {what} beside a DataLoader. Let the loader yield (x, context) "
                "in batches of its own."
            )
        if fraction:
            _check_splittable(owner, data, fraction)
            at_once = _rows_at_once(expected.event_shape)
            data, rest = _split_loader(data, fraction, generator, at_once)
            held_out = HeldOut(rest, expected)
        return LoaderBatches(data, expected), held_out

    x, rows = expected.pair(data, context)
    total = len(x)
    if fraction:
        order = _permutation(len(x), generator).to(x.device)
        count = _held_out_rows(len(x), fraction)
        held_out = HeldOut(_take(x, rows, order[:count]), expected)
        x, rows = _take(x, rows, order[count:])
    if len(x) < 2:
        out = f", of which {total - len(x)} is held out for validation" if fraction else ""
        raise ValueError(
            f"{owner} got {total} row{'s' * (total != 1)}{out}. Pass at least two to train on."
        )
    if batch_size is not None and batch_size > len(x):
        raise ValueError(
            f"{owner} got batch_size={batch_size} and {len(x)} rows to train on. "
            f"Pass a batch_size of at most {len(x)}, or leave it away."
        )
    size = min(_DEFAULT_BATCH, len(x)) if batch_size is None else batch_size
    return TensorBatches(x, rows, size, generator), held_out


def _permutation(count: int, generator: torch.Generator) -> Tensor:
    # Torch would draw on its default device, which the user may have set to another one.
    return torch.randperm(count, generator=generator, device="cpu")


def _no_batches(owner: str) -> ValueError:
    return ValueError(
        f"{owner} got a DataLoader without batches. Give it rows, or drop_last=False."
    )


def _rows_at_once(event_shape: torch.Size) -> int:
    return min(_MOST_ROWS, max(2, _MOST_NUMBERS // max(1, event_shape.numel())))


def _take(x: Tensor, context: Tensor | None, index: Tensor) -> Batch:
    return x.index_select(0, index), None if context is None else context.index_select(0, index)


def _fraction(owner: str, validation: Any) -> float | None:
    """The fraction to hold out: 0.0 for nothing at all, None if rows are given instead."""
    if validation is None:
        return 0.0
    if isinstance(validation, bool):
        raise TypeError(
            f"{owner} got validation={validation}. Pass a fraction such as 0.1, held-out data, "
            "or None."
        )
    if not isinstance(validation, (int, float)):
        return None
    if not (math.isfinite(validation) and 0 <= validation < 1):
        raise ValueError(
            f"{owner} got validation={validation}. Pass a fraction in [0, 1) of the rows, "
            "or held-out data."
        )
    return float(validation)


def _given(expected: Expected, validation: Any) -> HeldOut:
    if isinstance(validation, DataLoader):
        return HeldOut(validation, expected)
    x, context = expected.unpack(validation, "validation")
    return HeldOut(expected.pair(x, context, name="validation"), expected)


def _held_out_rows(rows: int, fraction: float) -> int:
    return max(1, round(fraction * rows))


def _check_splittable(owner: str, loader: DataLoader, fraction: float) -> None:
    """Raises unless sampler and dataset leave no doubt how to hold rows out."""
    plain = isinstance(loader.sampler, (RandomSampler, SequentialSampler))
    if not plain or loader.batch_size is None:
        raise ValueError(
            f"{owner} cannot hold validation={fraction} of this DataLoader out: it has a sampler "
            "or a dataset of its own kind. Pass validation=held-out data, or validation=None."
        )


def _split_loader(
    loader: DataLoader,
    fraction: float,
    generator: torch.Generator,
    held_out_batch: int = _MOST_ROWS,
) -> tuple[DataLoader, DataLoader]:
    """Holds a fraction of the rows of the loader's dataset out, in batches of their own size."""
    order = _permutation(len(loader.dataset), generator).tolist()  # type: ignore[arg-type]
    count = _held_out_rows(len(order), fraction)
    common: dict[str, Any] = {
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "worker_init_fn": loader.worker_init_fn,
    }
    train = DataLoader(
        Subset(loader.dataset, sorted(order[count:])),
        batch_size=loader.batch_size,
        shuffle=isinstance(loader.sampler, RandomSampler),
        drop_last=loader.drop_last,
        generator=generator,
        **common,
    )
    rest = DataLoader(
        Subset(loader.dataset, sorted(order[:count])), batch_size=held_out_batch, **common
    )
    return train, rest
