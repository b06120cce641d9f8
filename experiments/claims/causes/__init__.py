"""What heads cause: Olsson et al. (2022), Wang et al. (2022), Ji-An et al. (2024)."""
