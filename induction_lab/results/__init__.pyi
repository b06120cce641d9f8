from .heads import (
    Head as Head,
)
from .heads import (
    parse_head as parse_head,
)
from .heads import (
    parse_heads as parse_heads,
)
