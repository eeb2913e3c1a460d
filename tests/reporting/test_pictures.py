"""Pictures within the page."""

import base64

from soda_jax.reporting import pictures, workdir
from tests.reporting import made_runs


def found(folder, **options):
    return pictures.collect(workdir.read(str(folder)).pictures, folder, **options)


def test_newest_and_a_few_earlier(tmp_path):
    paths = [made_runs.picture(tmp_path, f"images/grid_{step:08d}.png", side=10) for step in range(0, 1000, 100)]
    (series,), warnings = found(tmp_path)
    assert series.newest.file == "images/grid_00000900.png" and series.newest.caption == "grid, step 900"
    assert (series.newest.width, series.newest.height) == (10, 10)
    assert [one.caption for one in series.earlier] == [f"grid, step {step}" for step in (0, 300, 500, 800)]
    head, _, data = series.newest.uri.partition(",")
    assert head == "data:image/png;base64" and base64.b64decode(data) == paths[-1].read_bytes()
    assert warnings == []


def test_animations(tmp_path):
    made_runs.picture(tmp_path, "samples/turntable_00000900_seed0.gif")
    (series,), _ = found(tmp_path)
    assert series.newest.uri.startswith("data:image/gif;base64,") and series.earlier == ()


def test_an_animation_stands_beside_the_still_of_its_step(tmp_path):
    for step in (100, 900):
        for suffix in ("gif", "png"):
            made_runs.picture(tmp_path, f"samples/pca_{step:08d}_seed0.{suffix}")
    (tmp_path / "samples" / "pca_00000900_seed0.mp4").write_bytes(b"")
    (series,), warnings = found(tmp_path)
    assert series.newest.file == "samples/pca_00000900_seed0.png" and warnings == []
    assert series.animation.file == "samples/pca_00000900_seed0.gif"
    assert series.film == "samples/pca_00000900_seed0.mp4"
    assert [one.file for one in series.earlier] == ["samples/pca_00000100_seed0.png"]


def test_unreadable_pictures_are_named(tmp_path):
    made_runs.picture(tmp_path, "images/grid_00000100.png")
    (tmp_path / "images" / "grid_00000200.png").write_bytes(b"\x89PNG but cut short")
    (series,), warnings = found(tmp_path)
    assert series.newest.caption == "grid, step 100"
    assert warnings == ["images/grid_00000200.png could not be read (UnidentifiedImageError)."]


def test_a_page_that_would_grow_too_large_keeps_the_newest(tmp_path):
    for name in ("a", "b"):
        for step in (100, 200):
            made_runs.picture(tmp_path, f"images/{name}_{step:08d}.png", side=32)
    size = max(path.stat().st_size for path in (tmp_path / "images").iterdir())
    series, warnings = found(tmp_path, budget=2 * size + 10)
    assert [one.newest.caption for one in series] == ["a, step 200", "b, step 200"]
    assert [one.earlier for one in series] == [(), ()]
    assert "images/a_00000100.png, images/b_00000100.png" in warnings[0]
