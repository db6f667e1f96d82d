"""What does the network see where every pixel has a class? Image files and their masks, checked, cut, and in batches.

Such sets are small and their networks slow, so the loader is not the wall: files stay as they are, and torchvision's
functions on tv_tensors cut them. May import `pipeline` up to `sampling`. Read `files.py` first, then `cut.py`; boxes
of a detection set would be one more tv_tensor beside the mask.
"""
