"""Export format ONNX: a graph from u8 images to class scores (or features), normalisation included.

Of a run of segmentation the graph is of one window: u8 [N, 3, H, W] to scores of each pixel [N, classes, H, W].
Runs of detection are not held: how many objects their heads find differs from image to image.
"""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, final

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.lora import merged
from models.encoder.vit import eval_logits, normalisation_of
from models.export.export_format import CheckResult, ExportFormat, images_like, relative
from models.export.segmenter import Segmenter
from models.export.unpacked_encoder import UnpackedEncoder
from models.load import Loaded
from models.methods.detect import Detect
from models.methods.segment import Segment
from pipeline.errors import InputError


@final
class Scores(nn.Module):
    """Images u8 [N, 3, H, W] -> class scores f32 [N, classes] (features where the network has no classifier)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        normalisation = normalisation_of(network)
        self.network = UnpackedEncoder(network) if relative(network) else network
        for name in ("mean", "std"):
            values = torch.tensor(getattr(normalisation, name))
            self.register_buffer(name, values.view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        found = self.network((images.float() / 255 - self.mean) / self.std)
        return found if isinstance(found, Tensor) else sum(found)  # a Semiformer's two heads, as its run evaluates


def network(loaded: Loaded) -> nn.Module:
    """The network that is exported, on the CPU: encoder and classifier, or of segmentation encoder and decoder."""
    method = loaded.method.cpu().float()
    return Segmenter(method) if isinstance(method, Segment) else Scores(merged(method.eval_encoder))


@final
class ToOnnx(ExportFormat):
    """model.onnx, any batch size; checked with onnxruntime where it is installed."""

    tolerance: ClassVar[float] = 1e-4

    def write(self, loaded: Loaded, folder: Path) -> None:
        if not (find_spec("onnx") and find_spec("onnxscript")):
            raise InputError("ONNX needs two more packages; run uv pip install onnx onnxscript (and onnxruntime)")
        if isinstance(loaded.method, Detect):
            raise InputError("onnx holds no runs of detection; use --to safetensors for the encoder of this one")
        images = images_like(loaded, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about its own code
            torch.onnx.export(
                network(loaded).eval(),
                (images,),
                folder / "model.onnx",
                input_names=["images"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("images", min=1)},),
                external_data=False,
                verbose=False,
            )

    def check(self, loaded: Loaded, folder: Path) -> CheckResult:
        if not find_spec("onnxruntime"):
            return CheckResult(None, "onnxruntime is not installed")
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        images = images_like(loaded, 5)
        (theirs,) = session.run(None, {"images": images.numpy()})
        with torch.inference_mode():
            method = loaded.method.cpu().float()
            encoder = method.eval_encoder
            if isinstance(method, Segment):
                ours = method.scores(images)
            else:
                ours = eval_logits(encoder, images) if isinstance(encoder, VisionTransformer) else method.logits(images)
        return CheckResult(
            float((ours - torch.from_numpy(theirs)).abs().max()), f"onnxruntime {onnxruntime.__version__}"
        )
