"""How is an image predicted from a part of it? Masked-image objectives (MAE, SimMIM, LoMaR, CrossMAE), their decoders
and their targets.

May import `config`, `encoder` and `losses`. Read `branch.py` first.
"""
