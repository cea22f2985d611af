"""Networks that make the parameters of a flow: features lead, the batch follows."""

from __future__ import annotations

from pyro_nf.nn._products import use_matrix_products
from pyro_nf.nn.block import BlockMLP
from pyro_nf.nn.convex import ConvexMLP
from pyro_nf.nn.field import Field
from pyro_nf.nn.field_conv import FieldConv
from pyro_nf.nn.field_mlp import FieldMLP
from pyro_nf.nn.lipschitz import LipschitzMLP
from pyro_nf.nn.masked import MaskedMLP
from pyro_nf.nn.mlp import MLP
from pyro_nf.nn.potential import PotentialField

__all__ = [
    "MLP",
    "BlockMLP",
    "ConvexMLP",
    "Field",
    "FieldConv",
    "FieldMLP",
    "LipschitzMLP",
    "MaskedMLP",
    "PotentialField",
    "use_matrix_products",
]
