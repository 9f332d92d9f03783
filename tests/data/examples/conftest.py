"""Nothing is left in the project's own folder: what was read lies below the one that a test works in."""

import pytest


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
