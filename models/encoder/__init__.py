"""How do images become tokens? A plain timm VisionTransformer whose blocks take groups of images as one packed matrix.

May import `config`. Read `vit.py` first.
"""
