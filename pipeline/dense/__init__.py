"""What does the network see where every pixel has a class, or every object a box? Image files and what is known of
them, checked, cut, and in batches.

Such sets are small and their networks slow, so the loader is not the wall: files stay as they are, and torchvision's
functions on tv_tensors cut them. May import `pipeline` up to `train_data`. Read `pixels.py` and `cut.py` first, for
masks of classes; then `boxes.py` and `cut_boxes.py`, for objects.
"""
