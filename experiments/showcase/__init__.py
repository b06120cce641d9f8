"""Figures of the library at work."""
