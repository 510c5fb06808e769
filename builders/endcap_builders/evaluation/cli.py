"""`endcap evaluate storefront|search|quality|captions` on the command line."""

import argparse
from pathlib import Path
from typing import Any

from endcap_client import numbers

from endcap_builders.cli import reporting, settings_given


def add_evaluate_command(subparsers: Any) -> None:
    """Add `endcap evaluate` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate",
        help="measure a build's pages or searches beside the simplest ones",
        description="Measure a build on what it has not seen, beside simple baselines, with 95 %% intervals. "
        "Reports go into the build's folder evaluation.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    _add_storefront(kinds)
    _add_search(kinds)
    _add_quality(kinds)
    _add_captions(kinds)


def _add_storefront(kinds: Any) -> None:
    parser: argparse.ArgumentParser = kinds.add_parser(
        "storefront",
        help="pages by what shoppers bought next",
        description="Ask for the pages of shoppers as they were when the build's events were cut, and measure which "
        "share of the products that they bought afterwards the pages show, beside pages of popular products, of the "
        "shopper's own, and of both. The build has to be made with --events-until or --hold-out-orders. Ctrl-C keeps "
        "the pages that are there; the same command goes on. See docs/storefront.md.",
    )
    _add_common(parser)
    parser.add_argument(
        "--against", default="", metavar="HOST:PORT", help="another server, asked for the same pages in turns"
    )
    parser.add_argument(
        "--purchases-until", type=_time, default="", metavar="TIME", help="only purchases before this time count"
    )
    parser.add_argument(
        "--shoppers",
        type=numbers.count_or_none,
        default=0,
        metavar="N",
        help="at most N shoppers, drawn at random (default: all)",
    )
    parser.add_argument("--seed", type=numbers.seed, default=0, help="of the draw (default: %(default)s)")
    parser.add_argument("--placements", type=numbers.count, default=4, help="of a page (default: %(default)s)")
    parser.add_argument("--products", type=numbers.count, default=12, help="of a placement (default: %(default)s)")
    parser.add_argument("--afresh", action="store_true", help="ask again for the pages of an interrupted run")
    parser.add_argument("--name", default="storefront", help="of the report (default: %(default)s)")
    parser.set_defaults(run=reporting(_storefront))


def _add_search(kinds: Any) -> None:
    parser: argparse.ArgumentParser = kinds.add_parser(
        "search",
        help="searches by what people judged relevant",
        description="Measure the search of a server of the build, and the build's retrievers, teacher and student, on "
        "judged queries that no model has seen: those of --queries and --labels, or the held-out ones of the "
        "catalogue. --grid trains teachers and students of several sizes instead (hours). See docs/relevance.md.",
    )
    _add_common(parser)
    _add_queries(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--models-only", action="store_true", help="ask no server")
    how.add_argument("--grid", action="store_true", help="train teachers and students by amount of data and layers")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.SETTING=VALUE",
        help="change a setting of evaluate, teacher or cross_encoder, e.g. evaluate.max_queries=200; may be repeated",
    )
    parser.add_argument("--name", default="", help="of the report (default: the folder of the queries)")
    parser.set_defaults(run=reporting(_search))


def _add_quality(kinds: Any) -> None:
    parser: argparse.ArgumentParser = kinds.add_parser(
        "quality",
        help="how often the quality checks are wrong",
        description="Measure the quality checks (AIQA) with 95 %% intervals: products against what people judged about "
        "queries that no model has seen (those of --queries and --labels, or the held-out ones of the catalogue); "
        "titles against good ones and corruptions of good ones; placements against planted misfits; and pages of a "
        "server: whether products fit their themes, by a judge and few labels of people. See docs/quality.md.",
    )
    _add_common(parser)
    _add_queries(parser)
    parser.add_argument(
        "--part", action="append", default=[], help="only this part: products, titles, placements; may be repeated"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="quality.SETTING=VALUE",
        help="change a setting, e.g. quality.most_false_drops=0.05; may be repeated",
    )
    parser.add_argument(
        "--set-floors",
        action="store_true",
        help="write the measured floors of products into the build's repository (relevance_floor and similarity_floor "
        "of fusion)",
    )
    parser.add_argument(
        "--human", type=Path, metavar="FILE", help="labels that people made with --label, for P-T@5 with few labels"
    )
    parser.add_argument(
        "--label",
        type=Path,
        metavar="FILE",
        help="measure nothing: ask in this terminal, one key each, whether products of the pages of an earlier run "
        "fit, and write the answers to FILE; continues where it stopped",
    )
    parser.add_argument("--labels-wanted", type=numbers.count, default=100, help="of --label (default: %(default)s)")
    parser.add_argument("--name", default="quality", help="of the report (default: %(default)s)")
    parser.set_defaults(run=reporting(_quality))


def _add_queries(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queries", type=Path, metavar="PATH", help="queries.parquet, or its folder")
    parser.add_argument("--labels", type=Path, metavar="PATH", help="labels.parquet, or its folder")
    parser.add_argument("--split", default="dev", help="of the queries, if they have splits (default: %(default)s)")


def _add_captions(kinds: Any) -> None:
    parser: argparse.ArgumentParser = kinds.add_parser(
        "captions",
        help="rankers with and without caption tokens, by what shoppers bought next",
        description="Train LightGBM and a DLRM-type ranker on earlier purchases, with and without caption tokens, and "
        "measure AUC, normalised entropy and nDCG on the last period, with 95 %% intervals over shoppers and seeds; "
        "products that nobody had bought before apart. The build needs the step store; the catalogue may have later "
        "events than the build. Ctrl-C keeps what is there; the same command goes on. See docs/captions.md.",
    )
    parser.add_argument("--build", type=Path, required=True, metavar="DIR", help="a build with the step store")
    parser.add_argument("--catalogue", type=Path, metavar="DIR", help="its catalogue (default: as it was built)")
    parser.add_argument(
        "--next",
        choices=("weeks", "basket"),
        default="weeks",
        help="predict the next weeks' purchases, or the rest of a basket for logs in which few shoppers come back "
        "(default: %(default)s)",
    )
    parser.add_argument("--system", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--seeds", type=numbers.count, default=5, help="runs of each system (default: %(default)s)")
    parser.add_argument(
        "--on",
        choices=("validation", "test"),
        default="test",
        help="measure on the last period, or on the one before it to choose settings (default: %(default)s)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.SETTING=VALUE",
        help="change a setting of tokens or dlrm, e.g. dlrm.id_dropout=0; may be repeated",
    )
    parser.add_argument("--name", default="captions", help="of the report (default: %(default)s)")
    parser.set_defaults(run=reporting(_captions))


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--build", type=Path, required=True, metavar="DIR", help="a finished build")
    parser.add_argument("--catalogue", type=Path, metavar="DIR", help="its catalogue (default: as it was built)")
    parser.add_argument(
        "--address", default="", metavar="HOST:PORT", help="a server of the build (default: one is started)"
    )
    parser.add_argument(
        "--timeout", type=numbers.seconds, default=10.0, help="seconds for an answer (default: %(default)s)"
    )


def _time(text: str) -> str:
    from endcap_builders.catalogue.cut import iso_time

    try:
        return iso_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, got {text!r}") from None


def _storefront(arguments: argparse.Namespace) -> int:
    from endcap_builders.evaluation.storefront import StorefrontEvaluation, run_storefront

    run_storefront(
        StorefrontEvaluation(
            build=arguments.build,
            catalogue=arguments.catalogue,
            address=arguments.address,
            against=arguments.against,
            purchases_until=arguments.purchases_until,
            shoppers=arguments.shoppers,
            seed=arguments.seed,
            placements=arguments.placements,
            products=arguments.products,
            timeout_s=arguments.timeout,
            name=arguments.name,
            afresh=arguments.afresh,
        )
    )
    return 0


def _search(arguments: argparse.Namespace) -> int:
    from endcap_builders.evaluation.command import run_built, run_evaluation, run_search
    from endcap_builders.evaluation.request import EvaluationRequest, catalogue_of

    asked = EvaluationRequest(
        arguments.build,
        arguments.catalogue or catalogue_of(arguments.build),
        arguments.queries,
        arguments.labels,
        arguments.split,
        arguments.name,
        settings_given(arguments.set),
    )
    if arguments.grid:
        run_evaluation(asked)
    elif arguments.models_only:
        run_built(asked)
    else:
        run_search(asked, arguments.address, arguments.timeout)
    return 0


def _quality(arguments: argparse.Namespace) -> int:
    from endcap_builders.evaluation.quality import QualityEvaluation, label, quality_settings, run_quality
    from endcap_builders.evaluation.request import EvaluationRequest, catalogue_of

    if arguments.label:
        made = label(arguments.build, arguments.name, arguments.label, arguments.labels_wanted)
        print(f"{made} labels in {arguments.label}; measure with them: --human {arguments.label}")
        return 0
    asked = EvaluationRequest(
        arguments.build,
        arguments.catalogue or catalogue_of(arguments.build),
        arguments.queries,
        arguments.labels,
        arguments.split,
    )
    settings = quality_settings(settings_given(arguments.set))
    run_quality(
        QualityEvaluation(
            asked,
            settings,
            tuple(arguments.part),
            arguments.name,
            arguments.human,
            arguments.address,
            arguments.timeout,
            arguments.set_floors,
        )
    )
    return 0


def _captions(arguments: argparse.Namespace) -> int:
    from endcap_builders.captions.dlrm import DlrmSettings
    from endcap_builders.captions.tokens import TokenSettings
    from endcap_builders.evaluation.captions import CaptionEvaluation, run_captions
    from endcap_builders.evaluation.request import catalogue_of
    from endcap_builders.step import check_sections, read_settings

    given = settings_given(arguments.set)
    check_sections(given, ("tokens", "dlrm"))
    run_captions(
        CaptionEvaluation(
            build=arguments.build,
            catalogue=arguments.catalogue or catalogue_of(arguments.build),
            baskets=arguments.next == "basket",
            systems=tuple(arguments.system),
            seeds=arguments.seeds,
            on=arguments.on,
            tokens=read_settings(TokenSettings, "tokens", given.get("tokens", {})),
            dlrm=read_settings(DlrmSettings, "dlrm", given.get("dlrm", {})),
            name=arguments.name,
        )
    )
    return 0
