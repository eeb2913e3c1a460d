"""Which models a folder holds: their names, categories, creators and licences."""

import collections
import dataclasses
import hashlib
import json
import pathlib
import re

from soda_jax.rendering.meshes import EXTENSIONS

MANIFEST = "manifest.json"
_LICENCE_NAME = re.compile(r"licen[cs]e|copying", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Model:
    """One model to render.

    Attributes:
        name: of the folder of its views; made of the path, unique.
        path: of the mesh, relative to the folder of all models, with "/".
        title: what the object is called.
        category: its class, or None.
        creator: whom to credit, or None.
        library: the collection that it comes from, or None.
        licence: file of the licence nearest to the mesh, relative like `path`, or None.
    """

    name: str
    path: str
    title: str
    category: str | None = None
    creator: str | None = None
    library: str | None = None
    licence: str | None = None


def find_models(root: pathlib.Path, *, folder_categories: bool = False) -> list[Model]:
    """The models in a folder, sorted by name.

    With a `manifest.json` in it, a list of {"path", and optionally "name", "category", "creator",
    "library", "licence" or "license"}, those; otherwise every OBJ, GLB, glTF and PLY file below. Files of one path in
    several formats are one model; the same model in several folders is several, which may end up in several splits.

    Args:
        folder_categories: without a manifest, take the first folder below `root` for the category.

    Raises:
        ValueError: no such folder, no models in it, or a bad manifest.
    """
    if not root.is_dir():
        raise ValueError(f"meshes={str(root)!r} is not a folder; give the folder that has the models.")
    entries = _manifest(root) if (root / MANIFEST).exists() else _files(root, folder_categories)
    if not entries:
        raise ValueError(f"meshes={str(root)!r} has no models (files of type {', '.join(EXTENSIONS)}).")
    slugs = [_slug(entry["path"]) for entry in entries]
    shared = {slug for slug, count in collections.Counter(slugs).items() if count > 1}
    models = []
    for entry, slug in zip(entries, slugs, strict=True):
        path = entry["path"]
        name = f"{slug}-{hashlib.sha256(path.encode()).hexdigest()[:6]}" if slug in shared else slug
        fields = {key: entry.get(key) for key in ("category", "creator", "library")}
        licence = entry.get("licence") or entry.get("license") or _licence_file(root, path)
        models.append(Model(name, path, entry.get("name") or name, licence=licence, **fields))
    return sorted(models, key=lambda model: model.name)


def _manifest(root: pathlib.Path) -> list[dict]:
    file = root / MANIFEST
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); repair it, or remove it to use every model.") from None
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("path"), str) for e in entries
    ):
        raise ValueError(f"{file} must be a list of objects that each have a 'path'; repair or remove it.")
    return list({entry["path"]: entry for entry in entries}.values())


def _files(root: pathlib.Path, folder_categories: bool) -> list[dict]:
    """One entry a model; of files that differ in their format alone, the one whose format `EXTENSIONS` has first."""
    paths = (path for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    relative = (path.relative_to(root) for path in paths)
    visible = [path for path in relative if not any(part.startswith(".") for part in path.parts)]
    chosen: dict[pathlib.PurePath, pathlib.PurePath] = {}
    for path in sorted(visible, key=lambda path: EXTENSIONS.index(path.suffix.lower())):
        chosen.setdefault(path.with_suffix(""), path)
    return [
        {"path": path.as_posix(), "category": path.parts[0] if folder_categories and len(path.parts) > 1 else None}
        for path in chosen.values()
    ]


def _slug(path: str) -> str:
    """The path without its suffix as one word; "a/chair/chair.obj" is "a-chair"."""
    parts = list(pathlib.PurePosixPath(path).with_suffix("").parts)
    words = [re.sub(r"[^A-Za-z0-9._]+", "_", part).strip("._") for part in parts]
    kept = [word for i, word in enumerate(words) if word and (i == 0 or word.lower() != words[i - 1].lower())]
    return "-".join(kept) or "object"


def _licence_file(root: pathlib.Path, path: str) -> str | None:
    """The file with "license" or "copying" in its name nearest above the mesh."""
    folder = (root / path).parent
    while True:
        if folder.is_dir():
            found = sorted(f for f in folder.iterdir() if f.is_file() and _LICENCE_NAME.search(f.name))
            if found:
                return found[0].relative_to(root).as_posix()
        if folder == root or root not in folder.parents:
            return None
        folder = folder.parent
