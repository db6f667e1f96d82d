"""How does a trained run reach other libraries? This room writes its weights in their formats, loads the files there,
and compares the outputs. One format is one file: timm, safetensors, ONNX, Hugging Face's ViTMAE; and this trainer's
own, an adapter.

    python -m models.export runs/semi_mae-digits --to timm

May import `pipeline`, and every room of `models` that stands before `export` in `tests/test_layout.py`: not
`training`. Read `export_format.py` first.
"""
