"""A layer's attention weights by head, in row convention: `x @ W`."""

from __future__ import annotations

from induction_lab.models.anatomy import HeadWeights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.on_disk.offloading import let_go


def head_weights(model: HookedModel, layer: int) -> HeadWeights:
    """One layer's weights as the forward pass uses them, without those of other layers.

    Raises:
        ValueError: If this architecture's projections are not linear maps of the normalised stream.
    """
    weights = model.anatomy.head_weights(layer)
    let_go(model.network)
    return weights
