import io
import json
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint

import grpc
import polars as pl
import pytest
import trustme
from endcap_client import cli
from fake_server import sent, serving


@pytest.fixture
def only(monkeypatch):
    """Makes a set of entry points the only ones there are."""

    def put(*entries: tuple[str, str]) -> None:
        points = [EntryPoint(name, value, cli.COMMANDS) for name, value in entries]
        monkeypatch.setattr(cli, "entry_points", lambda group: points)

    return put


def test_a_page_as_a_table(service, address, capsys):
    assert cli.main(["request", "storefront", "--address", address, "--history", "p1", "p2", "--explain"]) == 0
    out = capsys.readouterr().out
    assert "1. Rainy days" in out
    assert "umbrella · rain coat" in out
    assert "relevance" in out
    assert "theme fallback 40.0 ms (theme_llm: no answer in time)" in out
    assert sent(service.requests[0])["HISTORY"] == ["p1", "p2"]


def test_a_page_as_html(service, address, capsys, tmp_path):
    pl.DataFrame({"product_id": ["p1"], "title": ["Blue <b>umbrella</b>"], "price": [9.5]}).write_parquet(
        tmp_path / "products.parquet"
    )
    file = tmp_path / "page.html"
    words = ["--html", str(file), "--catalogue", str(tmp_path)]
    assert cli.main(["request", "storefront", "--address", address, "--history", "p1", *words]) == 0
    assert capsys.readouterr().out.strip() == str(file)
    html = file.read_text(encoding="utf-8")
    assert "<h3>Rainy days</h3>" in html
    assert "Blue &lt;b&gt;umbrella&lt;/b&gt;" in html
    assert "9.50" in html
    assert cli.main(["request", "storefront", "--address", address, "--html", str(tmp_path / "no" / "page.html")]) == 2
    assert "a file that can be written" in capsys.readouterr().err


def test_a_page_as_json(service, address, capsys):
    words = ["--history", "p1", "--history", "p2", "--session", "tea", "--placements", "2", "--products", "3"]
    assert cli.main(["request", "storefront", "--address", address, "--json", "--budget-ms", "70", *words]) == 0
    page = json.loads(capsys.readouterr().out)
    assert [placement["theme"] for placement in page["placements"]] == ["Rainy days", "Tea & cake"]
    assert page["status"]["versions"] == {"catalogue": "c0ffee"}
    assert sent(service.requests[0]) == {
        "HISTORY": ["p1", "p2"],
        "SESSION": ["tea"],
        "PLACEMENTS": [2],
        "PRODUCTS": [3],
        "BUDGET_MS": [70],
    }


def test_a_search(search_service, address, capsys, tmp_path):
    rules = tmp_path / "rules.json"
    rules.write_text('{"pin": ["p4"]}', encoding="utf-8")
    words = ["--query", "green tea", "--rules", str(rules), "--timeout-s", "3"]
    assert cli.main(["request", "search", "--address", address, *words]) == 0
    assert "Search: green tea" in capsys.readouterr().out
    tensors = sent(search_service.requests[0])
    assert json.loads(tensors["RULES"][0]) == {"pin": ["p4"]}
    assert tensors["BUDGET_MS"] == [2985]


def test_titles_come_from_the_catalogue(service, address, capsys, tmp_path):
    pl.DataFrame({"product_id": ["p1"], "title": ["Blue umbrella"]}).write_parquet(tmp_path / "products.parquet")
    assert cli.main(["request", "storefront", "--address", address, "--catalogue", str(tmp_path)]) == 0
    assert "Blue umbrella" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["products.parquet", "products"])
def test_titles_come_from_a_folder_of_files(service, address, capsys, tmp_path, name):
    (tmp_path / name).mkdir()
    titles = pl.DataFrame({"product_id": ["p1"], "title": ["Blue umbrella"]})
    titles.write_parquet(tmp_path / name / "part-00000.snappy.parquet")
    (tmp_path / name / "_SUCCESS").touch()
    assert cli.main(["request", "storefront", "--address", address, "--catalogue", str(tmp_path)]) == 0
    assert "Blue umbrella" in capsys.readouterr().out


