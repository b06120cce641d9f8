"""What the papers claim."""
