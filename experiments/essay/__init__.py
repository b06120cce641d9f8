"""What the essay claims, a section at a time."""
