"""What the tests of dumps that are killed or interrupted begin with."""

from pathlib import Path

import pytest
from killing import prepare_small


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a teacher and params; never dumped in."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare_small(folder)
    return folder
