from .heads import Head as Head, parse_head as parse_head, parse_heads as parse_heads
