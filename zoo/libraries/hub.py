"""The Hugging Face hub: what it has, what its cache has, and working without it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from zoo.errors import ZooError
from zoo.libraries.reliance import importing, relies_on, require

SECONDS = 10
NOBODY = "nobody-of-this-name/nothing-of-this-name"


class NotOnHub(ZooError):
    """The hub has no such model, or you have no access to it (`gated`)."""

    gated = False


class HubOutOfReach(ZooError):
    """The hub could not be reached."""


def ask_for_model(name: str) -> None:
    """Check with one request that the hub has a model. Raises NotOnHub or HubOutOfReach."""
    require("huggingface-hub")
    with importing("huggingface-hub"):
        from huggingface_hub import HfApi, errors
    try:
        HfApi().model_info(name, timeout=SECONDS)
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        missing = NotOnHub(name)
        missing.gated = isinstance(error, errors.GatedRepoError)
        raise missing from None
    except Exception as error:
        offline = isinstance(error, errors.OfflineModeIsEnabled)
        raise HubOutOfReach("offline" if offline else type(error).__name__) from None


def may_be_cached(name: str) -> bool:
    """Whether the cache has a folder for a model. Only the library, which is slow to import, can say what is in it."""
    return (Path(_constants().HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir()


def cached_folder(name: str, *files: str) -> Path | None:
    """The folder in the hub's cache with one of these files of a model. Raises NotOnHub for an invalid name."""
    with importing("huggingface-hub"):
        from huggingface_hub import errors, try_to_load_from_cache

    try:
        found = [try_to_load_from_cache(name, file) for file in files]
    except errors.HFValidationError:
        raise NotOnHub(name) from None
    return next((Path(path).parent for path in found if isinstance(path, str)), None)


def snapshot(name: str, patterns: list[str], local: bool, seconds: int = SECONDS) -> Path:
    """The files of a model, from the network, or with `local` only from the cache. Raises huggingface_hub's errors."""
    with importing("huggingface-hub"):
        from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=local, etag_timeout=seconds))


def push(folder: Path, name: str, private: bool) -> str:
    """Send a folder to a repository of the hub, which is made if there is none; returns its address.

    The library takes the key that `hf auth login` left, or that of HF_TOKEN. Raises ZooError.
    """
    with importing("huggingface-hub"):
        from huggingface_hub import HfApi, errors
        from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        api = HfApi()
        made = api.create_repo(name, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Upload from post-training-zoo")
        return str(made.url)
    except errors.HFValidationError as error:
        raise ZooError(f"'{name}' is no name of the hub: {error}", "Write --push owner/name.") from None
    except errors.OfflineModeIsEnabled:
        raise ZooError("Nothing can be sent to the hub: HF_HUB_OFFLINE is set.", "Unset it and try again.") from None
    except Exception as error:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        why = f"{status} {getattr(response, 'reason_phrase', '')}".strip() if status else type(error).__name__
        hint = "Try again; what was sent already is not sent twice."
        if status in (401, 403):
            hint = "Log in with a key that may write (`hf auth login`), and name a place that is yours: owner/name."
        raise ZooError(f"The hub did not take the model as {name} ({why}).", hint) from None


def card(name: str) -> str:
    """The text of a model's card, from the cache or else from the hub; "" where there is none, or none can be had."""
    with importing("huggingface-hub"):
        from huggingface_hub import hf_hub_download

    with offline_without_network():
        try:
            file = hf_hub_download(name, "README.md", etag_timeout=SECONDS)
        except Exception:
            return ""
    return Path(file).read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def offline_without_network() -> Iterator[None]:
    """Use only the cache if the hub's host name cannot be resolved.

    The libraries would try six times, for half a minute. Both read their setting only at import, so an environment
    variable set now would come too late.
    """
    settings = _settings()
    before = [place.HF_HUB_OFFLINE for place in settings]
    if not any(before) and not _can_look_up(settings[0].ENDPOINT):
        for place in settings:
            place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(settings, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _settings() -> tuple[Any, Any]:
    """The modules in which huggingface_hub and datasets keep their offline setting."""
    with importing("datasets"):
        import datasets.config

    return _constants(), datasets.config


def _constants() -> Any:
    with importing("huggingface-hub"):
        import huggingface_hub.constants as constants

    return constants


def _can_look_up(address: str) -> bool:
    """Whether the host name can be resolved; always true with a proxy, which resolves names itself."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urlparse(address).hostname, 443)
    except OSError:
        return False
    return True


# -- checks --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    constants = _constants()
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@relies_on("huggingface-hub", "`constants.HF_HUB_OFFLINE` is read at each request, which then raises "
           "OfflineModeIsEnabled; `constants.ENDPOINT` is the hub's address.")  # fmt: skip
def being_offline_can_be_set() -> None:
    assert str(_constants().ENDPOINT).startswith("http"), f"the address is {_constants().ENDPOINT!r}"
    with _offline():
        try:
            from huggingface_hub import HfApi

            HfApi().model_info(NOBODY, timeout=0.001)
        except Exception as error:
            assert type(error).__name__ == "OfflineModeIsEnabled", f"it raises {type(error).__name__}"
            return
    raise AssertionError("it still contacts the hub")


@relies_on("huggingface-hub", "The errors are called RepositoryNotFoundError, GatedRepoError (one of those), "
           "HFValidationError and OfflineModeIsEnabled.")  # fmt: skip
def errors_have_their_names() -> None:
    from huggingface_hub import errors

    names = ("RepositoryNotFoundError", "GatedRepoError", "HFValidationError", "OfflineModeIsEnabled")
    missing = [name for name in names if not hasattr(errors, name)]
    assert not missing, f"no {', '.join(missing)}"
    assert issubclass(errors.GatedRepoError, errors.RepositoryNotFoundError), (
        "GatedRepoError is not a RepositoryNotFoundError"
    )


@relies_on("huggingface-hub", "A cached file is given as a path string below `constants.HF_HUB_CACHE`; for a missing "
           "one there is no path and no request.")  # fmt: skip
def the_cache_says_what_it_has() -> None:
    assert Path(_constants().HF_HUB_CACHE).parts, "the cache has no folder"
    assert cached_folder(NOBODY, "config.json") is None, "it has a file of a model that does not exist"
    with _offline():
        try:
            snapshot(NOBODY, ["*.json"], local=True)
        except Exception:
            return
    raise AssertionError("a snapshot of a model that does not exist raises nothing")
