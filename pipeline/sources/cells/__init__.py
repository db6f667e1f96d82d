"""What do the cells of a table mean? A text becomes rows (`delimited`), cells name files (`named_files`), columns get a
meaning (`columns`), and cells of the label column become classes (`label_cells`).

May import `sources.listing`, `sources.classes` and what these import. Read `columns.py` first.
"""
