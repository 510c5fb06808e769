"""`endcap prepare`: makes the pages that a store lacks, and writes them batch by batch."""

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from endcap_server.exposures.record import SECRET_FILE, ShopperKeys
from endcap_server.prepared.page import PreparedPage, history_digests, search_digests
from endcap_server.prepared.stores import PageStore, StoreError, is_redis, open_store, shown
from endcap_server.retention.prepared import store_address
from endcap_server.serving.access import ensure_key
from endcap_server.serving.deployment import DeploymentError, find_deployment
from endcap_server.serving.errors import LaunchError
from endcap_server.shop.facts import FOLDER as FACTS
from endcap_server.stages.status import read_versions
from rich.console import Console

from endcap_builders.manifest import read_manifest
from endcap_builders.prepare.errors import PrepareError
from endcap_builders.prepare.making import Made, MakerOptions, PageMaker, problems_of
from endcap_builders.prepare.ray_actors import made_on_ray
from endcap_builders.prepare.shoppers import Shopper, ShopperFile
from endcap_builders.step import progress_bar

_LOOKED_UP = 4096
_SHOWN = 5


@dataclass(frozen=True)
class PrepareRequest:
    """What is asked for.

    Attributes:
        build: The build that makes the pages.
        shoppers: The file of shoppers.
        store: Folder or Redis address; "": as the build's `theme` is configured.
        secret: File of the secret of the deployment; None: the build's.
        placements: Placements of a page.
        max_age_hours: Pages that are older are made again.
        batch: Shoppers that are computed side by side, and written together.
        ray: Address of a Ray cluster; "": this process.
    """

    build: Path
    shoppers: Path
    store: str = ""
    secret: Path | None = None
    placements: int = 4
    max_age_hours: float = 24.0
    batch: int = 128
    ray: str = ""


@dataclass
class Summary:
    """What a run did.

    Attributes:
        written: Pages.
        kept: Shoppers whose pages were up to date.
        problems: Why there is no page -> of how many shoppers.
        unknown: Products of histories that the catalogue does not have.
        seconds: Time that the pages took.
    """

    written: int = 0
    kept: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    seconds: float = 0.0

    @property
    def shoppers_per_second(self) -> float:
        """Shoppers that were computed in a second."""
        return (self.written + self.problems.total()) / self.seconds if self.seconds else 0.0

    def add(self, made: Sequence[Made]) -> None:
        """Count what came of shoppers."""
        self.written += sum(each.page is not None for each in made)
        self.problems += problems_of(made)
        self.unknown += sum(each.unknown for each in made)


def run_prepare(request: PrepareRequest, console: Console) -> Summary:
    """Make the pages that the store lacks; what is written stays when the run is interrupted.

    Raises:
        PrepareError: The file, the build or the store cannot be used, or no page could be made.
    """
    file = ShopperFile.check(request.shoppers)
    for line in _left_out(file):
        console.print(line, highlight=False, markup=False)
    address = request.store or store_address(request.build, _profile(request.build))
    keys = _keys(request)
    summary = Summary()
    try:
        with _alone(address), closing(open_store(address, keys.identity, write=True)) as store:
            _prepare(request, file, store, keys, console, summary)
    except StoreError as error:
        raise PrepareError(str(error)) from None
    for line in _said(summary, address):
        console.print(line, highlight=False, markup=False)
    if summary.problems and not summary.written and not summary.kept:
        reason, _ = summary.problems.most_common(1)[0]
        raise PrepareError(f"no page could be made: {reason}")
    return summary


def _prepare(
    request: PrepareRequest, file: ShopperFile, store: PageStore, keys: ShopperKeys, console: Console, summary: Summary
) -> None:
    with progress_bar(console) as progress:
        task = progress.add_task("pages", total=len(file))

        def done(count: int = 1) -> None:
            progress.advance(task, count)

        def kept(count: int) -> None:
            summary.kept += count
            done(count)

        lacking = _lacking(request, file, store, keys, kept)
        started = time.monotonic()
        for shoppers, made in _made(request, lacking, done):
            pages = {
                keys.hashed(shopper.key.encode()): each.page.value()
                for shopper, each in zip(shoppers, made, strict=True)
                if each.page is not None
            }
            if pages:
                store.put(pages)
            summary.add(made)
            summary.seconds = time.monotonic() - started


