"""Find, explain and watch induction heads: the attention heads that copy in context.

Names are loaded when first used, so that importing the package costs nothing. Each package below answers one question:
its first line says which, and its `__init__.pyi` lists the public names that it gives.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
