"""The catalogue: the products, events, searches and judgements that a user brings."""

from endcap_builders.catalogue.read import catalogue_digest, read_catalogue
from endcap_builders.catalogue.schema import Catalogue, CatalogueError
from endcap_builders.catalogue.write import write_catalogue

__all__ = ["Catalogue", "CatalogueError", "catalogue_digest", "read_catalogue", "write_catalogue"]
