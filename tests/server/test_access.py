import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from endcap_server.launch import LaunchError, control_headers
from endcap_server.serving.access import RESTRICTED, ensure_key, headers, read_key, restriction_flags


def test_a_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "state" / "control.key"
    key = ensure_key(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert ensure_key(path) == key
    assert list(path.parent.iterdir()) == [path], "no temporary file is left"
    assert ensure_key(tmp_path / "other.key") != key


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ensure_key(tmp_path / "control.key")
    finally:
        os.umask(before)
    assert (tmp_path / "control.key").stat().st_mode & 0o777 == 0o600


def test_many_that_start_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: ensure_key(tmp_path / "control.key"), range(64)))
    assert len(keys) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o666, 0o610])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "control.key"
    ensure_key(path)
    path.chmod(mode)
    with pytest.raises(LaunchError, match=rf"control\.key: expected mode 0600, .* got {mode:04o}; delete the file"):
        ensure_key(path)
    with pytest.raises(LaunchError, match="expected mode 0600"):
        control_headers(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"short", b"a key with spaces and more", b"x=1,model-config:a=b;c=d", b"\xff" * 20]
)
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "control.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(LaunchError, match=r"control.key.*(expected a key of 16 to 128 letters|it is no text)"):
        read_key(path)


def test_a_key_that_is_not_readable(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"cannot read the control key .*nothing \(No such file"):
        read_key(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match=r"cannot write the control key .*; name another --key-file"):
        ensure_key(tmp_path / "file" / "control.key")


def test_headers_of_a_build(tmp_path: Path) -> None:
    assert control_headers(tmp_path) == {}, "a server that was started without a key asks for none"
    key = ensure_key(tmp_path / "control.key")
    assert control_headers(tmp_path) == headers(key) == {"endcap-key": key, "triton-grpc-protocol-endcap-key": key}
    elsewhere = ensure_key(tmp_path / "else" / "where")
    assert control_headers(tmp_path, tmp_path / "else" / "where") == headers(elsewhere)


def test_flags() -> None:
    assert restriction_flags("") == []
    grpc, http = restriction_flags("0123456789abcdef")
    assert grpc == f"--grpc-restricted-protocol={','.join(RESTRICTED)}:endcap-key=0123456789abcdef"
    assert http == f"--http-restricted-api={','.join(RESTRICTED)}:endcap-key=0123456789abcdef"
