"""The traditional ranking model: LightGBM's scores of a shopper's candidates, calibrated to purchase probabilities."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from endcap_server.shop.behaviour import Behaviour
from endcap_server.shop.columns import Array
from endcap_server.shop.gates import GATES_FILE, GATES_FOLDER, is_installed
from endcap_server.shop.store import ItemStore
from endcap_server.stages.ranking_features import CAPTION_FEATURES, FEATURES, FeatureTables

__all__ = [
    "CAPTION_FEATURES",
    "FEATURES",
    "META_FILE",
    "MODEL_FILE",
    "RANKER",
    "FeatureTables",
    "Ranker",
    "RankerError",
    "calibrated",
]

MODEL_FILE, META_FILE = "model.txt", "ranker.json"
RANKER = "ranker"
"""Named among the engines in STATUS and metrics, although it runs in the stages themselves."""
FILES = (f"{RANKER}/{META_FILE}", f"{RANKER}/{MODEL_FILE}", f"{GATES_FOLDER}/{GATES_FILE}")
"""What :meth:`Ranker.installed` reads of a build."""


class RankerError(ValueError):
    """The ranker of a build is missing or does not fit; the message says what to do."""


class Ranker:
    """Scores products for a shopper; open it once, call it from one thread.

    A build without events has no ranking model: `available` is False, all scores are NaN, and fusion ignores them.
    """

    def __init__(self, build: Path):
        """Load the model of the build folder ``build``."""
        folder = build / RANKER
        self._build = build
        self._meta = _read_meta(folder / META_FILE)
        self._store: ItemStore | None = None
        self._tables: FeatureTables | None = None
        self._booster: Any = None
        if self._meta["kind"] == "none":
            return
        try:
            import lightgbm  # here, because it takes half a second, which a build without events can save
        except OSError as error:
            raise RankerError(
                f"LightGBM cannot be loaded ({error}); install the OpenMP runtime (Debian: apt install libgomp1)"
            ) from error

        unknown = [name for name in self._meta["features"] if name not in FEATURES]
        if unknown:
            raise RankerError(
                f"{folder / META_FILE}: expected features among {', '.join(FEATURES)}, got {unknown[0]}; "
                "run endcap build ranker"
            )
        self._columns = [FEATURES.index(name) for name in self._meta["features"]]
        try:
            self._booster = lightgbm.Booster(model_file=folder / MODEL_FILE)
        except lightgbm.basic.LightGBMError as error:
            raise RankerError(
                f"{folder / MODEL_FILE}: expected a LightGBM model, got {error}; run endcap build ranker"
            ) from error

    @classmethod
    def open(cls, build: Path, store: ItemStore | None = None) -> "Ranker":
        """Open the ranker of the build folder ``build``; with ``store``, prepare it for the first request."""
        ranker = cls(build)
        if store is not None and len(store):
            ranker.score(store, [0], [0])
        return ranker

    @classmethod
    def installed(cls, build: Path) -> "Ranker | None":
        """The ranker of the build folder ``build``; None if it has none, or one that no gate let in."""
        return cls.open(build) if (build / RANKER).exists() and is_installed(build, RANKER) else None

    @property
    def available(self) -> bool:
        """Whether there is a model, that is, whether the build had events."""
        return self._booster is not None

    @property
    def new_factor(self) -> float:
        """Weight of a product that is new to the shopper, relative to a repeat, in the value of a page: at least 1.

        1 + (products bought) / (new products bought), so that the shares of all and of new purchases count equally.
        """
        return float(self._meta.get("new_factor", 1.0))

    def signal(self, probability: Array) -> Array:
        """Map probabilities (float [n]) to 0..1, so that the mean of the training candidates becomes 0.5."""
        spread: Array = probability / (probability + self._meta.get("prior", 0.5))
        return spread

    def score(self, store: ItemStore, history_rows: Array | Sequence[int], rows: Array | Sequence[int]) -> Array:
        """Return the probability that the shopper buys each product in the next weeks: float32 [n]; NaN without model.

        Args:
            store: the item store of the same build.
            history_rows: int [h], the shopper's items, oldest first; may be empty.
            rows: int [n], candidate products.
        """
        rows = np.asarray(rows, np.int64)
        if self._booster is None or not len(rows):
            return np.full(len(rows), np.nan, np.float32)
        if self._tables is None or self._store is not store:
            self._store, self._tables = store, FeatureTables.of(store, Behaviour.open(self._build, store))
        features = self._tables.features(np.asarray(history_rows, np.int64), rows)
        # One thread: a few hundred rows are finished before a second thread wakes up.
        raw = self._booster.predict(features[:, self._columns], raw_score=True, num_threads=1, validate_features=False)
        return calibrated(raw, self._meta["scale"], self._meta["shift"])


def calibrated(raw: Array, scale: float, shift: float) -> Array:
    """Return float32 [n] in 0..1: sigmoid(scale * raw + shift)."""
    return (1 / (1 + np.exp(-np.clip(scale * np.asarray(raw) + shift, -60, 60)))).astype(np.float32)


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta["kind"] == "none":
            return dict(meta)
        return {
            "kind": str(meta["kind"]),
            "features": [str(name) for name in meta["features"]],
            "scale": float(meta["scale"]),
            "shift": float(meta["shift"]),
            "prior": float(meta["prior"]),
            "new_factor": float(meta["new_factor"]),
        }
    except FileNotFoundError:
        raise RankerError(f"{path}: expected the ranker of a build, found none; run endcap build ranker") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RankerError(
            f"{path}: expected the ranker's description, got {error!r}; run endcap build ranker"
        ) from error
