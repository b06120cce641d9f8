"""Claims of A Mathematical Framework for Transformer Circuits (Elhage et al. 2021)."""
