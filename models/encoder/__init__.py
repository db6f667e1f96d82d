"""How do images become tokens? A plain or rotary ViT of timm whose blocks take groups of images as one packed
matrix.

May import `config`. Read `vit.py` first.
"""
