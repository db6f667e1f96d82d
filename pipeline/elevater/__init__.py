"""How do the 20 data sets of ELEVATER, SupMAE's few-shot benchmark, become .beton files?
`python -m pipeline.elevater SET FOLDER OUT`

May import `convert`, `labels`, `sources` and `store`. Read `catalogue.py` first, the facts of each set.
"""
