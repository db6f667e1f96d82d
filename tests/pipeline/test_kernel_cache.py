"""Compiled kernels of sources that nobody runs any more go away; those in use stay, and a loss is survived."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pipeline

ROOT, DAY_S = Path(__file__).parents[2], 86400

NUMBA = """
import shutil, sys
from pathlib import Path
import pipeline, numba, os
from numba import njit

cache = Path(os.environ["NUMBA_CACHE_DIR"])
sys.path.insert(0, sys.argv[1])
from kernel import double
assert double(2) == 4
assert list(cache.rglob("*.nbc"))
shutil.rmtree(cache)
assert double(2.5) == 5.0  # another type: compiled now
assert list(cache.rglob("*.nbc"))
"""


def run(script: str, home: Path, *arguments: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(home)
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def planted(home: Path, name: str, days: float) -> Path:
    """A folder of kernels that was last used so many days ago."""
    folder = home / "shotcrete" / name
    (folder / "views").mkdir(parents=True)
    (folder / "views" / "crop.nbc").write_bytes(b"code")
    os.utime(folder, (time.time() - days * DAY_S,) * 2)
    return folder


def test_new_sources_clear_away_what_was_unused_for_a_month_and_nothing_else(tmp_path):
    old, young = planted(tmp_path, "kernels-0", 31), planted(tmp_path, "kernels-1", 29)
    other = planted(tmp_path, "weights", 365)
    run("import pipeline", tmp_path)
    assert not old.exists()
    assert (young / "views" / "crop.nbc").exists()
    assert other.exists()
    (own,) = set((tmp_path / "shotcrete").glob("kernels-*")) - {young}

    os.utime(own, (0, 0))
    later = planted(tmp_path, "kernels-2", 31)
    run("import pipeline", tmp_path)
    assert own.stat().st_mtime > time.time() - 600  # used: whoever comes next leaves it
    assert later.exists()  # nothing was new


def test_a_process_whose_kernels_are_removed_compiles_again(tmp_path):
    (tmp_path / "kernel.py").write_text(
        "from numba import njit\n\n\n@njit(cache=True)\ndef double(x):\n    return 2 * x\n"
    )
    run(NUMBA, tmp_path, str(tmp_path))


@pytest.mark.parametrize("given", ["elsewhere", "nowhere"])
def test_a_folder_of_ones_own_is_left_alone_and_one_that_cannot_be_made_is_no_trouble(given, tmp_path):
    old = planted(tmp_path, "kernels-0", 31)
    if given == "elsewhere":
        run(f"import os; os.environ['NUMBA_CACHE_DIR'] = {str(tmp_path / 'mine')!r}; import pipeline", tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"shotcrete"}
    else:
        run("import pipeline", Path("/dev/null"))
    assert old.exists()


WHERE = "import os, pipeline; print(os.environ['NUMBA_CACHE_DIR'])"


def where(**changed: str) -> subprocess.CompletedProcess[str]:
    """Import the package with a changed environment, and print the folder of compiled kernels."""
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"} | changed
    command = [sys.executable, "-c", WHERE]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_where_the_users_cache_is_read_only_kernels_are_kept_in_ones_own_temporary_folder(tmp_path):
    done = where(XDG_CACHE_HOME="/proc", TMPDIR=str(tmp_path))
    (mine,) = tmp_path.iterdir()
    assert mine.name == f"shotcrete-{os.getuid()}"
    assert mine.stat().st_mode & 0o777 == 0o700
    assert Path(done.stdout.strip()).parent == mine
    assert done.stderr == ""


def test_a_given_folder_that_is_read_only_is_said_and_another_used(tmp_path):
    done = where(NUMBA_CACHE_DIR="/proc/kernels", XDG_CACHE_HOME=str(tmp_path))
    chosen = done.stdout.strip()
    assert Path(chosen).parent == tmp_path / "shotcrete"
    assert done.stderr == f"NUMBA_CACHE_DIR /proc/kernels cannot be written; compiled kernels are in {chosen}\n"


def test_a_temporary_folder_that_others_may_write_to_is_not_used(tmp_path):
    """numba runs what it finds in its cache."""
    mine = tmp_path / f"shotcrete-{os.getuid()}"
    mine.mkdir()
    mine.chmod(0o777)
    done = where(XDG_CACHE_HOME="/proc", TMPDIR=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: compiled kernels need a folder to be kept in")
    assert len(done.stderr.splitlines()) == 1


def test_kernels_are_compiled_where_the_users_cache_is_read_only(tmp_path):
    (tmp_path / "kernel.py").write_text(
        "from numba import njit\n\n\n@njit(cache=True)\ndef double(x):\n    return 2 * x\n"
    )
    run(NUMBA, Path("/proc"), str(tmp_path))


MOUNTS = """22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /home rw shared:7 - nfs4 server:/home rw
31 22 0:41 / /home/local\\040disk rw - xfs /dev/sdb rw
32 22 0:42 / /scratch rw - lustre mds:/scratch rw
33 22 0:43 / /homes rw - tmpfs tmpfs rw
34 30 0:44 / /home/ada/x rw - ext4 /dev/sdc rw
35 30 0:45 / /home/ada/x rw - beegfs server rw
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/home/ada/.cache/shotcrete", "nfs4"),
        ("/home", "nfs4"),
        ("/home/local disk/cache", "xfs"),
        ("/homes/ada", "tmpfs"),
        ("/scratch/ada", "lustre"),
        ("/var/cache", "ext4"),
        ("/home/ada/x/y", "beegfs"),  # mounted over another
    ],
)
def test_the_file_system_of_a_folder_is_that_of_the_mount_it_lies_on(tmp_path, path, found):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert pipeline._file_system(Path(path), tmp_path / "mountinfo") == found
    assert pipeline._file_system(Path(path), tmp_path / "missing") == ""


