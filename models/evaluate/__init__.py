"""What only measures: one evaluator, one file."""
