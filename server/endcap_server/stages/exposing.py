"""What fusion hands to the sink of exposures, and how the sink is opened."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from endcap_server.exposures.journal import SegmentLimits, SegmentWriter
from endcap_server.exposures.kafka import KafkaWriter, read_settings
from endcap_server.exposures.ledger import Ledger
from endcap_server.exposures.record import Exposure, exposures_folder
from endcap_server.exposures.sink import ExposureSink
from endcap_server.stages.documents import PageRequest
from endcap_server.stages.fusion_parameters import FusionParameters


@dataclass(frozen=True)
class Shown:
    """What a page shows.

    Attributes:
        placements: STATUS.placements of each placement shown.
        titles: [P].
        keywords: [P * K], "" padded; of a search none.
        products: [P * N] ids, "" padded.
        score: float32 [P, N].
    """

    placements: Sequence[Mapping[str, str]]
    titles: Sequence[str]
    keywords: Sequence[str]
    products: Sequence[str]
    score: np.ndarray


def open_sink(settings: FusionParameters) -> ExposureSink | None:
    """The sink of this process; None if exposures are off, or no server named a folder.

    Raises:
        KafkaError: The file of Kafka's settings is wrong, or confluent-kafka is not installed.
    """
    folder = exposures_folder()
    if folder is None or not settings.record_exposures:
        return None
    ledger = Ledger(folder, f"{os.getpid()}-{time.time_ns() // 1_000_000:x}")
    return ExposureSink(_writer(ledger, settings), ledger, settings.exposures_waiting)


def _writer(ledger: Ledger, settings: FusionParameters) -> KafkaWriter | SegmentWriter:
    if settings.exposure_kafka:
        return KafkaWriter(ledger, read_settings(Path(settings.exposure_kafka)), settings.exposure_topic)
    limits = SegmentLimits(
        rows=settings.exposure_segment_rows,
        seconds=settings.exposure_segment_s,
        bytes=int(settings.exposure_megabytes * 1e6),
        days=settings.exposure_days,
    )
    return SegmentWriter(ledger, limits)


def exposure_of(
    page_id: str, page: PageRequest, generation: int, parts: Mapping[str, Mapping[str, Any]], shown: Shown
) -> Exposure:
    """The exposure of a page; ``parts`` are the parts of STATUS by stage."""
    retrieval = parts.get("retrieval", {})
    is_search = page.is_search
    return Exposure(
        page_id=page_id,
        ensemble="search" if is_search else "storefront",
        shopper=page.ticket.shopper,
        time_ns=time.time_ns(),
        generation=generation,
        query=shown.titles[0] if is_search else "",
        history=int(retrieval.get("known_history", 0)),
        unknown_ids=int(retrieval.get("unknown_ids", 0)),
        placements=shown.placements,
        titles=shown.titles,
        keywords=shown.keywords,
        products=shown.products,
        score=shown.score,
    )
