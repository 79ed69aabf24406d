"""One file for each dump format."""
