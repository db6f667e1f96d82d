"""Which pseudo-labels are believed, and how much: one paper, one file."""
