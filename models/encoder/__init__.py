"""How do images become tokens? A plain timm VisionTransformer whose blocks take groups of images packed into one matrix.

Imports `pipeline` only. Read `vit.py` first.
"""
