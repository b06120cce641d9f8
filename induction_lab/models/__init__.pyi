from .attention_only import (
    AttentionOnlyConfig as AttentionOnlyConfig,
    AttentionOnlyTransformer as AttentionOnlyTransformer,
    clamp_heads as clamp_heads,
    head_gallery as head_gallery,
    induction_circuit as induction_circuit,
)
from .hooked_model import HookedModel as HookedModel
from .loading import load_hooked_transformer as load_hooked_transformer, load_model as load_model
