from .attention_only import (
    AttentionOnlyConfig as AttentionOnlyConfig,
)
from .attention_only import (
    AttentionOnlyTransformer as AttentionOnlyTransformer,
)
from .attention_only import (
    clamp_heads as clamp_heads,
)
from .attention_only import (
    head_gallery as head_gallery,
)
from .attention_only import (
    induction_circuit as induction_circuit,
)
from .hooked_model import (
    HookedModel as HookedModel,
)
from .loading import (
    load_model as load_model,
)
