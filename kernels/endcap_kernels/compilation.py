"""Compile kernels without a GPU: ``python -m endcap_kernels.compilation``.

The public functions are called on the CPU. Instead of launching a kernel, they compile it to machine code for each
architecture, with the types, tile sizes and argument specialisations of a launch on a GPU. The compiler reports
registers, spilled bytes, shared memory and tensor-core instructions.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from endcap_kernels.dispatch import INTERPRETED, compiling

ARCHITECTURES = (80, 90)
"""A100 and H100/H200."""
_TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.int8: "i8",
    torch.uint8: "u8",
}


@dataclass(frozen=True)
class Compiled:
    """A kernel compiled for one architecture."""

    case: str
    kernel: str
    architecture: int
    warps: int
    registers: int
    """Registers of a thread."""
    spilled: int
    """Bytes of a thread that are spilled to memory."""
    shared: int
    """Bytes of shared memory of a program."""
    instructions: int
    """Machine instructions of the kernel, without the padding after its end; of loops, each instruction once."""
    per_value: float
    """Instructions of a thread for each value of a program's tile; of use for kernels without loops, else NaN."""
    tensor_cores: str
    """The matrix instruction, wgmma or mma, or none."""


def compile_cases(
    cases: dict[str, Callable[[], Any]], architectures: tuple[int, ...] = ARCHITECTURES
) -> list[Compiled]:
    """Compile every kernel that the ``cases`` launch, for each architecture.

    Raises:
        RuntimeError: in a process whose kernels are interpreted.
    """
    if INTERPRETED:
        raise RuntimeError("TRITON_INTERPRET: expected to be unset for compiling, got 1; unset it")
    results: list[Compiled] = []
    for case, call in cases.items():

        def compiler(kernel: Any, args: tuple[Any, ...], options: dict[str, Any], case: str = case) -> None:
            for architecture in architectures:
                results.append(_compile(case, kernel, args, options, architecture))

        with compiling(compiler):
            call()
    return results


def _compile(case: str, kernel: Any, args: tuple[Any, ...], options: dict[str, Any], architecture: int) -> Compiled:
    constants = {name: value for name, value in options.items() if name in kernel.arg_names}
    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        value = args[place]
        if isinstance(value, torch.Tensor):
            signature[name] = "*" + _TYPES[value.dtype]
            divisible = value.data_ptr() % 16 == 0
        elif isinstance(value, float):
            signature[name], divisible = "fp32", False
        elif value == 1:  # Triton specialises 1 as a constant
            signature[name], divisible = "constexpr", False
            constants[name] = 1
        else:
            signature[name], divisible = "i32" if abs(value) < 2**31 else "i64", value % 16 == 0
        if divisible:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    settings = {name: value for name, value in options.items() if name not in kernel.arg_names}
    settings["enable_fp_fusion"] = True  # the default on a GPU; newer releases warn if it is not set
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=settings)
    registers, spilled = _resources(compiled.asm["cubin"])
    instructions = _instructions(compiled.asm["cubin"])
    threads, tile = 32 * compiled.metadata.num_warps, _tile(constants)
    ptx = compiled.asm["ptx"]
    return Compiled(
        case=case,
        kernel=kernel.__name__,
        architecture=architecture,
        warps=compiled.metadata.num_warps,
        registers=registers,
        spilled=spilled,
        shared=compiled.metadata.shared,
        instructions=instructions,
        per_value=instructions / (tile / threads) if tile else float("nan"),
        tensor_cores="wgmma" if "wgmma.mma_async" in ptx else "mma" if "mma.sync" in ptx else "none",
    )


def _tile(constants: dict[str, Any]) -> int:
    """Values of a program's tile without padding, where a kernel has rows and columns; 0 for others."""
    return int(constants.get("ROWS", 0)) * int(constants.get("SIZE", constants.get("WIDTH", 0)))


def _resources(machine_code: bytes) -> tuple[int, int]:
    """Registers and spilled bytes of a thread."""
    text = _disassembled("cuobjdump", "--dump-resource-usage", machine_code)
    numbers = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return numbers["REG"], numbers["STACK"] + numbers["LOCAL"]


def _instructions(machine_code: bytes) -> int:
    """Instructions up to the jump to itself that ends every kernel."""
    text = _disassembled("nvdisasm", "--print-code", machine_code)
    found = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)[^;]*;", text)
    while found and found[-1] in ("NOP", "BRA"):
        found.pop()
    return len(found)


def _disassembled(tool: str, option: str, machine_code: bytes) -> str:
    """What a disassembler of Triton's wheel prints."""
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(machine_code)
        file.flush()
        return subprocess.run([str(path), option, file.name], capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Compile everything and print a table, or JSON with ``--json``."""
    parser = argparse.ArgumentParser(prog="python -m endcap_kernels.compilation", description=main.__doc__)
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument("--cases", nargs="*", metavar="NAME", help="compile these only")
    arguments = parser.parse_args()
    from endcap_kernels.compiled_cases import CASES

    unknown = sorted(set(arguments.cases or ()) - set(CASES))
    if unknown:
        parser.error(f"--cases: expected some of {', '.join(CASES)}, got {unknown[0]}")
    results = compile_cases({name: CASES[name] for name in arguments.cases or CASES})
    if arguments.json:
        json.dump([asdict(result) for result in results], sys.stdout)
        return 0
    print(
        f"{'case':<28}{'kernel':<34}{'sm':>4}{'warps':>7}{'registers':>11}{'spilled':>9}{'shared':>9}"
        f"{'instructions':>14}{'a value':>9}  matrices"
    )
    for row in results:
        print(
            f"{row.case:<28}{row.kernel:<34}{row.architecture:>4}{row.warps:>7}{row.registers:>11}{row.spilled:>9}"
            f"{row.shared:>9}{row.instructions:>14}{row.per_value:>9.1f}  {row.tensor_cores}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
