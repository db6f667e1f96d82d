"""What the network sees: images on disk to a Batch of weak, strong and masked views."""
