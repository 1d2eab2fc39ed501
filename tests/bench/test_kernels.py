"""The measurements that need a GPU, run without one with tiny sizes: every part works.

Other libraries are not here: stand-ins with their signatures compute from nothing but their own arguments.
"""

import argparse
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from minivllm.bench import decode_floor, gpu, kernels, library_kernels
from minivllm.kernels._triton import HAS_TRITON, INTERPRETED

needs_interpreter = pytest.mark.skipif(not (HAS_TRITON and INTERPRETED), reason="needs TRITON_INTERPRET=1")


def attend(query, keys, values, scale):
    """query [H, D], keys and values [S, K, D] -> [H, D]."""
    groups = query.shape[0] // keys.shape[1]
    keys, values = (t.float().repeat_interleave(groups, 1) for t in (keys, values))
    weights = torch.einsum("hd,shd->hs", query.float(), keys).mul(scale).softmax(-1)
    return torch.einsum("hs,shd->hd", weights, values).to(query.dtype)


class FlashInferWrapper:
    def __init__(self, float_workspace_buffer, kv_layout, use_cuda_graph=False, use_tensor_cores=False):
        assert kv_layout == "NHD" and float_workspace_buffer.dtype == torch.uint8

    def plan(
        self,
        indptr,
        indices,
        last_page_len,
        num_qo_heads,
        num_kv_heads,
        head_dim,
        page_size,
        *,
        q_data_type,
        kv_data_type,
        sm_scale,
    ):
        assert indptr.dtype == indices.dtype == last_page_len.dtype == torch.int32
        self.types, self.sizes = (q_data_type, kv_data_type), (page_size, num_kv_heads, head_dim)
        self.num_heads, self.scale = num_qo_heads, sm_scale
        self.pages = [indices[a:b].long() for a, b in zip(indptr[:-1], indptr[1:], strict=True)]
        self.lens = [
            (len(p) - 1) * page_size + n for p, n in zip(self.pages, last_page_len.tolist(), strict=True)
        ]

    def run(self, q, paged_kv_cache):
        assert paged_kv_cache[0].shape[1:] == self.sizes and q.shape[1] == self.num_heads
        assert (q.dtype, paged_kv_cache[0].dtype) == self.types
        rows = []
        for query, pages, length in zip(q, self.pages, self.lens, strict=True):
            keys, values = (t.float()[pages].flatten(0, 1)[:length] for t in paged_kv_cache)
            rows.append(attend(query, keys, values, self.scale))
        return torch.stack(rows)


def flash_attn_varlen_func(
    q,
    k,
    v,
    max_seqlen_q,
    cu_seqlens_q,
    max_seqlen_k,
    *,
    seqused_k,
    softmax_scale,
    causal,
    block_table,
    fa_version,
):
    assert causal and fa_version == 3 and max_seqlen_q == 1 and max_seqlen_k == seqused_k.max()
    assert cu_seqlens_q.tolist() == list(range(len(q) + 1))
    contexts = [[t[table.long()].flatten(0, 1) for t in (k, v)] for table in block_table]
    return torch.stack(
        [
            attend(query, keys[:n], values[:n], softmax_scale)
            for query, (keys, values), n in zip(q, contexts, seqused_k, strict=True)
        ]
    )


def flash_attn_with_kvcache(q, k_cache, v_cache, *, cache_seqlens, softmax_scale, causal):
    assert causal and q.shape[1] == 1 and q.dtype == k_cache.dtype
    return torch.stack(
        [
            attend(query[0], keys[:n], values[:n], softmax_scale)[None]
            for query, keys, values, n in zip(q, k_cache, v_cache, cache_seqlens, strict=True)
        ]
    )


STAND_INS = {
    "flashinfer": {"BatchDecodeWithPagedKVCacheWrapper": FlashInferWrapper},
    "vllm.vllm_flash_attn": {"flash_attn_varlen_func": flash_attn_varlen_func},
    "vllm.v1.attention.backends.fa_utils": {"get_flash_attn_version": lambda: 3},
    "flash_attn": {"flash_attn_with_kvcache": flash_attn_with_kvcache},
}


