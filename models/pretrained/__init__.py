"""From whose weights does a run start? From an earlier run's, an exported folder's, a released file's, or those of a
timm name on this machine.

    load_encoder(method, "vit_base_patch16_224.mae")

Names and shapes become timm's in `spellings.py` and `names.py`, what a format means is in `formats.py`, and the encoder
that a file holds is read in `architecture.py`, for encoder.name auto. Such a file is judged as a run is in `judged.py`;
a masked autoencoder is measured from a file alone, too (`masked_model.py`). May import `pipeline`, `load` and every
room of `models` that stands before it in `tests/test_layout.py`. Read `load_into.py` first.
"""

from models.pretrained.load_into import load_encoder

__all__ = ["load_encoder"]
