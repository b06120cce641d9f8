"""A layer's attention weights by head, in row convention: `x @ W`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from induction_lab.models.anatomy import HeadWeights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.on_disk.offloading import let_go


def output_weight(model: HookedModel, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """`W_O` of one layer as the forward pass uses it; also where no matrix makes queries, keys and values (latents).

    Raises:
        ValueError: If what heads put out is not projected by one matrix.
    """
    weight, _ = model.anatomy.projection(layer, "o")
    let_go(model.network)
    return weight


def head_weights(model: HookedModel, layer: int) -> HeadWeights:
    """One layer's weights as the forward pass uses them, without those of other layers.

    Raises:
        ValueError: If this architecture's projections are not linear maps of the normalised stream.
    """
    weights = model.anatomy.head_weights(layer)
    let_go(model.network)
    return weights
