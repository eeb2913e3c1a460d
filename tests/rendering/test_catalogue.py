import json

import pytest

from soda_jax.rendering.catalogue import find_models


def _touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_every_model_file_is_found_and_named_uniquely(tmp_path):
    others = ("b/lamp 1/model.PLY", "b/notes.txt", ".hidden/x.obj", "top.gltf", "top.obj", "top.ply")
    for name in ("a/chair/chair.obj", "a/chair.glb", *others):
        _touch(tmp_path / name)
    models = find_models(tmp_path)
    paths = [model.path for model in models]
    assert set(paths[:2]) == {"a/chair.glb", "a/chair/chair.obj"} and paths[2:] == ["b/lamp 1/model.PLY", "top.gltf"]
    names = [model.name for model in models]
    assert len(set(names)) == 4 and names[2:] == ["b-lamp_1-model", "top"]
    assert all(name.startswith("a-chair-") for name in names[:2])  # The same words, told apart by a hash.
    assert [model.category for model in models] == [None] * 4
    categories = {m.path: m.category for m in find_models(tmp_path, folder_categories=True)}
    assert categories == dict(zip(paths, ["a", "a", "b", None], strict=True))


def test_manifest_decides_and_describes(tmp_path):
    _touch(tmp_path / "lib" / "sofa" / "sofa.obj")
    _touch(tmp_path / "lib" / "unused.obj")
    _touch(tmp_path / "lib" / "LICENSE.TXT")
    entry = {"path": "lib/sofa/sofa.obj", "name": "Sofa", "category": "Seats", "creator": "Ann", "library": "lib"}
    (tmp_path / "manifest.json").write_text(json.dumps([entry, entry, {"path": "gone.obj", "license": "CC0"}]))
    gone, sofa = find_models(tmp_path)
    assert (sofa.name, sofa.title, sofa.category, sofa.creator) == ("lib-sofa", "Sofa", "Seats", "Ann")
    assert sofa.licence == "lib/LICENSE.TXT" and gone.licence == "CC0" and gone.title == "gone"


@pytest.mark.parametrize("content", ["{", "{}", '[{"name": "no path"}]'])
def test_bad_manifest(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="manifest.json .*repair"):
        find_models(tmp_path)


def test_nothing_to_render(tmp_path):
    with pytest.raises(ValueError, match="has no models"):
        find_models(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        find_models(tmp_path / "absent")
