"""A folder whose files are not of one run, or of which some are gone: the run goes on as it was, or says why not."""

import json
import shutil
from dataclasses import asdict, replace

import pytest

import train
from models.checkpoint import save_load
from models.config.resolve import named, resolve
from models.pretrained.as_begun import with_encoder
from models.records import metrics
from models.records.run_folder import BEST, LAST, RECIPE, folder_of
from pipeline.errors import InputError

NAME = "supervised:digits"


@pytest.fixture
def half(tiny, tmp_path):
    """A run that stopped at step 5 of 12, with a best.pt."""
    folder = tmp_path / "half"
    assert tiny(NAME, folder, "--run.stop-step=5", "--run.best=top1", "--run.evaluate-steps=2") == train.STOPPED
    return folder


BEGUN = "--run.best=top1", "--run.evaluate-steps=2"


def test_without_recipe_json_the_checkpoint_says_what_the_run_was(tiny, half):
    (half / RECIPE).unlink()
    with pytest.raises(InputError, match=r"was begun with optim.lr .*, now it is 0.05"):
        tiny(NAME, half, *BEGUN, "--optim.lr=5e-2")
    assert not (half / RECIPE).exists()
    assert tiny(NAME, half, *BEGUN) == train.DONE
    assert json.loads((half / RECIPE).read_text())["optim"]["lr"] == named(NAME).optim.lr


def test_without_a_journal_best_is_not_replaced_and_the_run_says_so(tiny, half, capsys):
    kept = (half / BEST).read_bytes()
    (half / metrics.FILE).unlink()
    with pytest.raises(InputError, match=f"{BEST} and no journal.*move {BEST} away"):
        tiny(NAME, half, *BEGUN)
    assert (half / BEST).read_bytes() == kept
    (half / BEST).unlink()
    assert tiny(NAME, half, *BEGUN) == train.DONE
    assert "a checkpoint and no journal: curves and report begin at step 5" in capsys.readouterr().out


def test_a_checkpoint_beyond_the_end_of_the_run_is_refused(tiny, half):
    saved = json.loads((half / RECIPE).read_text())
    saved["optim"]["epochs"] = 4.0
    (half / RECIPE).write_text(json.dumps(saved))
    with pytest.raises(InputError, match=r"last.pt is at step 5, and this run ends at 4"):
        tiny(NAME, half, *BEGUN, "--optim.epochs=4")


def test_a_checkpoint_of_another_network_is_refused_in_a_line(tiny, half, tmp_path):
    other = tmp_path / "other"
    assert tiny(NAME, other, *BEGUN, "--run.stop-step=3", "--encoder.depth=3") == train.STOPPED
    shutil.copy(other / LAST, half / LAST)
    with pytest.raises(InputError, match="is of another network than this run's") as refused:
        tiny(NAME, half, *BEGUN)
    assert "\n" not in str(refused.value)


def test_a_run_with_the_encoder_of_its_start_goes_on_without_the_start(tiny, half, tmp_path, digits):
    start, folder = tmp_path / "start", tmp_path / "tuned"
    shutil.copytree(half, start)
    size = [f"--encoder.{name}=None" for name in ("width", "depth", "heads")]
    flags = [f"--run.start={start}", "--encoder.name=auto", f"--data.root={digits}", *size]
    first = [*flags, "--optim.epochs=6", "--optim.warmup-epochs=1", f"--run.folder={folder}"]
    begun, _ = with_encoder(resolve("finetune:digits", first))
    folder.mkdir()
    (folder / RECIPE).write_text(json.dumps(train_recipe(begun)))
    start.rename(tmp_path / "moved")
    again, line = with_encoder(resolve("finetune:digits", first))
    assert again == begun
    assert "cannot be read any more" in line
    with pytest.raises(InputError, match="cannot read checkpoint"):
        with_encoder(resolve("finetune:digits", [*first, f"--run.start={tmp_path}/never"]))
    dropped, _ = with_encoder(resolve("finetune:digits", [*first, "--encoder.drop-path=0.3"]))
    assert dropped.encoder == replace(begun.encoder, drop_path=0.3)


def train_recipe(recipe) -> dict:
    return json.loads(json.dumps(asdict(recipe)))


def test_a_folder_is_what_the_shell_would_have_made_of_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_of(resolve(NAME, ["--run.folder=~/runs/a"])) == tmp_path / "runs" / "a"
    with pytest.raises(InputError, match=r"run.folder is empty"):
        resolve(NAME, ["--run.folder", ""])


def test_a_run_ends_at_its_last_step_also_where_it_is_there_already(tiny, half):
    assert tiny(NAME, half, *BEGUN) == train.DONE
    (half / "report.html").unlink()
    assert save_load.load(half / LAST)["step"] == 12
    assert tiny(NAME, half, *BEGUN) == train.DONE
