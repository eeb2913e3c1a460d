"""Exports as repositories of the Hugging Face hub: hf://ORG/NAME, hf://ORG/NAME@REVISION.

`huggingface_hub` (the extra `hub`) keeps what it downloads, so that a model is fetched once and HF_HUB_OFFLINE=1 loads
it without a network. Of a repository no more is fetched than the card and what soda.json lists.
"""

import os
import pathlib
import re
from types import ModuleType

from soda_jax.workdir import export as exports

_SCHEME = "hf://"
_REPOSITORY = r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*"
_ADDRESS = re.compile(rf"{_SCHEME}(?P<repository>{_REPOSITORY})(?:@(?P<revision>[A-Za-z0-9_][A-Za-z0-9_./-]*))?/?")
_INSTALL = "pip install 'huggingface_hub>=1.0,<2'"
_TOKEN = "make a token with write access at https://huggingface.co/settings/tokens, then run `hf auth login`"


def is_address(text: str) -> bool:
    return text.startswith(_SCHEME)


def download(address: str) -> str:
    """The folder of the repository's export, in the hub's own cache; `soda_jax.load` compares its checksums.

    Raises:
      ValueError: the address is none, huggingface_hub is missing, or the repository holds no export.
      FileNotFoundError: there is no such repository or revision, or it is private.
      OSError: it could not be fetched.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ValueError(f"{address}: give hf://ORG/NAME, or hf://ORG/NAME@REVISION with a branch, tag or commit")
    repository, revision = found["repository"], found["revision"]
    hub = _library(address)
    try:
        path = pathlib.Path(hub.hf_hub_download(repository, exports.DESCRIPTION, revision=revision))
        # The folder is named after the commit: so both calls see the same one, whoever pushes in between.
        wanted = [exports.DESCRIPTION, exports.CARD, *exports.described(path.parent)["files"]]
        return hub.snapshot_download(repository, revision=path.parent.name, allow_patterns=wanted)
    except Exception as error:
        raise _explained(address, error) from error


def check_push(repository: str) -> None:
    """Finds, before any work, what would keep `push` from its.

    Raises:
      ValueError: the name is none, huggingface_hub is missing, or no token is here.
    """
    if not re.fullmatch(_REPOSITORY, repository):
        raise ValueError(f"--push={repository}: give ORG/NAME, where ORG is an organisation or your own name")
    if not _library(f"--push={repository}").get_token():
        raise ValueError(f"--push={repository}: no token for the hub is here: {_TOKEN}")


def push(folder: str | os.PathLike, repository: str) -> str:
    """Uploads an export, and returns the repository's address; what it held of another export goes.

    A repository that is not there is made, with the visibility that the account gives to new ones.

    Raises:
      ValueError: as `check_push`, or the hub refuses it.
      OSError: the hub could not be reached.
    """
    check_push(repository)
    hub = _library(f"--push={repository}")
    description = exports.described(folder)
    files = [exports.DESCRIPTION, exports.CARD, *description["files"]]
    try:
        hub.create_repo(repository, repo_type="model", exist_ok=True)
        hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=files,
            delete_patterns=["directions/*", "examples/*"],
            commit_message=f"Step {description['step']} in {description['dtype']}",
        )
    except Exception as error:
        raise _explained(f"--push={repository}", error) from error
    return f"{_SCHEME}{repository}"


def _library(wanted: str) -> ModuleType:
    """`huggingface_hub`, which takes time to import, and which not everybody has."""
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(f"{wanted} needs the package huggingface_hub: {_INSTALL}") from None
    return huggingface_hub


def _explained(what: str, error: Exception) -> Exception:
    """What the hub's library says, as one line with its remedy; errors of ours and of a full disk as they are."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return ValueError(f"{what}: its owner asks for consent first: give it on the hub's page, then `hf auth login`")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return ConnectionError(
            f"{what} is not in the hub's cache, and the hub cannot be reached: look at the network and HF_HUB_OFFLINE"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return ValueError(f"{what} has no {exports.DESCRIPTION} or lacks a file that it lists: it is no whole export")
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(f"{what}: the repository has no such branch, tag or commit")
    if what.startswith("--push") and status in (401, 403):
        return ValueError(f"{what}: the hub refuses it, as this token may not write there: {_TOKEN}")
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return FileNotFoundError(
            f"{what}: the hub has no such model, or it is private: check the name, or run `hf auth login`"
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return ConnectionError(f"{what}: the hub is asked for, but HF_HUB_OFFLINE is set")
    if isinstance(error, errors.HfHubHTTPError) or not isinstance(error, ValueError | OSError):
        return ConnectionError(f"{what}: the hub answers {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return error
