"""One paper, one file: the objective on top, its recipes underneath."""
