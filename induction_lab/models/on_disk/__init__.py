"""Networks whose weights stay in their files."""
