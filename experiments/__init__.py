"""Claims tested, figures drawn, costs measured: `python -m experiments` lists all, and runs one by its name."""
