"""Client of endcap storefronts and product search.

>>> from endcap_client import Client, Rules
>>> with Client("127.0.0.1:8001", timeout_s=0.5) as client:  # doctest: +SKIP
...     page = client.storefront(history=["p1", "p2"], rules=Rules(max_per_brand=2))
...     page.placements[0].theme
"""

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
from endcap_client.types import Page, Placement, Rules, ScoredProduct, SearchResult, StageStatus, Status

__all__ = [
    "DEFAULT_ADDRESS",
    "Client",
    "DeadlineExceeded",
    "EndcapError",
    "InvalidArgument",
    "ModelError",
    "Overloaded",
    "Page",
    "Placement",
    "ProtocolError",
    "Refused",
    "Rules",
    "ScoredProduct",
    "SearchResult",
    "StageStatus",
    "Status",
]
