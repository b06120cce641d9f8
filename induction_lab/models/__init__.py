"""What is a model here? One handle for any network: its parts, weights by head, norms, where it comes from."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
