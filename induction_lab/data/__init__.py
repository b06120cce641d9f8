"""What do models read? Prompts, occurrences of tokens in them, training streams, corpora."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
