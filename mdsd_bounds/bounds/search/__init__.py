"""Searches for the minimising subset: the prefix scan, the compiled search, the torch search, independent drafts."""
