"""What is computed, learned, kept and measured."""
