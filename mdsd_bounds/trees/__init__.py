"""Draft trees: builders, verification, bounds, speed, and running them on real models."""
