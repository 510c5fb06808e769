"""Faulty edits of `model_repository/`, each with what lint has to find: the table of `test_lint_faults.py`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from endcap_server.models import DECLARATIONS

STOREFRONT = "storefront/config.pbtxt"
SEARCH = "search/config.pbtxt"
RETRIEVAL = "retrieval/config.pbtxt"
THEME = "theme/config.pbtxt"
KEYWORDS = "keywords/config.pbtxt"
RERANK = "rerank/config.pbtxt"
FUSION = "fusion/config.pbtxt"
NEAREST = "nearest/config.pbtxt"
THEME_LLM = "theme_llm/config.pbtxt"
NEAREST_GPU = "nearest/configs/gpu.pbtxt"
CROSS_GPU = "cross_encoder/configs/gpu.pbtxt"

Edit = tuple[str, str, str]
"""(file, text, what takes its place); the text stands in the file once, or the first one is meant."""
Expected = tuple[str, str, str | int]
"""(code, file, text of the line after the edit, or its number)."""


@dataclass(frozen=True)
class Fault:
    """An edit that breaks the repository, and all that lint may say about it."""

    name: str
    edits: tuple[Edit, ...]
    finds: tuple[Expected, ...]
    act: Callable[[Path], object] | None = field(default=None)
    """Something besides editing texts, given the repository."""


def fault(name: str, *steps: Edit | Expected, act: Callable[[Path], object] | None = None) -> Fault:
    """Edits and expectations in one line: an expectation begins with its code."""
    expected = tuple(each for each in steps if each[0][0] in "EW" and each[0][1:].isdigit())
    edits = tuple((str(a), str(b), str(c)) for a, b, c in steps if (a, b, c) not in expected)
    return Fault(name, edits, expected, act)


def _value(file: str, parameter: str, value: str) -> Edit:
    """Gives a parameter of a configuration for CPUs another value than its default."""
    default = getattr(DECLARATIONS[file.partition("/")[0]].parameters(), parameter)
    head = f'"{parameter}" value: {{ string_value: '
    return file, f'{head}"{default}"', f'{head}"{value}"'


def _remove(name: str) -> Callable[[Path], object]:
    def act(repository: Path) -> None:
        path = repository / name
        for child in sorted(path.rglob("*"), reverse=True):
            child.rmdir() if child.is_dir() else child.unlink()
        path.rmdir() if path.is_dir() else path.unlink()

    return act


def _write(name: str, text: str) -> Callable[[Path], object]:
    def act(repository: Path) -> None:
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    return act


def _truncate(name: str, lines: int) -> Callable[[Path], object]:
    def act(repository: Path) -> None:
        path = repository / name
        path.write_text("\n".join(path.read_text(encoding="utf-8").split("\n")[:lines]), encoding="utf-8")

    return act


_CACHE = 'backend: "python"\nresponse_cache { enable: true }'
_THEME_REQUEST = '  { name: "THEME_REQUEST" data_type: TYPE_UINT8 dims: [ -1 ] }\n'
_CYCLE_STEP = 'input_map { key: "CANDIDATE_ROW" value: "candidate_row" }\n      input_map { key: "PAGE"'
_TOY = 'backend: "python"\nmax_batch_size: 0\ninput [ { name: "A" data_type: TYPE_FP32 dims: [ 1 ] } ]\n'
_TOY_END = 'output [ { name: "B" data_type: TYPE_FP32 dims: [ 1 ] } ]\n'

FILES = (
    fault("truncated file", ("E101", STOREFRONT, 60), act=_truncate(STOREFRONT, 60)),
    fault("misspelt field", (FUSION, "max_batch_size", "max_batchsize"), ("E101", FUSION, "max_batchsize")),
    fault("misspelt type", (RERANK, "TYPE_INT32", "TYPE_INT23"), ("E101", RERANK, "TYPE_INT23")),
    fault("missing quote", (THEME, 'string_value: "1" }', 'string_value: "1 }'), ("E101", THEME, 'string_value: "1 }')),
    fault("missing comma", (SEARCH, "optional: true },", "optional: true }"), ("E101", SEARCH, 6)),
    fault("number for a text", (FUSION, '"0.25"', "0.25"), ("E101", FUSION, "string_value: 0.25")),
    fault("unreadable GPU profile", (NEAREST_GPU, "KIND_GPU", "KIND_GPU_"), ("E101", NEAREST_GPU, "KIND_GPU_")),
    fault("folder without config", ("E102", "spare", 0), act=_write("spare/1/model.py", "")),
    fault("other name", (RERANK, 'backend: "python"', 'name: "reranc"\nbackend: "python"'), ("E103", RERANK, "reranc")),
    fault("no model.py", ("E104", RERANK, 'backend: "python"'), act=_remove("rerank/1/model.py")),
    fault("no version folder", ("E104", FUSION, 'backend: "python"'), act=_remove("fusion/1")),
    fault("broken model.py", ("E105", "theme/1/model.py", 3), act=_write("theme/1/model.py", '"""x"""\n\nimport (\n')),
    fault(
        "model.py without a model",
        ("fusion/1/model.py", "TritonPythonModel", "TritonPythonModell"),
        ("E105", "fusion/1/model.py", 1),
    ),
    fault(
        "version policy without a folder",
        (THEME, 'backend: "python"', 'backend: "python"\nversion_policy { specific { versions: [ 3 ] } }'),
        ("E106", THEME, "version_policy"),
    ),
    fault("field twice", (RERANK, "max_batch_size: 0", "max_batch_size: 0\nmax_batch_size: 0"), ("E107", RERANK, 4)),
    fault("field twice with other values", (RERANK, "size: 0", "size: 4\nmax_batch_size: 0"), ("E101", RERANK, 4)),
    fault(
        "field newer than the server",
        (STOREFRONT, "  step [", "  max_inflight_requests: 8\n  step ["),
        ("E108", STOREFRONT, "max_inflight_requests"),
    ),
    fault(
        "profile of no name", ("W109", "nearest/configs/gpuu.pbtxt", 0), act=_write("nearest/configs/gpuu.pbtxt", "")
    ),
)

SETTINGS = (
    fault("misspelt backend", (THEME, '"python"', '"pyhton"'), ("E201", THEME, "pyhton")),
    fault(
        "ensemble with instances",
        (SEARCH, "max_batch_size: 0", "max_batch_size: 0\ninstance_group [ { count: 1 } ]"),
        ("E201", SEARCH, "instance_group"),
    ),
    fault("steps in no ensemble", (SEARCH, 'platform: "ensemble"\n', ""), ("E201", SEARCH, "ensemble_scheduling {")),
    fault("negative batch", (RERANK, "max_batch_size: 0", "max_batch_size: -1"), ("E202", RERANK, "max_batch_size")),
    fault(
        "preferred batch too large",
        (RERANK, "max_batch_size: 0", "max_batch_size: 0\ndynamic_batching {\n  preferred_batch_size: [ 4 ]\n}"),
        ("E202", RERANK, "preferred_batch_size"),
        ("W203", RERANK, "dynamic_batching"),
    ),
    fault("dimension 0", (RERANK, "[ -1, -1, 4 ]", "[ -1, -1, 0 ]"), ("E205", RERANK, "MEASURED")),
    fault("no dims", (RERANK, "TYPE_FP32 dims: [ -1, -1, 4 ]", "TYPE_FP32"), ("E205", RERANK, "MEASURED")),
    fault("no type", (RERANK, "data_type: TYPE_FP32 dims: [ -1, -1", "dims: [ -1, -1"), ("E205", RERANK, "MEASURED")),
    fault(
        "tensor twice",
        (
            THEME,
            "[ -1 ] }\n]\noutput",
            '[ -1 ] },\n  { name: "THEME_REQUEST" data_type: TYPE_UINT8 dims: [ -1 ] }\n]\noutput',
        ),
        ("E205", THEME, 6),
    ),
    fault(
        "misspelt input of a stage and its map",
        (RETRIEVAL, '"SESSION"', '"SESION"'),
        (STOREFRONT, 'key: "SESSION"', 'key: "SESION"'),
        ("E206", RETRIEVAL, '"SESION"'),
    ),
    fault(
        "engine without an input",
        (THEME_LLM, '  { name: "GRAMMAR" data_type: TYPE_STRING dims: [ -1 ] },\n', ""),
        ("E207", THEME_LLM, '"PROMPT"'),
    ),
    fault(
        "contract without an output",
        (STOREFRONT, '  { name: "SIGNALS" data_type: TYPE_FP32 dims: [ -1, -1, -1 ] },\n', ""),
        (STOREFRONT, '      output_map { key: "SIGNALS" value: "SIGNALS" }\n', ""),
        ("E207", STOREFRONT, 'name: "THEME" data_type'),
    ),
    fault(
        "wrong type at both ends",
        (RERANK, '"MEASURED" data_type: TYPE_FP32', '"MEASURED" data_type: TYPE_FP64'),
        (FUSION, '"MEASURED" data_type: TYPE_FP32', '"MEASURED" data_type: TYPE_FP64'),
        ("E208", RERANK, '"MEASURED" data_type'),
        ("E208", FUSION, '"MEASURED" data_type'),
    ),
    fault("wrong type of a stage", (FUSION, "TYPE_INT32", "TYPE_INT64"), ("E208", FUSION, '"CANDIDATE_ROW"')),
    fault(
        "wrong shape of a stage",
        (
            RERANK,
            '"CANDIDATE_ROW" data_type: TYPE_INT32 dims: [ -1 ]',
            '"CANDIDATE_ROW" data_type: TYPE_INT32 dims: [ 40 ]',
        ),
        ("E208", RERANK, '"CANDIDATE_ROW"'),
    ),
    fault(
        "stage that batches",
        (THEME_LLM, "max_batch_size: 0", "max_batch_size: 8"),
        *(("E208", THEME_LLM, f'"{name}"') for name in ("PROMPT", "GRAMMAR", "MAX_TOKENS", "TEXT", "FINISH")),
    ),
    fault(
        "contract with other dims",
        (STOREFRONT, '"PRODUCTS" data_type: TYPE_INT32 dims: [ 1 ]', '"PRODUCTS" data_type: TYPE_INT32 dims: [ -1 ]'),
        ("E208", STOREFRONT, '"PRODUCTS" data_type'),
    ),
    fault(
        "contract with a required input",
        (
            SEARCH,
            '"RULES" data_type: TYPE_STRING dims: [ 1 ] optional: true',
            '"RULES" data_type: TYPE_STRING dims: [ 1 ]',
        ),
        ("E208", SEARCH, '"RULES" data_type'),
    ),
    fault(
        "wrong type in the GPU profile",
        (NEAREST_GPU, '"K" data_type: TYPE_INT32', '"K" data_type: TYPE_INT64'),
        ("E208", NEAREST_GPU, '"K"'),
    ),
    fault("GPU in the CPU profile", (NEAREST, "KIND_CPU", "KIND_GPU"), ("E209", NEAREST, "KIND_GPU")),
    fault("GPUs for a CPU", (RERANK, "count: 1", "count: 1 gpus: [ 0 ]"), ("E209", RERANK, "gpus")),
    fault("absurd instances", (RERANK, "count: 1", "count: 500"), ("E209", RERANK, "count: 500")),
    fault("no instances", (RERANK, "count: 1", "count: 0"), ("E209", RERANK, "count: 0")),
    fault("negative GPU", (CROSS_GPU, "gpus: [ 0 ]", "gpus: [ -1 ]"), ("E209", CROSS_GPU, "gpus: [ -1 ]")),
    fault("several engines", (NEAREST, "count: 1", "count: 2"), ("W210", NEAREST, "count: 2")),
    fault("guessed kind", (RERANK, "kind: KIND_CPU count", "count"), ("W211", RERANK, "instance_group")),
    fault(
        "decoupled stage",
        (FUSION, 'backend: "python"', 'backend: "python"\nmodel_transaction_policy { decoupled: true }'),
        ("E212", FUSION, "decoupled"),
    ),
    fault(
        "GPU engine on the CPU",
        (CROSS_GPU, "KIND_GPU count: 1 gpus: [ 0 ]", "KIND_CPU count: 1"),
        ("E213", CROSS_GPU, '"implementation"'),
    ),
    fault("CPU engine on the GPU", (CROSS_GPU, '"tensorrt"', '"openvino"'), ("E213", CROSS_GPU, '"openvino"')),
    fault("no GPU profile", ("W214", "theme_llm", 0), act=_remove("theme_llm/configs")),
)

WIRING = (
    fault("step without maps", (SEARCH, '      model_name: "rerank"\n', ""), ("E301", SEARCH, 36)),
    fault(
        "missing model",
        (STOREFRONT, '"keywords"\n', '"keyword"\n'),
        ("E302", STOREFRONT, '"keyword"\n'),
    ),
    fault(
        "misspelt input of a step",
        (SEARCH, 'key: "KEYWORDS"', 'key: "KEYWORD"'),
        ("E303", SEARCH, '"KEYWORD"'),
    ),
    fault(
        "misspelt output of a step",
        (SEARCH, 'key: "FIRST_SCORE"', 'key: "FIRST_SCORES"'),
        ("E304", SEARCH, "FIRST_SCORES"),
    ),
    fault(
        "required input not mapped",
        (SEARCH, '      input_map { key: "MEASURED" value: "measured" }\n', ""),
        (SEARCH, '      output_map { key: "MEASURED" value: "measured" }\n', ""),
        ("E305", SEARCH, '"fusion"'),
    ),
    fault(
        "key mapped twice",
        (
            SEARCH,
            'input_map { key: "RERANK_STATUS" value: "rerank_status" }',
            'input_map { key: "RERANK_STATUS" value: "page" }\n'
            '      input_map { key: "RERANK_STATUS" value: "rerank_status" }',
        ),
        ("E306", SEARCH, 'input_map { key: "RERANK_STATUS" value: "rerank_status" }'),
    ),
    fault(
        "misspelt tensor read",
        (
            SEARCH,
            'input_map { key: "RERANK_STATUS" value: "rerank_status" }',
            'input_map { key: "RERANK_STATUS" value: "rerank_stauts" }',
        ),
        ("E307", SEARCH, "rerank_stauts"),
        ("E309", SEARCH, 'output_map { key: "RERANK_STATUS"'),
    ),
    fault(
        "tensor produced twice",
        (
            STOREFRONT,
            'output_map { key: "ROW" value: "row" }',
            'output_map { key: "ROW" value: "measured" }',
        ),
        ("E308", STOREFRONT, 'output_map { key: "MEASURED" value: "measured" }'),
        ("E313", STOREFRONT, 'input_map { key: "MEASURED"'),
        ("E307", STOREFRONT, 'input_map { key: "ROW"'),
    ),
    fault(
        "tensor over an input",
        (
            SEARCH,
            'output_map { key: "CANDIDATE_ROW" value: "candidate_row" }',
            'output_map { key: "CANDIDATE_ROW" value: "PRODUCTS" }',
        ),
        (
            SEARCH,
            'input_map { key: "CANDIDATE_ROW" value: "candidate_row" }',
            'input_map { key: "CANDIDATE_ROW" value: "PRODUCTS" }',
        ),
        ("E308", SEARCH, 'output_map { key: "CANDIDATE_ROW" value: "PRODUCTS" }'),
        ("E312", SEARCH, 'input_map { key: "PRODUCTS" value: "PRODUCTS" }'),
        ("E317", SEARCH, 'input_map { key: "CANDIDATE_ROW" value: "PRODUCTS" }'),
    ),
    fault(
        "unused tensor",
        (
            SEARCH,
            '      output_map { key: "QUERY_THEMES"',
            '      output_map { key: "THEME_REQUEST" value: "theme_request" }\n      output_map { key: "QUERY_THEMES"',
        ),
        ("E309", SEARCH, '"theme_request"'),
    ),
    fault(
        "input not used",
        (STOREFRONT, '      input_map { key: "SESSION" value: "SESSION" }\n', ""),
        ("E310", STOREFRONT, 'name: "SESSION"'),
    ),
    fault(
        "output not produced",
        (SEARCH, '      output_map { key: "FIRST_SIGNALS" value: "SIGNALS" }\n', ""),
        ("E311", SEARCH, 'name: "SIGNALS"'),
    ),
    fault(
        "cycle",
        (
            STOREFRONT,
            _CYCLE_STEP,
            _CYCLE_STEP.replace("candidate_row", "row").replace("CANDIDATE_ROW", "CANDIDATE_ROW"),
        ),
        ("E312", STOREFRONT, 'key: "CANDIDATE_ROW" value: "row"'),
        ("E314", STOREFRONT, 'key: "CANDIDATE_ROW" value: "row"'),
    ),
    fault(
        "cycle of three steps",
        (
            STOREFRONT,
            'input_map { key: "THEME_REQUEST" value: "theme_request"',
            'input_map { key: "THEME_REQUEST" value: "rerank_status"',
        ),
        ("E312", STOREFRONT, 'input_map { key: "THEME_REQUEST"'),
        ("E309", STOREFRONT, 'output_map { key: "THEME_REQUEST"'),
    ),
    fault(
        "types of an edge",
        (
            SEARCH,
            'key: "ROW" value: "row" }\n      input_map',
            'key: "ROW" value: "measured" }\n      input_map',
        ),
        ("E313", SEARCH, 'key: "ROW" value: "measured"'),
        ("E309", SEARCH, 'output_map { key: "ROW"'),
    ),
    fault(
        "shapes of an edge",
        (
            SEARCH,
            'input_map { key: "MEASURED" value: "measured" }',
            'input_map { key: "MEASURED" value: "candidate_similarity" }',
        ),
        ("E314", SEARCH, 'input_map { key: "MEASURED"'),
        ("E309", SEARCH, 'output_map { key: "MEASURED"'),
    ),
    fault(
        "any size into a fixed one",
        ("W315", "toy_page/config.pbtxt", 'key: "INDEX"'),
        act=_write(
            "toy_page/config.pbtxt",
            """platform: "ensemble"
