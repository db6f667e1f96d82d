"""What a masked branch predicts, one small file each."""
