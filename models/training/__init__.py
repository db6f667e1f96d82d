"""What surrounds the loop: rates, averages, checkpoints, the journal and its report."""