def _made(
    request: PrepareRequest, shoppers: Iterator[Shopper], done: Callable[..., None]
) -> Iterator[tuple[list[Shopper], list[Made]]]:
    """The pages of shoppers, in batches."""
    options = MakerOptions(
        request.build.resolve(), request.placements, _profile(request.build), _facts(request.build).resolve()
    )
    batches = iter(lambda: list(islice(shoppers, request.batch)), [])
    if request.ray:
        for batch, made in made_on_ray(batches, options, request.ray):
            done(len(batch))
            yield batch, made
        return
    first = next(batches, None)
    if first is not None:
        with closing(PageMaker(options)) as maker:
            for batch in chain([first], batches):
                yield batch, maker.make(batch, done)


def _lacking(
    request: PrepareRequest, file: ShopperFile, store: PageStore, keys: ShopperKeys, kept: Callable[[int], None]
) -> Iterator[Shopper]:
    """The shoppers without a page of this build and of their history that is young enough."""
    versions = read_versions(request.build)
    oldest_s = time.time() - 3600 * request.max_age_hours
    shoppers = iter(file)
    while several := list(islice(shoppers, _LOOKED_UP)):
        values = store.get_all([keys.hashed(shopper.key.encode()) for shopper in several])
        lacking = []
        for shopper, value in zip(several, values, strict=True):
            page = None if value is None else PreparedPage.read(value)
            if page is None or not (
                page.made_s >= oldest_s
                and page.versions == versions
                and page.placements >= request.placements
                and page.moved_on(history_digests(shopper.history)[:1], search_digests(shopper.session)) == 0
            ):
                lacking.append(shopper)
        kept(len(several) - len(lacking))
        yield from lacking


@contextmanager
def _alone(address: str) -> Iterator[None]:
    """Keep a second run out of a folder: both would make the same pages."""
    if is_redis(address):
        yield
        return
    folder = Path(address)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise PrepareError(f"{folder}: expected a folder for prepared pages, got {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise PrepareError(f"{folder}: another endcap prepare writes to it; wait for its end") from None
    finally:
        os.close(descriptor)


def _keys(request: PrepareRequest) -> ShopperKeys:
    """The hashes of shoppers by the secret of the deployment; a build that was never served gets one."""
    file = request.secret or request.build / SECRET_FILE
    if request.secret is None:
        try:
            ensure_key(file)
        except LaunchError as error:
            raise PrepareError(str(error)) from None
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise PrepareError(f"{file}: expected the secret of the deployment, got {error.strerror}") from None
    if not secret:
        raise PrepareError(f"{file}: expected the secret of the deployment, got an empty file")
    return ShopperKeys(secret)


def _facts(build: Path) -> Path:
    try:
        return find_deployment(build, None, "facts", FACTS)[1]
    except DeploymentError as error:
        raise PrepareError(str(error)) from None


def _profile(build: Path) -> str:
    return str(read_manifest(build).get("profile", "cpu"))


def _left_out(file: ShopperFile) -> Iterator[str]:
    if file.left_out:
        yield f"{file.path}: {file.left_out} lines left out; {'; '.join(file.problems)}"
    if file.repeated:
        yield f"{file.path}: {file.repeated} lines of shoppers that come again; the last one of each counts"


def _said(summary: Summary, address: str) -> Iterator[str]:
    speed = f" ({summary.shoppers_per_second:.1f} shoppers/s)" if summary.seconds else ""
    yield f"{summary.written:,} pages written to {shown(address)}{speed}, {summary.kept:,} up to date"
    for reason, count in summary.problems.most_common(_SHOWN):
        yield f"{count:,} shoppers without a page: {reason}"
    if summary.unknown:
        yield f"{summary.unknown:,} products of histories are not in the catalogue"
