"""Where figures come from: the machine, the source's git revision, the libraries' versions. All JSON data."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import jax

from soda_jax.version import __version__

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_SECONDS = 10  # for git to answer


def hardware(devices: Sequence[jax.Device] | None = None) -> dict[str, Any]:
    """The devices that compute (all by default) and the machine around them.

    Returns:
      platform ("cpu", "gpu", "tpu"), device_kind, device_count (of all processes), process_count, cpu (its model, ""
      where the system does not tell), cpu_count (that this process may use).
    """
    devices = jax.devices() if devices is None else devices
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "process_count": jax.process_count(),
        "cpu": _cpu_model(),
        "cpu_count": len(affinity(0)) if affinity else os.cpu_count(),
    }


def _cpu_model() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def git_revision(folder: pathlib.Path | None = None) -> dict[str, Any] | None:
    """Commit of the checkout that holds this package's source, and whether tracked files differ from it.

    Args:
      folder: of the source; this package's own by default.

    Returns:
      {"revision": 40 hex digits, "modified": bool}; None if the source is not in a checkout (a package that is
      installed below some other project's checkout is not), or git is missing.
    """
    folder = pathlib.Path(__file__).resolve().parent if folder is None else folder

    def git(*arguments: str) -> str:
        # Without git's own variables, which point elsewhere when a hook starts us.
        plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            check=True,
            env=plain,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=_SECONDS,
        ).stdout

    try:
        if not git("ls-files", "--", ".").strip():
            return None
        revision = git("rev-parse", "HEAD").strip()
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/").strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"revision": revision, "modified": bool(changed)}


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of the libraries that computations depend on."""
    found = {"python": platform.python_version(), "soda_jax": __version__}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # vendored, or on the path without its metadata
            continue
    return found
