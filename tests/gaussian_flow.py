"""A Gaussian with the interface of a flow, whose best fit is known, and rows to fit it to."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pyro.distributions as dist
import torch
from torch import nn


class GaussianFlow(nn.Module):
    """The interface of a flow around a Gaussian: mean (of the context) and log-scale are free."""

    def __init__(self, input_dim=2, context_dim=0, dropout=0.0):
        super().__init__()
        self.input_dim, self.context_dim = input_dim, context_dim
        self.event_shape = torch.Size([input_dim])
        self.mean = nn.Linear(max(context_dim, 1), input_dim)
        self.log_scale = nn.Parameter(torch.zeros(input_dim))
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("shift", torch.zeros(input_dim))
        self.register_buffer("initialized", torch.tensor(0))
        self.broken = False
        self.failure = None  # what a broken flow raises; None: its scores are NaN
        self._side_results = None

    def forward(self, context=None):
        if self.broken and self.failure is not None:
            raise self.failure
        features = self.shift.new_ones(1) if context is None else context
        loc = self.dropout(self.mean(features)) + self.shift
        scale = self.log_scale.exp() * (math.nan if self.broken else 1.0)
        if self._side_results is not None:
            self._side_results["size"] = (self.log_scale**2).sum().expand(3)
        return dist.Normal(loc, scale, validate_args=False).to_event(1)

    @torch.no_grad()
    def initialize(self, x, context=None):
        if not self.initialized:
            self.shift.copy_(x.mean(0))
            self.initialized.fill_(1)

    @contextmanager
    def auxiliary(self, names=None):
        self._side_results = {}
        try:
            yield self._side_results
        finally:
            self._side_results = None


def gaussian_rows():
    return torch.randn(400, 2, generator=torch.Generator().manual_seed(1)) * 2.0 + 3.0


def weights(flow):
    return {name: value.clone() for name, value in flow.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)
