"""An export for whatever brings one here."""

import pytest

from tests import tiny_exports


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "model"
    tiny_exports.write(folder, with_examples=True)
    return folder
