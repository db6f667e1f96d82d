"""How do images become tokens? A plain or rotary ViT of timm whose blocks take groups of images as one packed
matrix; or any other classifier of timm, on whole images (`timm_classifier.py`).

May import `config`. Read `vit.py` first.
"""
