"""Published verification schemes, one a file."""
