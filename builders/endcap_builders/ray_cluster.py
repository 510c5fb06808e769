"""Runs work in the actors of a Ray cluster, or of one that is started on this machine for it."""

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from endcap_builders.step import BuildError


class RayError(BuildError):
    """Ray cannot be used; the message says why."""


def on_ray(items: Sequence[dict[str, Any]], actor: type, arguments: tuple[Any, ...], address: str) -> Iterator[Any]:
    """Let actors work on items; an actor or a node that dies is replaced, and its item is worked on again.

    Args:
        items: What to work on, one after another in each actor.
        actor: Called with a batch of one item (name -> array of one value), answers a batch of rows. It should report
            what users can mend as data: the cluster would wrap an exception and try again.
        arguments: Of its constructor; they are pickled.
        address: Of the cluster; "local" starts one on this machine.

    Yields:
        The rows, in any order.

    Raises:
        RayError: Ray is not installed, or there is no cluster at the address.
    """
    # Set before the import, when Ray reads them. They switch off its usage reports.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError:
        raise RayError("Ray: expected the package ray, got none; pip install 'ray[data]', or work without it") from None

    started = not ray.is_initialized()
    if started:
        try:
            ray.init(
                address=address,
                include_dashboard=False if address == "local" else None,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        except (ConnectionError, ValueError) as error:
            raise RayError(f"Ray at {address}: expected a running cluster, got {error}") from None
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        gpu = ray.cluster_resources().get("GPU", 0) > 0
        actors = int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1))
        # A CPU actor uses all the cores that it requests, so several on one node would share them.
        actors = max(1, min(len(items), actors if gpu else len(ray.nodes())))
        rows = ray.data.from_items(list(items)).map_batches(
            actor,
            fn_constructor_args=arguments,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_gpus=1 if gpu else 0,
        )
        yield from rows.iter_rows()
    finally:
        if started:
            ray.shutdown()
