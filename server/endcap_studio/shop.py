"""What a served build says of its products: the item store with today's facts, behaviour, pictures and shoppers."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from endcap_builders.catalogue.files import table_files
from endcap_builders.catalogue.schema import PRODUCTS
from endcap_client import Product
from endcap_client.products import picture_file
from endcap_server.shop.behaviour import Behaviour
from endcap_server.shop.facts import Facts
from endcap_server.shop.store import ItemStore

from endcap_studio.shoppers import Shoppers
from endcap_studio.titles import TitleSearch


@dataclass(frozen=True)
class _Extras:
    """What takes a moment to read."""

    titles: TitleSearch
    shoppers: Shoppers | None
    images: Mapping[str, str]
    problem: str


class Shop:
    """A build. Thread-safe; what takes long is read in a thread of its own.

    Args:
        folder: The build, or a snapshot of a generation.
        facts: Folder of the facts.
        catalogue: Folder of the catalogue; None: unknown.
    """

    def __init__(self, folder: Path, facts: Path, catalogue: Path | None) -> None:
        self.folder, self.catalogue = folder, catalogue
        self.store = ItemStore.open(folder)
        self.behaviour = Behaviour.open(folder, self.store)
        self.facts = Facts(self.store, facts)
        self._extras: _Extras | None = None
        self._read = threading.Thread(target=self._read_extras, name="studio-shop", daemon=True)
        self._read.start()

    @property
    def extras(self) -> _Extras:
        """Titles, shoppers and pictures; waits until they are read."""
        self._read.join()
        assert self._extras is not None
        return self._extras

    @property
    def shoppers(self) -> Shoppers | None:
        """The shoppers; None for a build without events."""
        return self.extras.shoppers

    def row(self, product: str) -> int:
        """Row of a product; -1 for an unknown one."""
        return int(self.store.product_ids.find([product])[0])

    def find(self, text: str, count: int) -> list[int]:
        """Rows of products by id, or by words of their titles."""
        row = self.row(text.strip()) if text.strip() else -1
        found = [each for each in self.extras.titles.find(text, count) if each != row]
        return ([row, *found] if row >= 0 else found)[:count]

    def products(self, ids: Iterable[str]) -> dict[str, Product]:
        """What the shop shows of products; unknown ids are left out."""
        wanted = list(dict.fromkeys(ids))
        rows = self.store.product_ids.find(wanted).tolist() if wanted else []
        now = self.facts.now()
        return {
            product: self._product(row, float(now.price[row]), float(now.share[row]))
            for product, row in zip(wanted, rows, strict=True)
            if row >= 0
        }

    def title(self, row: int) -> str:
        """Title of a product."""
        return self.store.titles[row]

    def picture(self, product: str) -> Path | None:
        """File of a product's picture."""
        image = self.extras.images.get(product, "")
        return picture_file(self.catalogue, image) if self.catalogue is not None else None

    def _product(self, row: int, price: float, share: float) -> Product:
        store = self.store
        brand, category = int(store.brand[row]), int(store.category[row])
        product = store.product_ids[row]
        # Pictures are read with the other things that take long, which the first pages need not wait for.
        images = self._extras.images if self._extras is not None else {}
        return Product(
            store.titles[row],
            brand=store.brands[brand] if brand >= 0 else "",
            category=store.categories[category] if category >= 0 else "",
            price=None if np.isnan(price) else price,
            in_stock=share,
            picture=f"/picture/{product}" if product in images else "",
        )

    def _read_extras(self) -> None:
        store = self.store
        brands = ["", *store.brands]
        titles = TitleSearch(store.titles, (brands[each + 1] for each in store.brand.tolist()), store.popularity)
        shoppers, images, problem = None, dict[str, str](), ""
        if self.catalogue is None or not self.catalogue.is_dir():
            problem = "the catalogue that it was built from is not on this machine; name its folder with --catalogue"
        else:
            try:
                shoppers = Shoppers.read(self.catalogue, store)
                images = _images(self.catalogue)
                problem = "" if shoppers is not None else "its catalogue has no events"
            except (OSError, pl.exceptions.PolarsError, ValueError, LookupError) as error:
                problem = f"its catalogue cannot be read: {error}"
        self._extras = _Extras(titles, shoppers, images, problem)


def _images(catalogue: Path) -> dict[str, str]:
    """Product -> its picture in the catalogue, for those that are files of it."""
    _, files = table_files(catalogue, PRODUCTS, []) or (None, [])
    if not files:
        return {}
    frame = pl.scan_parquet(files)
    if "image" not in frame.collect_schema().names():
        return {}
    named = frame.select(pl.col("product_id").cast(pl.String), "image").filter(
        pl.col("image").is_not_null() & ~pl.col("image").str.contains("://", literal=True)
    )
    return {product: image for product, image in named.collect().iter_rows() if picture_file(catalogue, image)}
