from .by_hand import head_gallery as head_gallery, induction_circuit as induction_circuit
from .clamping import clamp_heads as clamp_heads
from .config import AttentionOnlyConfig as AttentionOnlyConfig
from .network import AttentionOnlyTransformer as AttentionOnlyTransformer
