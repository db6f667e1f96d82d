"""What do people have? Folders, tables and data set objects become a `Source` of images and labels; one lister and one
reader serve `convert` and `predict`. What has several readings is refused with the flags to
choose one (`reading.py`).

May import `store` and `backends.libffcv`, the decoder that training uses. Read `find.py` first.
"""
