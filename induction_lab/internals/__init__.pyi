from .activations import Activations as Activations, capture as capture
