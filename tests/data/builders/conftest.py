"""Preparing a miniature archive."""

import pytest
import tensorflow_datasets as tfds

from soda_jax.data.builders import BUILDERS


@pytest.fixture
def prepare(tmp_path):
    """prepare(name, manual_dir, **attributes of the builder) -> data_dir."""

    def run(name, manual_dir, **attributes):
        base, _, config = name.partition("/")
        builder = BUILDERS[base](config=config or None, data_dir=tmp_path / "prepared", file_format="array_record")
        for key, value in attributes.items():
            setattr(builder, key, value)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
        return tmp_path / "prepared"

    return run
