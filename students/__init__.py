"""See `gps.types` for the shapes these functions share."""
