import pytest

from tests.launch.stand_ins import Stand


@pytest.fixture
def stand(tmp_path):
    return lambda *names: Stand(tmp_path, *names)
