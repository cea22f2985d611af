"""The parts of :mod:`benchmarks.peers`."""
