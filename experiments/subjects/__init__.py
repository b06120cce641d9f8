"""What is experimented on: small models trained here, and runs of training."""