CACHES = "NUMBA_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture
def chosen(monkeypatch, tmp_path, capsys):
    """Choose the folders of a process with nothing but a home in its environment, on a file system of some type."""

    def choose(file_system: str, **environment: str) -> tuple[list[str | None], str]:
        for name in (*CACHES, "TRITON_HOME", "SLURM_TMPDIR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(pipeline.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
        (tmp_path / "tmp").mkdir(exist_ok=True)
        monkeypatch.setattr(pipeline, "_file_system", lambda _: file_system)
        pipeline._choose_cache()
        return [os.environ.get(name) for name in CACHES], capsys.readouterr().err

    for name in CACHES:  # as they were, at the end
        monkeypatch.setenv(name, os.environ.get(name, ""))
    return choose


@pytest.mark.parametrize("file_system", ["nfs4", "lustre", "gpfs"])
def test_kernels_are_kept_on_the_node_where_the_users_cache_is_shared(chosen, tmp_path, file_system):
    (numba, triton, inductor), said = chosen(file_system)
    mine = tmp_path / "tmp" / f"shotcrete-{os.getuid()}"
    assert Path(numba).parent == mine
    assert (triton, inductor) == (str(mine / "triton"), str(mine / "inductor"))
    assert stat.S_IMODE(mine.stat().st_mode) == 0o700
    assert said == f"compiled kernels are in {mine}, as {tmp_path / 'home' / 'shotcrete'} is on {file_system}\n"
    assert chosen(file_system) == ([numba, triton, inductor], "")  # said once on a node


@pytest.mark.parametrize("file_system", ["ext4", "overlay", "tmpfs", "fuse.fuse-overlayfs", ""])
def test_a_users_cache_on_a_disk_of_its_own_is_kept(chosen, tmp_path, file_system):
    (numba, *others), said = chosen(file_system)
    assert Path(numba).parent == tmp_path / "home" / "shotcrete"
    assert others == [None, None]
    assert said == ""


def test_the_disk_of_a_slurm_job_comes_first_if_it_takes_files(chosen, tmp_path):
    (tmp_path / "job").mkdir()
    (numba, *_), _ = chosen("nfs4", SLURM_TMPDIR=str(tmp_path / "job"))
    assert Path(numba).parent == tmp_path / "job" / f"shotcrete-{os.getuid()}"
    (numba, *_), _ = chosen("nfs4", SLURM_TMPDIR="/proc")
    assert Path(numba).parent == tmp_path / "tmp" / f"shotcrete-{os.getuid()}"


def test_folders_that_the_user_names_stay(chosen, tmp_path):
    mine, own = tmp_path / "tmp" / f"shotcrete-{os.getuid()}", str(tmp_path / "mine")
    assert chosen("nfs", **dict.fromkeys(CACHES, own)) == ([own] * 3, "")
    assert chosen("nfs", NUMBA_CACHE_DIR=own)[0] == [own, str(mine / "triton"), str(mine / "inductor")]
    assert chosen("nfs", TORCHINDUCTOR_CACHE_DIR=own)[0][1:] == [f"{own}/triton", own]
    assert chosen("nfs", TRITON_HOME=own)[0][1:] == [None, str(mine / "inductor")]
