"""Export a trained run.  python -m models.export RUN --to timm | safetensors | onnx | hf-vitmae | adapter

With --out FOLDER the files go there, with --push OWNER/NAME to the Hugging Face hub.
"""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from models.export.export_format import CheckResult, ExportFormat
from models.export.hub import Hub, Target, announcement, outgoing
from models.export.model_card import agreement, front_matter, local_paths, model_card
from models.export.to_adapter import ToAdapter
from models.export.to_onnx import ToOnnx
from models.export.to_safetensors import ToSafetensors
from models.export.to_timm import ToTimm
from models.export.to_vitmae import ToViTMAE
from models.load import Loaded
from models.pretrained.judged import load_judged
from pipeline.errors import InputError, command
from pipeline.flags import parse
from pipeline.store.atomic_write import check_writable, write_whole

FORMATS: dict[str, type[ExportFormat]] = {
    "timm": ToTimm, "safetensors": ToSafetensors, "onnx": ToOnnx, "hf-vitmae": ToViTMAE,
    "adapter": ToAdapter,
}  # fmt: skip
FILES = {
    "timm": ("config.json", "model.safetensors"), "safetensors": ("model.safetensors",), "onnx": ("model.onnx",),
    "hf-vitmae": ("config.json", "model.safetensors"), "adapter": ("adapter.json", "adapter.safetensors"),
}  # fmt: skip
USE = {
    "timm": 'import timm\nmodel = timm.create_model("local-dir:{folder}", pretrained=True).eval()',
    "safetensors": 'from safetensors.torch import load_file\ntensors = load_file("{folder}/model.safetensors")',
    "onnx": 'import onnxruntime\nsession = onnxruntime.InferenceSession("{folder}/model.onnx")\n'
            'scores, = session.run(None, {{"images": images}})  # u8 [N, 3, H, W], 0..255; normalised inside',
    "hf-vitmae": 'import transformers\nmodel = transformers.ViTMAEForPreTraining.from_pretrained("{folder}")',
    "adapter": "from pathlib import Path\n"
               "from models.pretrained.adapter import load_adapter  # in a checkout of Shotcrete\n"
               'method = load_adapter(Path("{folder}")).method',
}  # fmt: skip


FROM_HUB = {
    "timm": 'import timm\nmodel = timm.create_model("hf-hub:{repo}", pretrained=True).eval()',
    "safetensors": "from huggingface_hub import hf_hub_download\nfrom safetensors.torch import load_file\n"
                   'tensors = load_file(hf_hub_download("{repo}", "model.safetensors"))',
    "onnx": "import onnxruntime\nfrom huggingface_hub import hf_hub_download\n"
            'session = onnxruntime.InferenceSession(hf_hub_download("{repo}", "model.onnx"))\n'
            'scores, = session.run(None, {{"images": images}})  # u8 [N, 3, H, W], 0..255; normalised inside',
    "hf-vitmae": 'import transformers\nmodel = transformers.ViTMAEForPreTraining.from_pretrained("{repo}")',
    "adapter": "from pathlib import Path\nfrom huggingface_hub import snapshot_download\n"
               "from models.pretrained.adapter import load_adapter  # in a checkout of Shotcrete\n"
               'method = load_adapter(Path(snapshot_download("{repo}"))).method',
}  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """Write the weights of a run (its moving average where it keeps one) in another library's format."""

    run: Positional[Path]
    """A run folder, or one of its checkpoints; or with `recipe` released weights."""
    to: Literal["timm", "safetensors", "onnx", "hf-vitmae", "adapter"] = "timm"
    """adapter: what encoder.adapt has trained, without the frozen weights, which are read from run.start again."""
    out: Path | None = None
    """Folder to make; <run>/export-<format> when absent. Must not be there yet, except with --push."""
    recipe: str | None = None
    """Of released weights (what run.start takes): the recipe whose image size they get, with its flags in one string,
    as they follow train.py."""
    push: str | None = None
    """Repository OWNER/NAME of the Hugging Face hub that gets the files and the model card, in one commit. Kept here
    only with --out; an --out that is there is sent as it is (with an edited card, say), if it is this run."""
    dry_run: bool = False
    """With --push: show the files, their sizes, the repository and who can see it. The hub is not asked."""
    private: bool = False
    """With --push: a new repository is seen by its owners only. Without: by everyone."""
    replace: bool = False
    """With --push: commit a new revision to a repository that holds other files. Its history keeps those of the same
    names; files of other names stay."""


