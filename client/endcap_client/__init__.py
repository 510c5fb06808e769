"""Client of endcap storefronts and product search.

>>> from endcap_client import Client, Rules
>>> with Client("127.0.0.1:8001", timeout_s=0.5) as client:  # doctest: +SKIP
...     page = client.storefront(history=["p1", "p2"], rules=Rules(max_per_brand=2))
...     page.placements[0].theme
"""

from endcap_client.aio_client import AsyncClient
from endcap_client.client import DEFAULT_ADDRESS, Client
from endcap_client.errors import (
    DeadlineExceeded,
    EndcapError,
    InvalidArgument,
    ModelError,
    Overloaded,
    ProtocolError,
    Refused,
)
from endcap_client.options import Hedge, Keepalive, Options, Retry, Tls
from endcap_client.policy import Counts
from endcap_client.requests import SearchRequest, StorefrontRequest
from endcap_client.types import Page, Placement, Product, Rules, ScoredProduct, SearchResult, StageStatus, Status

__all__ = [
    "DEFAULT_ADDRESS",
    "AsyncClient",
    "Client",
    "Counts",
    "DeadlineExceeded",
    "EndcapError",
    "Hedge",
    "InvalidArgument",
    "Keepalive",
    "ModelError",
    "Options",
    "Overloaded",
    "Page",
    "Placement",
    "Product",
    "ProtocolError",
    "Refused",
    "Retry",
    "Rules",
    "ScoredProduct",
    "SearchRequest",
    "SearchResult",
    "StageStatus",
    "Status",
    "StorefrontRequest",
    "Tls",
]
