"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks._peers.architecture import Spec
from benchmarks._peers.images_architecture import ImageSpec

OURS, MISSING = "pyro_nf", "—"
BEYOND = ("flowjax", "floor", "products")  # not torch peers


@dataclass
class Row:
    """One operation of one architecture.

    Attributes:
        spec: The architecture.
        operation: What was timed.
        ms: Median milliseconds by library.
        parameters: Trained numbers by library.
        parity: What the comparison with our density gave, by library.
    """

    spec: Spec | ImageSpec
    operation: str
    ms: dict[str, float]
    parameters: dict[str, int] = field(default_factory=dict)
    parity: dict[str, str] = field(default_factory=dict)

    @property
    def best_peer(self) -> str | None:
        """The fastest other library in torch."""
        peers = [name for name in self.ms if not name.startswith(OURS) and name not in BEYOND]
        return min(peers, key=self.ms.__getitem__, default=None)

    def ratio(self, library: str = OURS) -> float | None:
        """A library's time over that of the fastest torch peer; below 1 is faster."""
        if self.best_peer is None or library not in self.ms:
            return None
        return self.ms[library] / self.ms[self.best_peer]


def columns(rows: Sequence[Row]) -> list[str]:
    """The libraries that occur, ours first, floors last."""
    seen = list(dict.fromkeys(name for row in rows for name in row.ms))
    last = [name for name in BEYOND if name in seen]
    first = [name for name in seen if name.startswith(OURS) and name != OURS]
    peers = [name for name in seen if not name.startswith(OURS) and name not in last]
    return [*first, *peers, *last]


def markdown(rows: Sequence[Row]) -> str:
    """Creates one table; milliseconds, and ours over the best torch peer."""
    others = columns(rows)
    head = ["family", "D", "H", "B", "operation", "parameters", f"{OURS}, ms"]
    head += ["ratio", "best torch peer", *(f"{name}, ms" for name in others)]
    lines = [_line(head), "|" + "---|" * len(head)]
    return "\n".join(lines + [_line(_cells(row, others)) for row in rows])


def _cells(row: Row, others: Sequence[str]) -> list[str]:
    spec, ratio = row.spec, row.ratio()
    return [
        spec.family,
        str(spec.dim),
        MISSING if spec.hidden is None else str(spec.hidden),
        str(spec.batch),
        row.operation,
        str(row.parameters.get(OURS, MISSING)),
        _ms(row, OURS),
        MISSING if ratio is None else f"{ratio:.2f}",
        row.best_peer or MISSING,
        *(_ms(row, name) for name in others),
    ]


def _ms(row: Row, library: str) -> str:
    value = row.ms.get(library)
    return MISSING if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def memory_markdown(mib: dict[str, float]) -> str:
    """Creates the table of what a continuous layer's training step adds to memory."""
    lines = ["| cnf, D = 43, B = 1024 | a training step adds, MiB |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {value:.0f} |" for name, value in mib.items()])


def notes(rows: Sequence[Row]) -> list[str]:
    """Says where weights are not shared, parity failed or the numbers of weights differ."""
    found: dict[str, None] = {}
    for row in rows:
        ours = row.parameters.get(OURS)
        for name, words in row.parity.items():
            if words and not words.startswith("parity: "):
                found[f"{row.spec.family} D={row.spec.dim}, {name}: {words}."] = None
        for name, count in row.parameters.items():
            if ours and name not in BEYOND[1:] and count != ours:
                where = f"{row.spec.family} D={row.spec.dim}, {name}"
                found[f"{where}: {count} parameters, {OURS} {ours}."] = None
    return list(found)
