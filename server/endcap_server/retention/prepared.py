"""The prepared pages of shoppers, to be erased with their records."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from endcap_server.lint.repository import View, read_repository
from endcap_server.prepared.stores import StoreError, exists, open_store, prepared_address, shown
from endcap_server.retention.place import RetentionError


def store_address(build: Path, profile: str = "cpu") -> str:
    """Where the prepared pages of a build are, as `prepared_store` of its `theme` says."""
    if not (build / "repository").exists():
        return prepared_address(build)
    theme = View(read_repository(build / "repository"), profile).configs.get("theme")
    settings = theme.settings if theme else None
    return prepared_address(build, settings.prepared_store if settings else "")


def erase_prepared(build: Path, hashes: Sequence[str], keys_of: str) -> tuple[int, str]:
    """Remove the pages of shoppers.

    Args:
        build: The build that is served.
        hashes: Of the shoppers' keys.
        keys_of: What identifies the secret of the hashes.

    Returns:
        How many were removed, and from where; 0 if nothing was prepared.

    Raises:
        RetentionError: The store cannot be written, or has shoppers of another secret.
    """
    address = store_address(build)
    if not exists(address):
        return 0, shown(address)
    try:
        with closing(open_store(address, keys_of, write=True)) as store:
            return store.delete(hashes), shown(address)
    except StoreError as error:
        raise RetentionError(f"prepared pages were not erased: {error}") from None
