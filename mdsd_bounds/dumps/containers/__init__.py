"""Containers of arrays and text, read through file descriptors: what the bytes say, checked before memory is taken."""
