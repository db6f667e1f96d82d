"""What do the images of a data set look like? Their views, and the labels that they carry, as one picture.
`python -m pipeline.preview DATA` and `python -m pipeline.preview DATA --labels`

May import every room but `evaluation` and `bench`. Read `views.py` first.
"""
