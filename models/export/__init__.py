"""How does a trained run reach other libraries? One form is one file: timm, safetensors, ONNX, Hugging Face's ViTMAE.

May import `load`, `encoder`, `masked`, `reporting` and `evaluate`. Read `base.py` first.
"""
