"""An export on the hub: the hub's own client talks to a hub on this machine, and timm loads what arrived there."""

import shutil
import sys

import pytest
import timm
import torch

huggingface_hub = pytest.importorskip("huggingface_hub", reason="the hub's client is not installed")
from huggingface_hub import constants  # noqa: E402

from models.export import __main__ as export  # noqa: E402
from models.export import hub as hub_module  # noqa: E402
from models.export.export_format import as_input, images_like  # noqa: E402
from models.export.hub import Hub, Target, outgoing  # noqa: E402
from models.export.model_card import local_paths  # noqa: E402
from models.load import load_run  # noqa: E402
from pipeline.errors import InputError, Unavailable  # noqa: E402
from tests.models.export.folder_hub import TOKEN, FolderHub  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client about its own upload
COMMIT = "POST /api/models/me/digits/commit/main"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that has nothing; this machine is logged in, and what is fetched goes to a cache of this test."""
    served = FolderHub(tmp_path / "hub")
    monkeypatch.setattr(constants, "ENDPOINT", served.address)
    template = f"{served.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # to LFS, whose protocol is in the open
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    huggingface_hub.utils.disable_progress_bars()
    yield served
    huggingface_hub.utils.enable_progress_bars()
    served.close()


@pytest.fixture
def asked(monkeypatch):
    def run(*argv: object) -> None:
        monkeypatch.setattr(sys, "argv", ["models.export", *map(str, argv)])
        export.main()

    return run


@pytest.fixture
def folder(tmp_path):
    """Files as of an export."""
    made = tmp_path / "export"
    made.mkdir()
    (made / "README.md").write_text("# a model\n")
    (made / "model.safetensors").write_bytes(b"\1\2\3" * 1000)
    return made


def test_timm_loads_from_the_hub_what_was_pushed(hub, trained, asked, capsys):
    run = trained("supervised:digits")
    before = {*run.iterdir()}
    asked(run, "--push", "me/digits", "--private")
    said = capsys.readouterr()
    assert hub.private == {"me/digits": True}
    assert set(hub.files("me/digits")) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert {*run.iterdir()} == before  # without --out nothing is kept
    loaded = load_run(run)
    images = images_like(loaded)
    with torch.inference_mode():
        ours = loaded.method.eval_encoder(as_input(loaded, images))
        for source in ("hf-hub:me/digits", f"local-dir:{hub.home('me/digits')}"):
            assert torch.equal(timm.create_model(source, pretrained=True).eval()(as_input(loaded, images)), ours)
    card = hub.files("me/digits")["README.md"].decode()
    assert card.startswith(
        "---\nlibrary_name: timm\npipeline_tag: image-classification\ntags:\n- shotcrete\n- timm\n---\n"
    )
    assert 'timm.create_model("hf-hub:me/digits", pretrained=True)' in card
    assert "local-dir" not in card
    assert f"run.folder {run}" in said.out
    written = b"".join(path.read_bytes() for root in (hub.folder, run) for path in root.rglob("*") if path.is_file())
    assert TOKEN not in said.out + said.err
    assert TOKEN.encode() not in written


def test_a_second_push_sends_nothing_and_a_newer_export_wants_replace(hub, folder):
    assert "/me/digits/commit/" in Hub(Target("me/digits")).send(folder, "first")
    assert "nothing was sent" in Hub(Target("me/digits")).send(folder, "again")
    assert hub.asked.count(COMMIT) == 1
    (folder / "README.md").write_text("# an edited card\n")
    with pytest.raises(InputError, match=r"holds README.md, model.safetensors; --replace commits a new revision"):
        Hub(Target("me/digits")).send(folder, "edited")
    assert hub.asked.count(COMMIT) == 1
    shutil.move(folder / "model.safetensors", folder / "model.onnx")
    assert "still there: model.safetensors" in Hub(Target("me/digits", replace=True)).send(folder, "edited")
    assert hub.files("me/digits")["README.md"] == b"# an edited card\n"
    assert len(hub.revisions["me/digits"]) == 3  # that of the hub's own file, and two


def test_a_repository_that_is_there_stays_as_visible_as_it_is(hub, folder):
    hub.add("me/seen")
    hub.add("me/hidden", private=True)
    with pytest.raises(InputError, match=r"there already and public, and --private was asked for"):
        Hub(Target("me/seen", private=True))
    kept = Hub(Target("me/hidden"))
    assert kept.private is True
    assert "new" not in hub_module.announcement(kept.target, folder, kept.private)
    kept.send(folder, "first")
    assert hub.private["me/hidden"] is True
    assert "POST /api/repos/create" not in hub.asked


def test_an_upload_that_breaks_before_the_commit_names_the_cause(hub, folder, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Error while uploading 'model.safetensors' to the Hub.") from OSError("connection reset")

    monkeypatch.setattr(huggingface_hub.HfApi, "preupload_lfs_files", broken)
    with pytest.raises(
        Unavailable, match=r"to the Hub \(connection reset\); the repository was made and holds no file"
    ):
        Hub(Target("me/digits")).send(folder, "first")
    assert COMMIT not in hub.asked


@pytest.mark.parametrize(("kind", "there"), [("refuse", "the repository was made and holds no file"), ("lose", None)])
def test_an_upload_that_fails_says_what_is_there_and_can_be_repeated(kind, there, hub, folder):
    getattr(hub, kind).add(COMMIT)
    if there is None:
        assert "holds the files, though the hub's last answer was lost" in Hub(Target("me/digits")).send(
            folder, "first"
        )
    else:
        with pytest.raises(Unavailable, match=f"the disk is full; {there}; give the same command again") as failed:
            Hub(Target("me/digits")).send(folder, "first")
        assert "\n" not in str(failed.value)
        assert set(hub.files("me/digits")) == {".gitattributes"}
        hub.refuse.clear()
        Hub(Target("me/digits")).send(folder, "first")
    assert set(hub.files("me/digits")) == {".gitattributes", "README.md", "model.safetensors"}


def test_a_failed_replacement_leaves_the_revision_that_was_there(hub, folder):
    hub.add("me/digits", **{"README.md": b"# another\n"})
    revision = hub.revisions["me/digits"][-1]
    hub.refuse.add(COMMIT)
    with pytest.raises(Unavailable, match=f"its revision {revision} is as it was"):
        Hub(Target("me/digits", replace=True)).send(folder, "newer")
    hub.refuse.add("GET /api/models/me/digits")
    with pytest.raises(Unavailable, match=r"--push me/digits: the disk is full"):
        Hub(Target("me/digits", replace=True))


def test_a_revision_that_came_meanwhile_is_not_overwritten(hub, folder):
    hub.add("me/digits")
    connected = Hub(Target("me/digits"))
    hub.commit("me/digits", {"notes.txt": b"mine"})
    with pytest.raises(
        Unavailable, match=r"A commit has happened since.*another revision was committed there meanwhile"
    ):
        connected.send(folder, "first")
    assert set(hub.files("me/digits")) == {".gitattributes", "notes.txt"}


def test_a_dry_run_needs_no_hub_and_shows_files_sizes_and_visibility(
    hub, trained, asked, capsys, monkeypatch, tmp_path
):
    monkeypatch.delenv("HF_TOKEN")
    home = tmp_path / "home"
    asked(trained("supervised:digits"), "--push", "me/digits", "--dry-run", "--out", home)
    said = capsys.readouterr().out
    assert "me/digits (where new, public: anyone can read it) gets:\n" in said
    for name in ("README.md", "config.json", "model.safetensors"):
        assert (size := (home / name).stat().st_size) > 0
        assert f"{size / 1e3:.1f} kB  {name}\n" in said or f"{size} B  {name}\n" in said
    assert "nothing was sent" in said
    assert hub.asked == []


def test_a_kept_folder_is_sent_as_it_is_if_it_is_this_run(hub, trained, asked, tmp_path, capsys):
    run, home = trained("supervised:digits"), tmp_path / "home"
    asked(run, "--push", "me/digits", "--dry-run", "--out", home)
    (home / "README.md").write_text("my own words\n")
    (home / ".secret").write_text("mine")
    asked(run, "--push", "me/digits", "--out", home)
    assert hub.files("me/digits")["README.md"] == b"my own words\n"
    assert ".secret" not in hub.files("me/digits")
    assert "hidden and left out: 1" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"another model|no timm of this run"):
        asked(trained("mae:digits"), "--push", "me/digits", "--replace", "--out", home)
    (home / "README.md").unlink()
    with pytest.raises(InputError, match=r"is there already and has no README\.md"):
        asked(run, "--push", "me/digits", "--out", home)
    assert hub.asked.count(COMMIT) == 1


@pytest.mark.parametrize(("flags", "said"), [
    (["--push", "digits"], "--push digits: expected a repository, OWNER/NAME"),
    (["--push", "me/a b"], "--push me/a b: expected a repository, OWNER/NAME"),
    (["--private"], "--private says how to send the files; add --push OWNER/NAME"),
    (["--dry-run"], "--dry-run says how"),
    (["--push", "you/digits"], "the token of me may not do this .*rights to create a model under the namespace you"),
])  # fmt: skip
def test_what_cannot_be_pushed_is_said(flags, said, hub, trained, asked):
    with pytest.raises(InputError, match=said) as refused:
        asked(trained("supervised:digits"), *flags)
    assert refused.value.code == 2
    assert "\n" not in str(refused.value)


def test_a_token_that_lacks_or_is_wrong_is_said_before_the_export_is_made(hub, trained, asked, monkeypatch):
    monkeypatch.setattr(export, "export", lambda *_: pytest.fail("exported"))
    for token, said in ((None, "found none; set HF_TOKEN, or run hf auth login"), ("hf_x", "the token is not valid")):
        if token is None:
            monkeypatch.delenv("HF_TOKEN")
        else:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(InputError, match=said) as refused:
            asked(trained("supervised:digits"), "--push", "me/digits")
        assert "hf_x" not in str(refused.value)


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"needs the hub's client; run uv pip install huggingface_hub \(extra: hub\)"):
        Target("me/digits")


def test_hidden_files_are_no_part_of_what_is_sent(folder):
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_text("x")
    assert [path.as_posix() for path in outgoing(folder)] == ["README.md", "model.safetensors", "pictures/a.png"]


def test_paths_of_this_machine_are_the_absolute_ones(trained):
    recipe = load_run(trained("supervised:digits")).recipe
    assert {line.split()[0] for line in local_paths(recipe)} == {"data.root", "run.folder"}
