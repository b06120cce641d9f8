"""The small model of this project: attention layers on a residual stream, with MLPs where asked for."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
