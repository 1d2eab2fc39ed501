"""Compile every kernel for GPUs that need not be here: `python compile_kernels.py 80 90 [--all]`.

The environment must not hold TRITON_INTERPRET=1: whether kernels are interpreted is settled when they are defined.
The wrappers run with tensors that have a shape and a type and no memory; instead of launching, a kernel is compiled
to machine code with the very arguments and tile sizes that its wrapper chose. As in a launch, whole numbers that are 1
become constants, and the compiler is told which are multiples of 16. Prints one JSON line for each.
"""

import json
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from minivllm.kernels import (
    _triton,
    awq_dequantize,
    awq_gemm,
    copy_blocks,
    paged_attention,
    paged_attention_split_kv,
    reshape_and_cache,
    rms_norm,
    rotary,
    silu_and_mul,
    varlen_attention,
    weight_only_gemm,
)

TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.int8: "*i8",
    torch.uint8: "*u8",  # and e4m3, as the kernels see it
    torch.float8_e5m2: "*fp8e5",
}
ALL = "--all" in sys.argv  # also the types and sizes that take longest
CAPABILITIES = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]


class Compiling:
    """Takes a kernel's place: kernel[grid](...) compiles for all targets."""

    def __init__(self, name, kernel):
        self.name, self.kernel = name, kernel

    def __getitem__(self, grid):
        return self.compile

    def compile(self, *args, num_warps=4, num_stages=3, **constants):
        names = self.kernel.arg_names[: len(args)]
        assert set(self.kernel.arg_names) == {*names, *constants}
        given = dict(zip(names, args, strict=True))
        constants |= {name: 1 for name, value in given.items() if isinstance(value, int) and value == 1}
        aligned = [name for name, value in given.items() if name not in constants and is_aligned(value)]
        attributes = {(n,): [["tt.divisibility", 16]] for n, _ in index(self.kernel, dict.fromkeys(aligned))}
        signature = {name: type_name(value) for name, value in given.items()}
        signature |= dict.fromkeys(constants, "constexpr")
        options = {"num_warps": num_warps, "num_stages": num_stages}
        for capability in CAPABILITIES:
            constant = {(n,): value for n, value in index(self.kernel, constants)}
            source = ASTSource(self.kernel, signature, constant, attributes)
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            size = len(compiled.asm["cubin"])
            row = {
                "kernel": self.name,
                "cache": signature.get("key_cache_ptr") or signature.get("key_ptr"),
                "capability": capability,
                "shared": compiled.metadata.shared,
                "bytes": size,
            }
            print(json.dumps(row), flush=True)


def index(kernel, constants):
    return [(kernel.arg_names.index(name), value) for name, value in constants.items()]


def is_aligned(value):
    """Where a tensor begins, or a whole number, is a multiple of 16."""
    return isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)


def type_name(value):
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def ints(*shape, dtype=torch.int32):
    return meta(*shape, dtype=dtype)


EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)


def attention(dtype, head_size, group, block_size, stored=None, requests=5, max_blocks=7, **options):
    query = meta(requests, 2 * group, head_size, dtype=dtype)
    cache = meta(9, block_size, 2, head_size, dtype=stored or dtype)
    tables, seq_lens, scale = ints(requests, max_blocks), ints(requests), head_size**-0.5
    paged_attention.paged_attention_triton(query, cache, cache, tables, seq_lens, scale=scale, **options)
    paged_attention_split_kv.paged_attention_split_kv_triton(
        query, cache, cache, tables, seq_lens, num_splits=8, scale=scale, **options
    )
    varlen_attention.varlen_attention_triton(
        query, cache, cache, ints(requests + 1), seq_lens, tables, scale=scale, **options
    )


def small(dtype):
    x = meta(5, 4, 80, dtype=dtype)
    for stored in (dtype, *EIGHT_BITS):
        target = meta(9, 16, 4, 80, dtype=stored)
        reshape_and_cache.reshape_and_cache_triton(x, x, target, target, ints(5, dtype=torch.int64))
        copy_blocks.copy_blocks_triton(target, ints(2), ints(2))
    rms_norm.rms_norm_triton(x, meta(4, 80, dtype=dtype), 1e-6)
    rms_norm.add_rms_norm_triton(
        meta(5, 96, dtype=dtype), meta(5, 96, dtype=dtype), meta(96, dtype=dtype), 1e-6
    )
    rotary.rotary_triton(x, meta(5, 1, 80, dtype=dtype), meta(5, 1, 80, dtype=dtype))
    silu_and_mul.silu_and_mul_triton(meta(5, 96, dtype=dtype))


def quantized(dtype, num_tokens=5, group_size=128):
    x, groups = meta(num_tokens, 256, dtype=dtype), 256 // group_size
    packed = ints(256, 24), ints(groups, 24), meta(groups, 192, dtype=dtype)
    awq_dequantize.awq_dequantize_triton(*packed)
    awq_gemm.awq_gemm_triton(x, *packed)
    for stored in (torch.int8, torch.float8_e4m3fn):
        weight_only_gemm.weight_only_gemm_triton(x, meta(192, 256, dtype=stored), meta(192))


def main():
    assert not _triton.INTERPRETED, "interpreted kernels cannot be compiled"
    _triton.INTERPRETED = True  # "can run here", says check_can_run: nothing is run
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("minivllm.kernels."):
            for name, value in list(vars(module).items()):
                if name.endswith("_kernel"):
                    setattr(module, name, Compiling(f"{module.__name__.rsplit('.', 1)[1]}.{name}", value))
    attention(torch.bfloat16, 80, 3, 16, window=100, requests=1, max_blocks=1)
    attention(torch.bfloat16, 128, 2, 16, stored=torch.float8_e4m3fn)
    small(torch.bfloat16)
    quantized(torch.float16, num_tokens=1)
    if ALL:
        attention(torch.bfloat16, 80, 3, 16, window=100)
        attention(torch.float16, 128, 4, 16)
        attention(torch.float32, 256, 1, 64, soft_cap=30.0)
        for stored in EIGHT_BITS:
            attention(torch.float16, 96, 4, 8, stored=stored)
            attention(torch.float32, 256, 1, 64, stored=stored)
            attention(torch.bfloat16, 256, 8, 32, stored=stored)
        small(torch.float32)
        small(torch.float16)
        quantized(torch.bfloat16)
        quantized(torch.float32)
        quantized(torch.bfloat16, num_tokens=64, group_size=32)
        quantized(torch.float16, num_tokens=256, group_size=64)


if __name__ == "__main__":
    main()
