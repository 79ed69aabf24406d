"""mdsd_bounds."""
