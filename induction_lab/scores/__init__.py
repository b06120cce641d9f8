"""Where does each head look, and what does it write? One number a head, with its error and what chance gives."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
