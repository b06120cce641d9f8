"""How and when induction heads form: Olsson et al. (2022), Singh et al. (2024), Edelman et al. (2024)."""
