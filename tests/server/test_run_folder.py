from pathlib import Path

import pytest
from endcap_server.stages.run_folder import run_folder


def test_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDCAP_RUN_DIR", str(tmp_path / "run"))
    assert run_folder() == tmp_path / "run"
    monkeypatch.delenv("ENDCAP_RUN_DIR")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = run_folder()
    assert folder.parent == tmp_path
    assert folder == run_folder()
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="expected a private folder of this user"):
        run_folder()
