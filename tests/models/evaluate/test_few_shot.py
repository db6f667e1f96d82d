"""python -m models.evaluate few_shot: of any run, on one or several sets, in both ways and by both protocols."""

import re
import sys

import pytest
from PIL import Image

from models.checkpoint import save_load
from models.evaluate import __main__ as evaluate
from models.evaluate.evaluation_log import read_evaluations
from pipeline.convert.conversion import Options, convert
from pipeline.elevater.prepare import prepare
from pipeline.errors import InputError
from tests.toy_elevater import toy, write_archive

QUICK = ["--shots", 2, "--seeds", 1, "--data.threads", 1]
TUNING = ["--mode", "finetune", "--tuning.epochs", 2, "--tuning.warmup-epochs", 0]


@pytest.fixture
def asked(monkeypatch):
    def run(folder, *argv: object) -> dict[str, float]:
        monkeypatch.setattr(sys, "argv", ["models.evaluate", "few_shot", str(folder), *map(str, argv)])
        evaluate.main()
        return read_evaluations(folder)[-1]["values"]

    return run


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Two colours that any network tells apart, in different shades."""
    folder = tmp_path_factory.mktemp("colours")
    for file, first in (("train", 0), ("test", 4)):
        for name, colour in (("red", (255, 20, 0)), ("blue", (0, 20, 255))):
            (folder / file / name).mkdir(parents=True)
            for i in range(first, first + 4):
                Image.new("RGB", (16, 16), tuple(max(0, c - 4 * i) for c in colour)).save(
                    folder / file / name / f"{i}.png"
                )
        convert(folder / file, folder / f"{file}.beton", Options(side=None))
    return folder


@pytest.mark.parametrize("recipe", ["mae:digits", "supervised:digits", "supmae:digits"])
def test_any_run_is_probed_on_its_own_data(recipe, trained, asked, digits, capsys):
    values = asked(trained(recipe), "--shots", 2, "--seeds", 2)
    assert values.keys() == {f"{digits.name}_2shot_mean", f"{digits.name}_2shot_std"}
    assert 0.05 < values[f"{digits.name}_2shot_mean"] < 1
    assert "2shot_mean" in capsys.readouterr().out
    page = (trained(recipe) / "evaluate-few_shot.html").read_text()
    assert "test was evaluated once" in page
    assert "10 classes, 300 test images" in page


def test_a_suite_of_other_classes_than_the_runs_and_the_mean_over_it(trained, asked, digits, colours):
    suite = ["--suite", f"digits={digits}", f"colours={colours}", "--per-class", "colours"]
    values = asked(trained("supervised:digits"), *suite, *QUICK)
    assert values["colours_2shot_mean"] == 1.0
    assert values["all_2shot_mean"] == pytest.approx((1 + values["digits_2shot_mean"]) / 2)
    page = (trained("supervised:digits") / "evaluate-few_shot.html").read_text()
    assert re.search(r"<td>colours</td>\s*<td>per class</td>\s*<td>100.0 %</td>", page)


def test_of_too_small_classes_all_images_are_used_and_the_page_has_a_remark(trained, asked, colours):
    asked(trained("mae:digits"), "--data.root", colours, "--shots", 3, 20, "--seeds", 1)
    page = (trained("mae:digits") / "evaluate-few_shot.html").read_text()
    assert "fewer than 20 images in 2 classes, of which all are used: blue, red" in page
    assert "fewer than 3" not in page


def test_fine_tuning_selects_its_rate_and_leaves_the_run_as_it_was(trained, asked, colours):
    folder = trained("mae:digits")
    before = save_load.load(folder / "last.pt")["method"]
    values = asked(folder, "--suite", f"c={colours}", *QUICK, *TUNING, "--tuning.rates", 1e-5, 1e-3)
    assert values.keys() == {"c_2shot_mean"}
    after = save_load.load(folder / "last.pt")["method"]
    assert all(before[name].equal(after[name]) for name in before)
    page = (folder / "evaluate-few_shot.html").read_text()
    assert "Fine-tuning of" in page
    assert re.search("lr (1e-05|0.001)", page)


@pytest.mark.parametrize("mode", ["linear", "finetune"])
def test_elevaters_page_says_that_test_selected(mode, trained, asked, colours, monkeypatch):
    for name, value in {"RATES": [1e-2], "EPOCHS": 2, "MORE_EPOCHS": 2}.items():
        monkeypatch.setattr(f"models.evaluate.few_shot_protocols.elevater.{name}", value)
    folder = trained("mae:digits")
    values = asked(folder, "--suite", f"c={colours}", *QUICK, "--protocol", "elevater", "--mode", mode)
    assert values["c_2shot_mean"] >= 0.5
    page = (folder / "evaluate-few_shot.html").read_text()
    assert "selected ON TEST" in page
    assert re.search(r"lr 0.01, l2 [\d.e+-]+, epoch [1-4]<", page)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """Toy copies of three sets of ELEVATER, whose colours any network tells apart."""
    folder = tmp_path_factory.mktemp("elevater")
    for name, classes in (("voc-2007-classification", 3), ("hateful-memes", 2), ("caltech-101", 3)):
        facts = toy(name, classes, each=8)
        write_archive(facts, folder / "archive")
        prepare(facts, folder / "archive", folder / "sets" / name, Options(max_bad=0, workers=1))
    return folder / "sets"


@pytest.mark.parametrize(("mode", "protocol"), [
    ("linear", "held_out"), ("linear", "elevater"), ("finetune", "held_out"), ("finetune", "elevater"),
])  # fmt: skip
def test_elevaters_sets_are_one_command_each_by_its_metric(mode, protocol, trained, asked, benchmark, monkeypatch):
    for name, value in {"RATES": [1e-2], "EPOCHS": 2, "MORE_EPOCHS": 2}.items():
        monkeypatch.setattr(f"models.evaluate.few_shot_protocols.elevater.{name}", value)
    for module in ("elevater", "held_out"):  # one penalty of 97: the search has its own tests
        monkeypatch.setattr(f"models.evaluate.few_shot_protocols.{module}.search", lambda score, **_: (56, score(56)))
    folder, flags = trained("mae:digits"), ["--mode", mode, "--protocol", protocol, "--shots", 5, "--seeds", 1]
    flags += [*TUNING[2:], "--tuning.rates", 1e-3] if mode == "finetune" else []
    values = asked(folder, "--suite", f"elevater={benchmark}", *flags, "--data.threads", 1)
    assert [name.rsplit("_", 2)[0] for name in values] == [
        "caltech-101",
        "hateful-memes",
        "voc-2007-classification",
        "all",
    ]
    page = (folder / "evaluate-few_shot.html").read_text()
    for name, metric in (
        ("hateful-memes", "roc auc"),
        ("voc-2007-classification", "map 11 points"),
        ("caltech-101", "per class"),
    ):
        assert re.search(rf"<td>{name}</td>\s*<td>{metric}</td>", page)
    assert "Not comparable: 17 sets of the 20 not there" in page
    assert re.search(r"5 shots of several labels an image are \d+ images, \d to \d+ of a class", page)
    assert re.search(r"<td>SupMAE</td>\s*<td>" + ("47.97" if mode == "linear" else "46.76"), page)
    if (mode, protocol) == ("linear", "held_out"):
        assert min(values.values()) > 0.9


@pytest.mark.parametrize(("flags", "said"), [
    (["--per-class", "voc-2007-classification"], "several labels an image, and cannot be measured by per_class"),
    (["--suite", "plain={digits}", "--metric", "map_11_points"], "plain has one label an image, and cannot be"),
    (["--suite", "plain={digits}", "--metric", "roc_auc"], "is of 2 classes, got 10"),
])  # fmt: skip
def test_metrics_that_do_not_go_with_a_set_are_said(flags, said, trained, asked, benchmark, digits):
    flags = [flag.format(digits=digits) for flag in flags]
    suite = [] if "--suite" in flags else ["--suite", benchmark]
    with pytest.raises(InputError, match=said):
        asked(trained("mae:digits"), *suite, *flags, *QUICK)


@pytest.mark.parametrize(("flags", "said"), [
    (["--shots", 1], "--shots from 2 up .some are held out; --select val needs 1"),
    (["--shots", 5, 5], "expected different --shots from 2 up .*, got 5 5"),
    (["--seeds", 0], "--seeds is 0, expected at least 1"),
    (["--protocol", "elevater", "--select", "val"], "set --protocol held_out"),
    (["--left-only"], "set --protocol elevater"),
    (["--per-class", "pets"], "--per-class pets: no set is called so"),
    (["--tuning.rates", "0"], "--tuning.rates is 0, expected above 0"),
    (["--tuning.rates"], "--tuning.rates: expected a rate or more"),
    (["--tuning.epochs", 2], "--tuning.warmup-epochs is 5, expected at most --tuning.epochs, 2"),
    (["--tuning.batch", 1], "--tuning.batch is 1, expected at least 2"),
    (["--data.file", "val.beton", "--select", "val"], "cannot both select and be tested on"),
    (["--data.file", "other.beton"], "other.beton: no such file"),
])  # fmt: skip
def test_wrong_flags_are_said(flags, said, trained, asked):
    with pytest.raises(InputError, match=said):
        asked(trained("mae:digits"), *flags)


def test_one_shot_can_be_learned_from_where_val_selects(trained, asked):
    values = asked(trained("mae:digits"), "--shots", 1, "--seeds", 1, "--select", "val")
    assert len(values) == 1
    assert "Everything was selected on val.beton" in (trained("mae:digits") / "evaluate-few_shot.html").read_text()
