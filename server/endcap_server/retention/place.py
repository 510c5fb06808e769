"""Where the exposures of a deployment lie, and the secret that their shoppers are hashed with."""

from dataclasses import dataclass
from pathlib import Path

from endcap_server.exposures.record import FOLDER, SECRET_FILE, ShopperKeys
from endcap_server.serving.deployment import DeploymentError, find_deployment

_MOST_KEY_BYTES = 128


class RetentionError(Exception):
    """Exposures cannot be found, or not be erased."""


@dataclass(frozen=True)
class Place:
    """A deployment: the build that is served, and the folder of its exposures."""

    build: Path
    folder: Path

    @classmethod
    def find(cls, build: Path | None, folder: Path | None) -> "Place":
        """Find it.

        Args:
            build: The build that is served; None: that of the server that runs here.
            folder: Of the exposures; None: that of the server that runs on the build, or `exposures` in the build.

        Raises:
            RetentionError: No server runs, or several do; or there is no folder.
        """
        try:
            served, found = find_deployment(build, folder, "exposures", FOLDER)
        except DeploymentError as error:
            raise RetentionError(str(error)) from None
        if not found.is_dir():
            raise RetentionError(f"{found}: expected a folder of exposures, found none; `endcap serve` makes it")
        return cls(served, found)

    def keys(self) -> ShopperKeys:
        """Hashes shoppers as the servers do; raises RetentionError if there is no secret."""
        secret = self.build / SECRET_FILE
        try:
            return ShopperKeys(secret.read_bytes().strip())
        except OSError as error:
            raise RetentionError(
                f"{secret}: expected the secret that shoppers are hashed with, got {error}; name the build that was "
                "served with --build"
            ) from None

    def hashes(self, shoppers: list[bytes]) -> list[str]:
        """What exposures have for the keys of shoppers.

        Raises:
            RetentionError: A key is too long, or there is no secret.
        """
        for key in shoppers:
            if not 0 < len(key) <= _MOST_KEY_BYTES:
                raise RetentionError(
                    f"expected the key of a shopper, 1 to {_MOST_KEY_BYTES} bytes as in SHOPPER, got {len(key)} bytes"
                )
        keys = self.keys()
        return [keys.hashed(key) for key in shoppers]
