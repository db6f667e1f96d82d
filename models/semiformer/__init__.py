"""What is a Semiformer? A vision transformer and a convolutional network, coupled stage by stage (Weng et al. 2022).

May import `config`, `encoder` and `masked`. Read `model.py` first.
"""