def parse(module, *arguments):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(arguments)


@needs_interpreter
def test_every_way_gives_the_same_and_is_timed(monkeypatch):
    for name, content in STAND_INS.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    monkeypatch.setattr(library_kernels, "WORKSPACE_BYTES", 64)
    for name, values in {"BATCHES": (3,), "CONTEXTS": (32,), "TOKENS": (2,)}.items():
        monkeypatch.setattr(kernels, f"SMOKE_{name}", values)
    result = kernels.run(parse(kernels, "--smoke"))
    assert json.loads(json.dumps(result)) == result
    assert result["smoke"] and result["copy_bytes_per_second"] > 0
    assert [row["cache"] for row in result["decode_attention"]] == ["bfloat16", "float8_e4m3fn"]
    for row in result["decode_attention"]:
        assert (row["batch"], row["context"]) == (3, 32)
        refused = {name: why for name, why in row["libraries"].items() if isinstance(why, str)}
        assert list(refused) == ([] if row["cache"] == "bfloat16" else ["vllm"])
        measured = [row, *(v for v in row["libraries"].values() if v not in refused.values())]
        assert all(m["microseconds"] > 0 and m["largest_difference"] < 0.02 for m in measured)
    (product,) = result["awq_product"]
    assert product["tokens"] == 2 and product["largest_relative_difference"] < 0.01


def test_a_library_that_refuses_says_why_in_a_line(monkeypatch):
    def refuse(case):
        raise RuntimeError("no kernel for this device\nand much more")

    monkeypatch.setattr(library_kernels, "LIBRARIES", {"one": refuse, "two": lambda case: lambda: case})
    prepared = library_kernels.prepare("the case")
    assert prepared["one"] == "RuntimeError: no kernel for this device"
    assert prepared["two"]() == "the case"


def test_a_batch_without_room_is_left_out_and_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    args = parse(kernels)
    sizes = (256, 32768, torch.bfloat16, "cuda")
    need = 3 * 2 * 256 * 32768 * 8 * 128 * 2  # keys and values in the cache, gathered, and on the way there
    for free, fits in ((need, False), (2 * need, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, free))
        assert kernels.has_room(args, *sizes) == fits
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 0))
    row = kernels.decode_attention(args, *sizes[:3], 1.0, SimpleNamespace(device="cuda"))
    assert (row["batch"], row["context"]) == (256, 32768) and "does not fit" in row["left_out"]


def test_whole_models_eager_and_padded():
    result = decode_floor.run(parse(decode_floor, "--smoke"))
    modes = [(row["shape"], row["mode"], row["batch"]) for row in result["rows"]]
    assert modes == [("tiny", mode, batch) for mode in ("eager", "CUDA graphs") for batch in (1, 3)]
    assert all(row["output_tokens_per_second"] > 0 and row["share_of_floor"] > 0 for row in result["rows"])


def test_one_command_runs_all_and_a_failure_stops_nothing(monkeypatch, tmp_path):
    ran = []

    def record(command, env, check):
        ran.append((command[2:], env.get("TRITON_INTERPRET")))
        return SimpleNamespace(returncode=3 if "kernels" in command else 0)

    monkeypatch.setattr(subprocess, "run", record)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = gpu.run(parse(gpu, "--smoke", "--out", str(tmp_path)))
    assert [row["part"] for row in result["parts"]] == ["tests", "kernels", "decode-floor"]
    assert result["failures"] == ["kernels"]
    assert [command[0] for command, _ in ran] == ["pytest", "minivllm.bench", "minivllm.bench"]
    assert all(interpreted == "1" for _, interpreted in ran)
    assert ran[2][0] == [
        "minivllm.bench",
        "decode-floor",
        "--smoke",
        "--json",
        str(tmp_path / "decode-floor.json"),
    ]
    ran.clear()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu.run(parse(gpu, "--no-tests"))
    assert [command[1] for command, _ in ran] == ["kernels", "decode-floor"]
    assert all(interpreted is None and "--smoke" not in command for command, interpreted in ran)
