"""`endcap outcomes` on the command line."""

import argparse
from pathlib import Path
from typing import Any

from endcap_client import numbers

from endcap_builders.cli import reporting
from endcap_builders.outcomes.attribution import WINDOW_HOURS


def add_outcomes_command(subparsers: Any) -> None:
    """Add `endcap outcomes` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "outcomes",
        help="what came of the pages that were shown: clicks, cart adds, purchases",
        description="Join the record of what pages showed with the events that followed. Reports clicks, cart adds and "
        "purchases per page view, by generation, source, position, keyword and theme, with 95 %% intervals; compares "
        "two generations of `endcap apply --split`; and shows how inputs and scores drift. See docs/outcomes.md.",
    )
    parser.add_argument(
        "--exposures", type=Path, required=True, metavar="DIR", help="records of what was shown, e.g. BUILD/exposures"
    )
    parser.add_argument(
        "--events",
        type=Path,
        required=True,
        metavar="FILE",
        help="Parquet file, or folder of them, with user_id (sent as SHOPPER), product_id, timestamp, type (view, "
        "cart, purchase), and optionally page_id",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the report goes (default: outcomes, beside the exposures)"
    )
    parser.add_argument(
        "--secret", type=Path, metavar="FILE", help="the deployment's (default: exposures.key beside the exposures)"
    )
    parser.add_argument(
        "--ensemble",
        choices=("storefront", "search"),
        default="storefront",
        help="whose answers are measured (default: %(default)s)",
    )
    parser.add_argument(
        "--window-hours",
        type=numbers.number(0, 24 * 365, above=True),
        default=WINDOW_HOURS,
        metavar="HOURS",
        help="an event counts for the last page that showed the product to the shopper at most so long before "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--compare",
        type=numbers.generation,
        nargs=2,
        metavar=("CONTROL", "TREATMENT"),
        help="generations (default: the two that served most shoppers at the same time)",
    )
    parser.add_argument(
        "--share",
        type=numbers.share,
        metavar="SHARE",
        help="that `endcap apply --split` gave the treatment, e.g. 5%%; checks that it got it",
    )
    parser.add_argument(
        "--reference-days",
        type=numbers.count,
        default=1,
        metavar="N",
        help="a generation's first N days are the reference of its drift (default: %(default)s)",
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="report.json of an earlier run whose references are used",
    )
    parser.add_argument(
        "--metrics", type=Path, metavar="FILE", help="write drift for the textfile collector of node_exporter, too"
    )
    parser.set_defaults(run=reporting(_outcomes))


def _outcomes(arguments: argparse.Namespace) -> int:
    from endcap_builders.outcomes.command import OutcomesRequest, run_outcomes

    run_outcomes(
        OutcomesRequest(
            exposures=arguments.exposures,
            events=arguments.events,
            out=arguments.out,
            secret=arguments.secret,
            ensemble=arguments.ensemble,
            window_hours=arguments.window_hours,
            compared=tuple(arguments.compare) if arguments.compare else None,
            share=arguments.share,
            reference_days=arguments.reference_days,
            reference=arguments.reference,
            metrics=arguments.metrics,
        )
    )
    return 0
