"""Export a trained run.  python -m models.export RUN --to timm | safetensors | onnx | hf-vitmae [--out FOLDER]"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from models.export.export_format import ExportFormat
from models.export.model_card import agreement, model_card
from models.export.to_onnx import ToOnnx
from models.export.to_safetensors import ToSafetensors
from models.export.to_timm import ToTimm
from models.export.to_vitmae import ToViTMAE
from models.load import load_run
from pipeline.errors import InputError, command
from pipeline.flags import parse
from pipeline.store.atomic_write import check_writable, write_whole

FORMATS: dict[str, type[ExportFormat]] = {
    "timm": ToTimm, "safetensors": ToSafetensors, "onnx": ToOnnx, "hf-vitmae": ToViTMAE,
}  # fmt: skip
USE = {
    "timm": 'import timm\nmodel = timm.create_model("local-dir:{folder}", pretrained=True).eval()',
    "safetensors": 'from safetensors.torch import load_file\ntensors = load_file("{folder}/model.safetensors")',
    "onnx": 'import onnxruntime\nsession = onnxruntime.InferenceSession("{folder}/model.onnx")\n'
            'scores, = session.run(None, {{"images": images}})  # u8 [N, 3, S, S], 0..255; normalised inside',
    "hf-vitmae": 'import transformers\nmodel = transformers.ViTMAEForPreTraining.from_pretrained("{folder}")',
}  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """Write the weights of a run (its moving average where it keeps one) in another library's format."""

    run: Positional[Path]
    """A run folder, or one of its checkpoints."""
    to: Literal["timm", "safetensors", "onnx", "hf-vitmae"] = "timm"
    out: Path | None = None
    """Folder to make; <run>/export-<format> when absent. Must not be there yet."""


def main() -> None:
    """Write the files into a partial folder, load and compare them, then rename the folder.

    Raises InputError for a folder that exists, and where the copy's outputs differ by more than its tolerance; then no
    folder remains.
    """
    a = parse(Arguments, prog="python -m models.export")
    loaded = load_run(a.run)
    folder = a.out or loaded.path.parent / f"export-{a.to}"
    if folder.exists():
        raise InputError(f"{folder} is there already; remove it, or choose another --out")
    if not folder.parent.is_dir():
        raise InputError(f"--out {folder}: expected an existing folder around it, {folder.parent} is none")
    check_writable(folder)
    partial, written = folder.with_name(f"{folder.name}.partial"), FORMATS[a.to]()
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        written.write(loaded, partial)
        checked = written.check(loaded, partial)
        if checked.difference is not None and not checked.difference <= written.tolerance + checked.rounding:
            raise InputError(f"{a.to}: the copy is another model, {agreement(checked)}; nothing was written")
        use = USE[a.to].format(folder=folder)
        write_whole(partial / "README.md", model_card(loaded, a.to, checked, use))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{folder}: {agreement(checked)}\n{use}")


if __name__ == "__main__":
    command(main)
