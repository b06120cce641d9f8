"""Commands that train small models, follow training, and measure many models."""
