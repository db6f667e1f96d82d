"""One view or mask, one file."""
