"""Send an exported folder to a model repository of the Hugging Face hub, in one commit.

target = Target("me/digits", private=True, replace=False)
hub = Hub(target)                   # the token is checked, and what the repository holds
print(announcement(target, folder))
print(hub.send(folder, "Add the export"))    # the commit's address

The token is HF_TOKEN's, or that of `hf auth login`. It goes to the hub only, and is written nowhere. HF_ENDPOINT
chooses another hub.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from pipeline.errors import InputError, Unavailable
from pipeline.text import some

T = TypeVar("T")
OWN = {".gitattributes"}
"""Files that the hub itself puts into a repository."""
REFUSED = (401, 403)


@final
@dataclass(frozen=True)
class Target:
    """A repository, OWNER/NAME, and what may be done to it. Raises InputError for what can be no repository's name."""

    repo: str
    private: bool = False
    replace: bool = False

    def __post_init__(self) -> None:
        validate, problem = _client().utils.validate_repo_id, ""
        try:
            validate(self.repo)
        except ValueError as error:
            problem = f" ({_first_line(error)})"
        if problem or self.repo.count("/") != 1:
            raise InputError(f"--push {self.repo}: expected a repository, OWNER/NAME{problem}")


def outgoing(folder: Path) -> list[Path]:
    """List the files of a folder that are sent, relative to it: those whose path has no hidden part."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.parts)]


def announcement(target: Target, folder: Path, private: bool | None = None) -> str:
    """Describe what is sent: a line for each file with its size, the sum, and to which repository.

    private  of the repository, where it exists
    """
    files = outgoing(folder)
    sizes = [(folder / path).stat().st_size for path in files]
    hidden = sum(path.is_file() for path in folder.rglob("*")) - len(files)
    seen = "private" if (target.private if private is None else private) else "public: anyone can read it"
    lines = [f"{target.repo} ({'where new, ' if private is None else ''}{seen}) gets:"]
    lines += [f"{_size(size):>10}  {path.as_posix()}" for path, size in zip(files, sizes, strict=True)]
    lines += [
        f"{_size(sum(sizes)):>10}  in {len(files)} files" + (f"; hidden and left out: {hidden}" if hidden else "")
    ]
    return "\n".join(lines)


@final
class Hub:
    """One repository of the hub, as it was when asked. Only its main branch is read and written.

    Raises InputError without a token, for a token that the hub does not accept, and for a public repository where a
    private one was asked for; Unavailable where the hub cannot be reached.
    """

    def __init__(self, target: Target) -> None:
        client = _client()
        self.target = target
        if not client.get_token():
            raise InputError("--push: expected a token of the hub, found none; set HF_TOKEN, or run hf auth login")
        self._api = client.HfApi(library_name="shotcrete")
        self._user = self._asked(self._api.whoami)["name"]
        self._found = self._look()
        if self._found is not None and target.private and not self._found.private:
            raise InputError(
                f"{target.repo} is there already and public, and --private was asked for; "
                "make it private in its settings first, or choose another name"
            )

    @property
    def private(self) -> bool | None:
        """Whether the repository is private; None where there is none yet."""
        return None if self._found is None else bool(self._found.private)

    def send(self, folder: Path, message: str) -> str:
        """Commit the files, after making the repository where there is none; return the commit's address and what
        else is there.

        Nothing is sent where the repository holds the same files already. Files of other names stay as they are.

        Raises InputError, before anything is sent, for a repository with other files unless the target says `replace`;
        Unavailable where the upload fails: a commit is there whole or not at all.
        """
        repo, files = self.target.repo, outgoing(folder)
        held = self._held()
        if all(same_content(folder / path, held.get(path.as_posix())) for path in files):
            return f"{repo} holds these files already; nothing was sent"
        others = sorted(set(held) - OWN)
        if others and not self.target.replace:
            raise InputError(
                f"{repo} is there already and holds {some(others)}; --replace commits a new revision over the one that "
                "is there, which stays in its history"
            )
        made = self._found is None
        if made:
            self._asked(lambda: self._api.create_repo(repo, private=self.target.private))
            self._found = self._look()
            if self.target.private and self.private is False:
                raise InputError(f"{repo} was made, but the hub made it public; nothing was sent")
        before = None if self._found is None else self._found.sha
        operations = [
            _client().CommitOperationAdd(path_in_repo=path.as_posix(), path_or_fileobj=folder / path) for path in files
        ]
        try:
            done = self._api.create_commit(repo, operations, commit_message=message, parent_commit=before)
        except Exception as error:  # of the client and of whatever it sends with: see _problem
            if self._arrived(folder, files):
                return f"{repo} holds the files, though the hub's last answer was lost ({_first_line(error)})"
            raise self._problem(error, self._left(made, before)) from error
        stay = sorted(set(others) - {path.as_posix() for path in files})
        return f"{done.commit_url}" + (f"; not part of this export, and still there: {some(stay)}" if stay else "")

    def _held(self) -> dict[str, Any]:
        return {} if self._found is None else {each.rfilename: each for each in self._found.siblings or ()}

    def _look(self) -> Any:
        """Ask for the repository's newest revision, its files, and whether it is private; None where there is none."""
        missing = _client().errors.RepositoryNotFoundError

        def look() -> Any:
            try:
                return self._api.model_info(self.target.repo, files_metadata=True)
            except missing:
                return None

        return self._asked(look)

    def _arrived(self, folder: Path, files: list[Path]) -> bool:
        try:
            self._found = self._look()
        except InputError:
            self._found = None
            return False
        held = self._held()
        return all(same_content(folder / path, held.get(path.as_posix())) for path in files)

    def _left(self, made: bool, before: str | None) -> str:
        """Say, after a failed commit, what is in the repository."""
        if self._found is None:
            return "it cannot be asked now what is there: all of the files, or none"
        if self._found.sha != before:
            return "another revision was committed there meanwhile"
        return "the repository was made and holds no file" if made else f"its revision {before} is as it was"

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except InputError:
            raise
        except Exception as error:
            raise self._problem(error) from error

    def _problem(self, error: Exception, left: str = "") -> InputError:
        """Make one line of an error of the client: no right to do it, or no answer; the latter may be tried again."""
        repo, status = self.target.repo, getattr(getattr(error, "response", None), "status_code", None)
        state = f"; {left}" if left else ""
        if status in REFUSED:
            who = f"the token of {self._user} may not do this" if hasattr(self, "_user") else "the token is not valid"
            return InputError(f"--push {repo}: {who} ({_first_line(error)}){state}; it needs the right to write there")
        return Unavailable(f"--push {repo}: {_first_line(error)}{state}; give the same command again")


def same_content(path: Path, held: Any) -> bool:
    """Compare a file with a repository's entry, by size and git's or LFS's hash; False where there is no entry."""
    if held is None or (held.size is not None and held.size != path.stat().st_size):
        return False
    if held.lfs is not None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == held.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == held.blob_id


def _client() -> Any:
    """Import the hub's client late, as no other command needs it. Raises InputError naming the extra."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise InputError("--push needs the hub's client; run uv pip install huggingface_hub (extra: hub)") from error
    return huggingface_hub


def _first_line(error: BaseException) -> str:
    """Take the hub's own message, or the first line of an error, or its type where it says nothing; then the same of
    its cause."""
    said = getattr(error, "server_message", None)
    lines = [line.strip() for line in (said or str(error)).splitlines() if line.strip()]
    first = lines[0].rstrip(".") if lines else type(error).__name__
    return first if said or error.__cause__ is None else f"{first} ({_first_line(error.__cause__)})"


def _size(count: int) -> str:
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count} B"