input [
  { name: "TEXT" data_type: TYPE_STRING dims: [ -1 ] },
  { name: "K" data_type: TYPE_INT32 dims: [ 1 ] }
]
output [ { name: "ROW" data_type: TYPE_INT32 dims: [ -1, -1 ] } ]
ensemble_scheduling {
  step {
    model_name: "nearest"
    model_version: -1
    input_map { key: "TEXT" value: "TEXT" }
    input_map { key: "INDEX" value: "TEXT" }
    input_map { key: "K" value: "K" }
    output_map { key: "ROW" value: "ROW" }
  }
}
""",
        ),
    ),
    fault(
        "required by a step",
        (
            STOREFRONT,
            'input_map { key: "CANDIDATE_ROW" value: "candidate_row"',
            'input_map { key: "CANDIDATE_ROW" value: "PLACEMENTS"',
        ),
        ("E317", STOREFRONT, 'key: "CANDIDATE_ROW" value: "PLACEMENTS"'),
    ),
    fault("absent version", (SEARCH, "model_version: -1", "model_version: 7"), ("E318", SEARCH, "model_version: 7")),
    fault(
        "ensemble that contains itself",
        (SEARCH, 'model_name: "fusion"', 'model_name: "search"'),
        ("E319", SEARCH, 'model_name: "search"'),
        *(("E303", SEARCH, row) for row in (52, 53, 54, 55, 56)),
        *(("E304", SEARCH, row) for row in (57, 58, 59)),
    ),
    fault("missing ensemble", ("E320", "", 0), act=_remove("search")),
    fault("no step's model", (SEARCH, '"rerank"', '""'), ("E301", SEARCH, 36)),
    fault("missing engine", ("E321", RERANK, "backend"), act=_remove("cross_encoder")),
    fault(
        "unreachable model",
        ("W322", "toy/config.pbtxt", "backend"),
        act=lambda repository: (
            _write("toy/config.pbtxt", _TOY + _TOY_END)(repository),
            _write("toy/1/model.py", "class TritonPythonModel: pass")(repository),
        ),
    ),
)

CACHES = (
    fault(
        "cached stage",
        (KEYWORDS, 'backend: "python"', _CACHE),
        ("E401", KEYWORDS, "response_cache"),
    ),
    fault(
        "cached ensemble",
        (STOREFRONT, "max_batch_size: 0", "max_batch_size: 0\nresponse_cache {\n  enable: true\n}"),
        ("E401", STOREFRONT, "enable: true"),
    ),
    fault("cached index", (NEAREST, 'backend: "python"', _CACHE), ("E401", NEAREST, "response_cache")),
)

PARAMETERS = (
    fault(
        "misspelt parameter", (FUSION, '"relevance_floor"', '"relevence_floor"'), ("E501", FUSION, "relevence_floor")
    ),
    fault(
        "parameter of another model",
        (CROSS_GPU, '"max_batch_pairs"', '"max_batch_requests"'),
        ("E501", CROSS_GPU, "max_batch_requests"),
    ),
    fault("absurd weight", _value(FUSION, "ranker", "3500"), ("E502", FUSION, "3500")),
    fault("negative weight", _value(FUSION, "margin", "-1"), ("E502", FUSION, '"-1"')),
    fault("word for a number", _value(RERANK, "pairs_per_placement", "forty"), ("E502", RERANK, "forty")),
    fault("fraction for a count", _value(RERANK, "pairs_per_placement", "40.5"), ("E502", RERANK, "40.5")),
    fault("not a number", _value(FUSION, "margin", "nan"), ("E502", FUSION, "nan")),
    fault("unknown choice", (THEME, '"shopper"', '"shoppers"'), ("E502", THEME, "shoppers")),
    fault(
        "value on a line of its own",
        _value(RERANK, "pairs_per_placement", "4000"),
        (RERANK, 'value: { string_value: "4000" }', 'value: {\n  string_value: "4000"\n}'),
        ("E502", RERANK, "4000"),
    ),
    fault("GPU parameter out of range", (CROSS_GPU, '"8192"', '"-1"'), ("E502", CROSS_GPU, 'string_value: "-1"')),
    fault("shares above the budget", (RETRIEVAL, '"0.35"', '"0.75"'), ("E503", RETRIEVAL, '"0.75"')),
    fault(
        "parameter twice",
        (
            RERANK,
            "# products of a search",
            'parameters { key: "search_pairs" value: { string_value: "90" } }\n# products of a search',
        ),
        ("E504", RERANK, '"100"'),
    ),
    fault("no value", (RERANK, 'value: { string_value: "100" }', "value: { }"), ("E505", RERANK, "search_pairs")),
    fault("all of the budget kept", _value(KEYWORDS, "checks_ms", "600.0"), ("E506", KEYWORDS, '"600.0"')),
    fault("budget below what is kept", _value(RETRIEVAL, "default_budget_ms", "40"), ("E506", THEME, '"15.0"')),
    fault(
        "no word list",
        (
            THEME,
            'key: "text_policy" value: { string_value: ""',
            'key: "text_policy" value: { string_value: "/no/such/words.txt"',
        ),
        ("E507", THEME, "words.txt"),
    ),
    fault(
        "no build",
        (
            RERANK,
            "# products of one",
            'parameters { key: "build" value: { string_value: "../nowhere" } }\n# products of one',
        ),
        ("E507", RERANK, "nowhere"),
    ),
    fault(
        "parameters of an ensemble",
        (
            SEARCH,
            "max_batch_size: 0",
            'max_batch_size: 0\nparameters { key: "candidates" value: { string_value: "90" } }',
        ),
        ("W509", SEARCH, "candidates"),
    ),
    fault(
        "least above most",
        (KEYWORDS, 'key: "min_keywords" value: { string_value: "2"', 'key: "min_keywords" value: { string_value: "9"'),
        ("W510", KEYWORDS, "min_keywords"),
    ),
)

FAULTS = (*FILES, *SETTINGS, *WIRING, *CACHES, *PARAMETERS)
