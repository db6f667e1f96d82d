"""Which images should be labelled next? Typical images of clusters without a label, then uncertain ones; the images to
choose from, and a picture of those that were chosen. `python -m models.predict RUN IMAGES... --next 20`

May import `pipeline`, and every room of `models` that stands before `active` in `tests/test_layout.py`. Read
`next_labels.py` first.
"""
