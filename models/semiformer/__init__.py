"""Semiformer: a vision transformer and a convolutional network, coupled stage by stage (Weng et al. 2022).

May import `encoder`, `masked` and `config`. Read `model.py` first.
"""
