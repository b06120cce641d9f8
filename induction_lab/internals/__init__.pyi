from .activations import (
    Activations as Activations,
)
from .activations import (
    capture as capture,
)
