"""`endcap evaluate search` over the real server, on the held-out queries of the small shop."""

from pathlib import Path

from endcap_builders.evaluation.command import run_search
from endcap_builders.evaluation.request import EvaluationRequest, catalogue_of
from endcap_server.launch import Server
from endcap_server.stages.rerank import RerankParameters
from rich.console import Console


def test_search_is_measured_beside_the_models(build: Path, server: Server) -> None:
    settings = {"evaluate": {"max_queries": 12, "corpus_queries": 8}}
    request = EvaluationRequest(build, catalogue_of(build), name="test-search", overrides=settings)
    report = run_search(request, server.grpc_address, console=Console(quiet=True))
    assert list(report["systems"]) == ["random", "BM25", "bi-encoder", "teacher", "student", "served search"]
    served = report["systems"]["served search"]
    assert set(served["minus"]) == {"BM25", "bi-encoder", "teacher"}
    # The shop's searches are easy: whatever is served is far better than chance.
    for name in ("ndcg", "ndcg_exponential", "corpus_ndcg", "corpus_ndcg_exponential", "corpus_recall"):
        assert served["figures"][name]["value"] > report["systems"]["random"]["figures"][name]["value"]
    assert report["served"]["p95_ms"] >= report["served"]["p50_ms"] > 0
    assert 0 < report["served"]["pairs"] <= RerankParameters().search_cut
    assert "Searches, one at a time" in (build / "evaluation/test-search/built.md").read_text(encoding="utf-8")