def test_titles_without_a_parquet_reader(monkeypatch, address, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "polars", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert cli.main(["request", "storefront", "--address", address, "--catalogue", str(tmp_path)]) == 2
    assert "needs polars or pyarrow" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--catalogue", "--rules"])
def test_a_missing_file(address, capsys, tmp_path, option):
    assert cli.main(["request", "storefront", "--address", address, option, str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"endcap request: {option}: expected")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        ((grpc.StatusCode.INVALID_ARGUMENT, "PRODUCTS: expected 1..100, got 0"), 2),
        ((grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"), 4),
        ((grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"), 5),
        ((grpc.StatusCode.INTERNAL, "model 'theme' died"), 1),
    ],
)
def test_exit_codes(service, address, capsys, failure, code):
    service.failure = failure
    assert cli.main(["request", "storefront", "--address", address]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("endcap request: ")
    assert captured.err.count("\n") == 1


def test_exit_code_of_no_connection(closed_port, capsys):
    assert cli.main(["request", "search", "--query", "tea", "--address", closed_port]) == 3
    assert "connection refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [[], ["request"], ["request", "search"], ["request", "storefront", "--placements", "x"]]
)
def test_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["request", "--help"], ["request", "storefront", "--help"]])
def test_help_tells_the_exit_codes(words, capsys, only):
    only()
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 0
    assert "3 no connection" in " ".join(capsys.readouterr().out.split())


def test_commands_of_other_packages(tmp_path, monkeypatch, capsys, only):
    (tmp_path / "shop_extras.py").write_text(
        textwrap.dedent(
            """
            def add_hello_command(subparsers):
                parser = subparsers.add_parser("hello", help="greet")
                parser.add_argument("name")
                parser.set_defaults(run=lambda arguments: print("hello", arguments.name) or 7)
            """
        ),
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    only(("hello", "shop_extras:add_hello_command"), ("broken", "no_such_package.cli:add"))
    assert cli.main(["hello", "you"]) == 7
    assert capsys.readouterr().out == "hello you\n"

    assert cli.main(["broken", "--anything"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("endcap broken: the Python package 'no_such_package' is not installed")

    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert "greet" in out
    assert "not available here" in out

    with pytest.raises(SystemExit) as caught:
        cli.main(["hallo"])
    assert caught.value.code == 2
    assert "'hello'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "says"),
    [("import os_of_tomorrow", "'os_of_tomorrow' is not installed"), ("1 / 0", "ZeroDivisionError")],
)
def test_a_package_that_does_not_load(tmp_path, monkeypatch, capsys, only, body, says):
    (tmp_path / "half_there.py").write_text(body, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "half_there", raising=False)
    only(("half", "half_there:add"))
    assert cli.main(["half"]) == 1
    assert says in capsys.readouterr().err


def test_a_request_imports_nothing_of_the_other_packages():
    code = (
        "import sys; from endcap_client import cli; cli.main(['request', 'search', '--query', 'x', '--address', 'x']);"
        "heavy = {'endcap_server', 'endcap_builders', 'torch', 'polars', 'pyarrow', 'rich'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_leaves_early(service, address):
    """`endcap request ... | head -1` ends without a traceback."""
    code = (
        "import sys; from endcap_client import cli;"
        f"sys.exit(cli.main(['request', 'storefront', '--json', '--address', '{address}']))"
    )
    service.outputs["STATUS"][0] = service.outputs["STATUS"][0][:-1] + b', "long": "' + b"x" * 500_000 + b'"}'
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""


def test_a_batch_of_requests(service, address, capsys, tmp_path):
    lines = ['{"history": ["p1"], "products": 3}', "", '{"history": "p1"}', '{"session": ["tea"], "explain": true}']
    (tmp_path / "requests.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert cli.main(["request", "batch", str(tmp_path / "requests.jsonl"), "--address", address]) == 2
    first, second, third = map(json.loads, capsys.readouterr().out.splitlines())
    assert [placement["theme"] for placement in first["placements"]] == ["Rainy days", "Tea & cake"]
    assert second["error"]["reason"] == "invalid"
    assert "HISTORY" in second["error"]["message"]
    assert third["placements"][0]["products"][0]["signals"] == {"relevance": 0.0, "ranker": 1.0}


def test_a_batch_of_searches(search_service, address, capsys, tmp_path):
    (tmp_path / "requests.jsonl").write_text('{"query": "tea"}\n{"query": "pot"}\n', encoding="utf-8")
    assert cli.main(["request", "batch", str(tmp_path / "requests.jsonl"), "--address", address]) == 0
    assert [json.loads(line)["query"] for line in capsys.readouterr().out.splitlines()] == ["tea", "pot"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: expected a JSON object"),
        ("[1]", "line 2: expected a JSON object, got [1]"),
        ('{"qeury": "tea"}', "line 2: expected keys among history, session"),
    ],
)
def test_a_batch_with_a_wrong_line_is_not_sent(service, address, capsys, tmp_path, line, says):
    (tmp_path / "requests.jsonl").write_text("{}\n" + line, encoding="utf-8")
    assert cli.main(["request", "batch", str(tmp_path / "requests.jsonl"), "--address", address]) == 2
    assert says in capsys.readouterr().err
    assert not service.requests


def test_a_batch_from_standard_input(service, address, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"products": 3}'))
    assert cli.main(["request", "batch", "-", "--address", address]) == 0
    assert sent(service.requests[0])["PRODUCTS"] == [3]
    assert cli.main(["request", "batch", "no-such-file", "--address", address]) == 2
    assert "FILE: expected a readable JSON-lines file" in capsys.readouterr().err


def test_several_addresses_and_headers(service, address, closed_port, capsys):
    words = ["--address", closed_port, address, "--metadata", "tenant=shop-7", "note=a=b", "--hedge"]
    assert cli.main(["request", "storefront", "--json", *words]) == 0
    assert service.metadata[0]["tenant"] == "shop-7"
    assert service.metadata[0]["note"] == "a=b"
    assert cli.main(["request", "storefront", "--address", address, "--metadata", "tenant"]) == 2
    assert "--metadata: expected KEY=VALUE" in capsys.readouterr().err


def test_retries_off(service, address, capsys):
    service.failures = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")]
    assert cli.main(["request", "storefront", "--address", address, "--attempts", "1"]) == 3
    assert len(service.requests) == 1
    service.failures = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")]
    assert cli.main(["request", "storefront", "--address", address]) == 0
    assert len(service.requests) == 3


def test_tls_options(service, capsys, tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("shop.example")
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    authority.cert_pem.write_to_path(str(tmp_path / "root.pem"))
    with serving(service, credentials=grpc.ssl_server_credentials([pair])) as address:
        root = ["--address", address, "--root-certificates", str(tmp_path / "root.pem")]
        assert cli.main(["request", "storefront", *root, "--server-name", "shop.example"]) == 0
        assert cli.main(["request", "storefront", *root]) == 1
    assert cli.main(["request", "storefront", "--private-key", "key.pem"]) == 2
    assert "tls.certificate_chain: expected a PEM file" in capsys.readouterr().err
