import multiprocessing
from pathlib import Path

import pytest
from endcap_server.stages.generations import Generations, run_folder


def test_bumping_changes_the_generation_of_a_key(tmp_path: Path) -> None:
    table = Generations(tmp_path)
    key, first = table.current(b"shopper")
    assert table.current(b"shopper") == (key, first)
    table.bump(key)
    assert table.current(b"shopper") == (key, first + 1)
    assert key >= 0


def test_another_process_sees_it(tmp_path: Path) -> None:
    table = Generations(tmp_path)
    key, first = table.current(b"shopper")
    process = multiprocessing.get_context("spawn").Process(target=_bump, args=(tmp_path, key))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert table.current(b"shopper") == (key, first + 1)


def _bump(folder: Path, key: int) -> None:
    Generations(folder).bump(key)


def test_time_buckets(tmp_path: Path) -> None:
    now = [1_000_000.0]
    table = Generations(tmp_path, ttl_s=60, clock=lambda: now[0])
    seen = set()
    for now[0] in range(1_000_000, 1_000_600, 5):
        seen.add(table.current(b"shopper")[1])
    assert len(seen) in (10, 11)
    assert min(seen) > 0
    assert max(seen) < 2**63


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


def test_bumping_all_changes_every_generation(tmp_path: Path) -> None:
    generations = Generations(tmp_path)
    keys = [b"one", b"two", b"three"]
    before = [generations.current(key) for key in keys]
    Generations(tmp_path).bump_all()
    after = [generations.current(key) for key in keys]
    assert [hashed for hashed, _ in after] == [hashed for hashed, _ in before]
    assert all(new != old for (_, new), (_, old) in zip(after, before, strict=True))
