"""The line that says where numbers were measured."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch

import pyro_nf


def describe() -> str:
    """Names processor, threads and versions."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        processor = names[0] if names else processor
    except OSError:
        pass
    packages = (
        f"pyro_nf {pyro_nf.__version__}, torch {version('torch')}, Pyro {version('pyro-ppl')}"
    )
    return (
        f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s); "
        f"Python {platform.python_version()}, {packages}"
    )
