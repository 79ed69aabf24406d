"""Plumbing that every room uses: memory, threads, files, compiled softmax.  Nothing here is public."""