def main() -> None:
    """Export, and push where asked.

    Raises InputError for a folder that exists, for flags that need --push, and where the copy's outputs differ by more
    than its tolerance; then no folder remains.
    """
    a = parse(Arguments, prog="python -m models.export")
    if a.push is not None:
        return push(a, a.push)
    if needless := [name for name in ("dry_run", "private", "replace") if getattr(a, name)]:
        raise InputError(f"--{needless[0].replace('_', '-')} says how to send the files; add --push OWNER/NAME")
    loaded = load_judged(str(a.run), a.recipe)
    if loaded.note:
        print(loaded.note)
    folder = a.out or loaded.path.parent / f"export-{a.to}"
    use = USE[a.to].format(folder=folder)
    checked = export(loaded, a.to, folder, lambda checked: model_card(loaded, a.to, checked, use))
    print(f"{folder}: {agreement(checked)}\n{use}")


def export(loaded: Loaded, to: str, folder: Path, card: Callable[[CheckResult], str]) -> CheckResult:
    """Write the files into a partial folder, load and compare them, then rename the folder."""
    if folder.exists():
        raise InputError(f"{folder} is there already; remove it, or choose another --out")
    if not folder.parent.is_dir():
        raise InputError(f"--out {folder}: expected an existing folder around it, {folder.parent} is none")
    check_writable(folder)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        FORMATS[to]().write(loaded, partial)
        checked = same_model(loaded, to, partial, "nothing was written")
        write_whole(partial / "README.md", card(checked))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return checked


def same_model(loaded: Loaded, to: str, folder: Path, otherwise: str) -> CheckResult:
    """Compare a folder's model with the run. Raises InputError, which ends with `otherwise`, for another model."""
    written = FORMATS[to]()
    checked = written.check(loaded, folder)
    if checked.difference is not None and not checked.difference <= written.tolerance + checked.rounding:
        raise InputError(f"{to}: the copy is another model, {agreement(checked)}; {otherwise}")
    return checked


def push(a: Arguments, repo: str) -> None:
    """Send an export to the hub, or show what would be sent. What need not be kept is removed afterwards.

    Raises InputError and Unavailable as models.export.hub does; before the export is made where the hub can tell.
    """
    target = Target(repo, a.private, a.replace)
    hub = None if a.dry_run else Hub(target)
    loaded, use = load_judged(str(a.run), a.recipe), FROM_HUB[a.to].format(repo=repo)
    if loaded.note:
        print(loaded.note)
    with ExitStack() as ends:
        folder = a.out or loaded.path.parent / f"export-{a.to}-to-push.partial"
        if a.out is not None and folder.is_dir():
            checked = existing(loaded, a.to, folder)
        else:
            if a.out is None:  # another push of this run may have been killed
                shutil.rmtree(folder, ignore_errors=True)
                ends.callback(shutil.rmtree, folder, ignore_errors=True)
            head = front_matter(loaded, a.to)
            checked = export(loaded, a.to, folder, lambda checked: head + model_card(loaded, a.to, checked, use))
        print(announcement(target, folder, None if hub is None else hub.private))
        print(f"{a.to}: {agreement(checked)}")
        if paths := local_paths(loaded.recipe):
            print(f"paths of this machine that the files name: {', '.join(paths)}")
        if hub is None:
            print("--dry-run: nothing was sent, and the hub was not asked whether the repository is there")
            return
        print(hub.send(folder, f"{loaded.recipe.name}, step {loaded.step}, for {a.to}"))
    print(use)


def existing(loaded: Loaded, to: str, folder: Path) -> CheckResult:
    """Check a folder that is to be sent as it is. Raises InputError if it is no export of this run, or has no card."""
    names = {path.as_posix() for path in outgoing(folder)}
    if lacking := {"README.md", *FILES[to]} - names:
        raise InputError(f"--out {folder} is there already and has no {min(lacking)}; remove it, or choose another")
    try:
        return same_model(loaded, to, folder, f"remove {folder}, or choose another --out")
    except (RuntimeError, KeyError, TypeError, OSError) as error:  # as the libraries refuse files of another model
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--out {folder} is there already and no {to} of this run ({reason}); remove it") from error


if __name__ == "__main__":
    command(main)
