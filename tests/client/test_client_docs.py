"""The examples of the documentation run, as they stand, but for the addresses."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["docs/client.md", "client/README.md"])
def test_the_examples_run(service, address, capsys, name):
    page = service.outputs
    rankings = {key: page[key][1] for key in ("PRODUCT_ID", "SCORE", "SIGNALS")}
    service.outputs_of["search"] = {**rankings, "STATUS": page["STATUS"]}
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = _BLOCK.findall(text)
    assert blocks
    namespace: dict = {"__name__": "example"}
    for block in blocks:
        code = re.sub(r"ranking(-\d)?\.internal:8001", address, block)
        exec(compile(code, name, "exec"), namespace)
    assert "Rainy days" in capsys.readouterr().out
    assert {request.model_name for request in service.requests} == {"storefront", "search"}
