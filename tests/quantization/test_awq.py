"""AWQ from the search to the served checkpoint, on small random models of every family."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from minivllm import LLM, SamplingParams, ops
from minivllm.quantization import awq, awq_model
from minivllm.quantization.awq_model import apply_scale, linear_groups, record_inputs
from minivllm.quantization.awq_search import (
    GRID,
    NEAREST_ONLY,
    channel_importance,
    channel_scale,
    scaled_error,
    search_scale,
)

SMALL = {
    "vocab_size": 67,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True)),
    "mistral": (MistralForCausalLM, MistralConfig(**SMALL | {"num_key_value_heads": 1}, sliding_window=None)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SMALL | {"num_key_value_heads": 4}, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SMALL)),
}
OUTLIERS = [3, 40]  # channels of the norms that are made large


def make_model(family):
    """A random model in which a few channels carry activations 30 times as large as the others."""
    torch.manual_seed(1)
    kind, config = MODELS[family]
    model = kind(config).float().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("layernorm.weight"):
            parameter.data.uniform_(0.5, 1.5)
            parameter.data[OUTLIERS] *= 30
        elif name.endswith("bias"):
            parameter.data.normal_(std=0.2)
    return model


def batches(seed, num=4):
    return list(torch.randint(67, (num, 1, 40), generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("family", MODELS)
def test_a_scale_moves_and_the_model_stays_the_same(family):
    model, ids = make_model(family), batches(0, 1)[0]
    with torch.inference_mode():
        before = model(ids).logits
        for groups in linear_groups(model):
            for group in groups:
                size = group.first.weight.shape[1]
                scale = torch.rand(size, generator=torch.Generator().manual_seed(size)) * 3 + 0.1
                if group.heads is not None:  # shared by the query heads of a value head
                    per_head = scale.unflatten(0, (-1, *group.heads))
                    scale = per_head[:, :1].expand_as(per_head).flatten()
                apply_scale(group, scale)
        after = model(ids).logits
    torch.testing.assert_close(after, before, atol=2e-4, rtol=1e-3)


def test_recorded_is_what_the_matrices_read():
    model, data = make_model("qwen3"), batches(1)
    groups = [group for layer in linear_groups(model) for group in layer]
    inputs = record_inputs(model, groups, data)
    assert [group.name for group in groups[:4]] == [
        f"model.layers.0.{name}"
        for name in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    ]
    with torch.inference_mode():
        embedded = model.model.embed_tokens(torch.cat(data)).flatten(0, 1)
        first = model.model.layers[0].input_layernorm(embedded)
    torch.testing.assert_close(inputs[groups[0].name], first)
    assert [inputs[group.name].shape[1] for group in groups[:4]] == [64, 64, 64, 96]
    assert not any(group.first._forward_pre_hooks for group in groups)


def test_of_long_texts_rows_are_kept_from_beginning_to_end(monkeypatch):
    monkeypatch.setattr(awq_model, "MAX_ROWS", 32)  # 8 of the 40 rows of each batch
    model, data = make_model("qwen3"), batches(1)
    (group, *_), *_ = linear_groups(model)
    (rows,) = record_inputs(model, [group], data).values()
    with torch.inference_mode():
        first = model.model.layers[0].input_layernorm(model.model.embed_tokens(torch.cat(data)))
    torch.testing.assert_close(rows, first[:, ::5].flatten(0, 1))


def test_query_heads_that_share_a_value_head_share_their_mean_importance():
    x = torch.randn(20, 96, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 96)
    got = channel_importance(x, heads=(3, 16)).numpy()
    mean = np.abs(x.numpy()).mean(0)
    for channel in range(96):
        value_head, place = channel // 48, channel % 16
        shared = [mean[48 * value_head + 16 * head + place] for head in range(3)]
        assert math.isclose(got[channel], sum(shared) / 3, rel_tol=1e-5)


@settings(max_examples=12)
@given(st.integers(0, 2**16), st.sampled_from([32, 64]), st.sampled_from([None, (2, 16), (4, 8)]))
def test_the_search_is_never_worse_than_rounding_to_nearest(seed, group_size, heads):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, 64, generator=generator) * torch.rand(64, generator=generator) ** 3
    weights = [torch.randn(n, 64, generator=generator) for n in (16, 8)]
    result = search_scale(x, weights, group_size, heads=heads)
    assert result.error <= result.rtn_error and result.alpha in GRID
    nearest = search_scale(x, weights, group_size, NEAREST_ONLY, heads)
    assert nearest.error == nearest.rtn_error == result.rtn_error and (nearest.scale == 1).all()
    assert (result.alpha == 0) == (result.error == result.rtn_error)
    if heads is not None:
        per_head = result.scale.unflatten(0, (-1, *heads))
        assert (per_head == per_head[:, :1]).all()


@settings(max_examples=12)
@given(st.integers(0, 2**16), st.sampled_from([2, 4]), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_error_of_a_scale_is_that_of_the_outputs(seed, bits, alpha):
    """Against numpy in float64, from the definition: outputs with rounded weights minus outputs with the originals."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 64, generator=generator) * (torch.rand(64, generator=generator) * 4 + 0.1)
    weights = [torch.randn(n, 64, generator=generator) for n in (8, 16)]
    scale = channel_scale(channel_importance(x), alpha)
    assert math.isclose(float(scale.max() * scale.min()), 1.0, rel_tol=1e-5)
    assert torch.equal(scale.argsort(), x.abs().mean(0).argsort()) or alpha == 0
    squares = []
    for weight in weights:
        groups = (weight * scale).double().numpy().reshape(len(weight), -1, 32)
        low, high = groups.min(-1, keepdims=True).clip(max=0), groups.max(-1, keepdims=True).clip(min=0)
        step = ((high - low) / (2**bits - 1)).astype(np.float16).astype(np.float64)
        zero = np.rint(-low / step).clip(0, 2**bits - 1)
        rounded = ((np.rint(groups / step) + zero).clip(0, 2**bits - 1) - zero) * step
        exact = x.double().numpy() @ weight.double().numpy().T
        scaled_x = x.double().numpy() / scale.double().numpy()
        squares.append((scaled_x @ rounded.reshape(weight.shape).T - exact) ** 2)
    expected = np.concatenate(squares, 1).mean()
    assert math.isclose(scaled_error(x, weights, scale, 32, bits), expected, rel_tol=1e-3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """family -> (original folder, AWQ folder, report)."""
    made = {}
    for family in MODELS:
        folder = tmp_path_factory.mktemp(family)
        make_model(family).save_pretrained(folder)
        out = folder / "quantized"
        made[family] = (folder, out, awq.quantize(str(folder), out, batches(4), 32))
    return made


# -- from the written files alone ---------------------------------------------------------------------------------

NIBBLES = (0, 4, 1, 5, 2, 6, 3, 7)  # where output j of a word lies


def formula(tensors, linear):
    """(q - zero) * scale, the numbers picked out of the words one by one: W [out, in]."""
    words, zeros = (
        np.stack([tensors[f"{linear}.{key}"].numpy() >> 4 * n & 15 for n in NIBBLES], -1)
        for key in ("qweight", "qzeros")
    )
    q, zeros = words.reshape(len(words), -1), zeros.reshape(len(zeros), -1).repeat(32, 0)
    scales = tensors[f"{linear}.scales"].float().numpy().repeat(32, 0)
    return torch.from_numpy((q - zeros).astype(np.float32) * scales).T


def nearest(weight):
    """The weight [out, in] rounded to nearest, in groups of 32."""
    groups = weight.numpy().astype(np.float64).reshape(len(weight), -1, 32)
    low, high = groups.min(-1, keepdims=True).clip(max=0), groups.max(-1, keepdims=True).clip(min=0)
    step = ((high - low) / 15).astype(np.float16).astype(np.float64)
    zero = np.rint(-low / step)
    numbers = (np.rint(groups / step) + zero).clip(0, 15)
    return torch.from_numpy((numbers - zero) * step).float().reshape(weight.shape)


SOURCES = {  # matrices that read the same input -> what shows the scale of that input: original / written
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"): "input_layernorm.weight",
    ("self_attn.o_proj",): "self_attn.v_proj.bias",
    ("mlp.gate_proj", "mlp.up_proj"): "post_attention_layernorm.weight",
    ("mlp.down_proj",): "mlp.up_proj.bias",
}


def input_scale(original, written, layer, source):
    scale = original[layer + source] / written[layer + source]
    if "v_proj" in source:  # two query heads share a value head
        scale = scale.view(2, 1, 16).expand(2, 2, 16).flatten()
    return scale


def output_errors(folders, ids):
    """(AWQ's, round to nearest's) mean squared error of the outputs, for the eight groups of the model with biases."""
    folder, out, _ = folders["llama"]
    original, written = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    model, read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), {}
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda _, inputs, name=name: read.update({name: inputs[:1]}))
    with torch.inference_mode():
        model(torch.cat(ids))
    errors = []
    for layer in ("model.layers.0.", "model.layers.1."):
        for linears, source in SOURCES.items():
            scale = input_scale(original, written, layer, source)
            squares = []
            for linear in (layer + name for name in linears):
                x, weight = read[linear][0].flatten(0, 1), original[f"{linear}.weight"]
                exact = x @ weight.T
                out_scale = (
                    original[f"{linear}.bias"] / written[f"{linear}.bias"]
                )  # of the group that reads this output
                awq_output = (x / scale) @ formula(written, linear).T * out_scale
                squares.append([(got - exact).square() for got in (awq_output, x @ nearest(weight).T)])
            errors.append([float(torch.cat(both, -1).mean()) for both in zip(*squares, strict=True)])
    return errors


def test_the_written_weights_err_on_the_calibration_data_as_the_report_says(folders):
    """So in no layer more than rounding to nearest, and where a scale was chosen less."""
    rows = folders["llama"][2]
    errors = output_errors(folders, batches(4))
    for row, (awq_error, rtn_error) in zip(rows, errors, strict=True):
        assert math.isclose(awq_error, row.awq_error, rel_tol=0.02)
        assert math.isclose(rtn_error, row.rtn_error, rel_tol=1e-3)
        assert awq_error < rtn_error if row.alpha > 0 else awq_error <= rtn_error * 1.001
    assert all(row.alpha > 0 for row in rows if "qkv" in row.name or "gate_up" in row.name)


def test_with_outlier_channels_it_is_better_on_data_it_has_not_seen(folders):
    """For every group that reads a norm's output, where the outliers were planted."""
    folder, out, rows = folders["llama"]
    errors = output_errors(folders, batches(6))
    planted = [e for row, e in zip(rows, errors, strict=True) if "qkv" in row.name or "gate_up" in row.name]
    assert len(planted) == 4 and all(awq_error < 0.7 * rtn_error for awq_error, rtn_error in planted)
    original, written = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    for layer in ("model.layers.0.", "model.layers.1."):
        for source in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            scale = input_scale(original, written, layer, source)
            assert scale[OUTLIERS].min() > scale.median()


@pytest.mark.parametrize("family", MODELS)
def test_the_served_model_is_the_dequantized_one(folders, family):
    """transformers, with the weights that the 4-bit numbers stand for, says the same as our engine."""
    folder, out, _ = folders[family]
    tensors = load_file(out / "model.safetensors")
    state = {
        name: t.float() for name, t in tensors.items() if not name.endswith(("qweight", "qzeros", "scales"))
    }
    for linear in (name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")):
        state[f"{linear}.weight"] = formula(tensors, linear)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    prompt = batches(5, 1)[0][0].tolist()
    llm = LLM(str(out), num_gpu_blocks_override=20)
    served = llm.llm_engine.executor.runner.model.layers[1].mlp.gate_up_proj
    both = torch.cat([state[f"model.layers.1.mlp.{name}_proj.weight"] for name in ("gate", "up")])
    assert torch.equal(ops.awq_dequantize(served.qweight, served.qzeros, served.scales).T, both)
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    (output,) = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)
    with torch.inference_mode():
        logprobs = reference(torch.tensor([prompt])).logits[0].log_softmax(-1)
    for position, entry in enumerate(output.prompt_logprobs[1:]):
        expected = float(logprobs[position, prompt[position + 1]])
        assert math.isclose(entry[prompt[position + 1]].logprob, expected, abs_tol=2e-3)


@pytest.mark.parametrize("family", MODELS)
def test_the_report_and_the_files(folders, family):
    folder, out, rows = folders[family]
    assert len(rows) == 8 and all(row.awq_error <= row.rtn_error for row in rows)
    assert json.loads((out / awq.REPORT).read_text()) == [vars(row) for row in rows]
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"]["group_size"] == 32
    assert {**config, "quantization_config": None} == json.loads((folder / "config.json").read_text()) | {
        "quantization_config": None
    }
    tensors, original = load_file(out / "model.safetensors"), load_file(folder / "model.safetensors")
    assert tensors["model.layers.0.mlp.gate_proj.qweight"].shape == (64, 96 // 8)
    assert tensors["model.layers.0.mlp.down_proj.scales"].shape == (96 // 32, 64)
    kept = {name for name in tensors if not name.endswith(("qweight", "qzeros", "scales"))}
    assert kept == {name for name in original if not name.endswith("proj.weight")}
    size = sum(
        t.numel() * t.element_size() for name, t in tensors.items() if "proj.q" in name or "proj.s" in name
    )
    weights = sum(t.numel() for name, t in original.items() if name.endswith("proj.weight"))
    assert size == weights * (4 + (4 + 16) / 32) / 8  # 4 bits, and a zero point and a scale for 32 of them
    assert awq.table(rows).count("\n") == 8


def test_the_command(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "model"
    make_model("llama").save_pretrained(folder)
    options = ["--group-size", "32", "--num-samples", "2", "--seq-len", "12"]
    assert awq.main([str(folder), str(tmp_path / "out"), *options, "--round-to-nearest"]) == 0
    said = capsys.readouterr().out
    assert "model.layers.1.mlp.down_proj" in said and "written" in said
    assert all(row["alpha"] == 0 for row in json.loads((tmp_path / "out" / awq.REPORT).read_text()))
    assert LLM(str(tmp_path / "out"), quantization="awq", num_gpu_blocks_override=9) is not None
    for arguments, sentence in {
        (str(folder), str(tmp_path / "out"), *options): "is not an empty folder",
        (str(tmp_path / "out"), str(tmp_path / "new"), *options): "already quantized",
        (
            str(folder),
            str(tmp_path / "new"),
        ): r"--group-size 128 does not divide the model's hidden_size (64)",
        (
            str(folder),
            str(tmp_path / "new"),
            *options,
            "--num-samples",
            "0",
        ): "--num-samples must be at least 1",
        ("nowhere", str(tmp_path / "new")): "neither a folder nor",
    }.items():
        assert awq.main(list(arguments)) == 1
        assert sentence in capsys.readouterr().err


def test_calibration_text_is_cut_into_rows():
    text = "What is a block table? " * 40
    rows = awq.batches_of_text("tutor", text, 3, 16)
    assert [row.shape for row in rows] == [(1, 16)] * 3
    with pytest.raises(ValueError, match="tokens are too few for one sample of 16"):
        awq.batches_of_text("tutor", "What?", 3, 16)


def test_the_memory_of_the_weights_is_said_when_they_are_loaded(folders, caplog):
    """32-bit floats beside the int32 words of the 4-bit numbers."""
    with caplog.at_level("INFO", logger="minivllm"):
        llm = LLM(str(folders["qwen3"][1]), num_gpu_blocks_override=9)
    (line,) = [record.message for record in caplog.records if record.message.startswith("Model weights")]
    model = llm.llm_engine.executor.runner.model
    words = sum(p.numel() * 4 for p in model.parameters() if p.dtype == torch.int32)
    assert f"{words / 1e6:.1f} MB of int32" in line and "MB of float32" in line


def test_dummy_weights_of_an_awq_config_spread_like_other_dummy_weights(folders, tmp_path):
    """Nothing but a config.json in the folder."""
    shutil.copy(folders["qwen3"][1] / "config.json", tmp_path)
    layers = []
    for seed in (0, 1):
        llm = LLM(str(tmp_path), load_format="dummy", seed=seed, num_gpu_blocks_override=9)
        layers.append(llm.llm_engine.executor.runner.model.layers[0].mlp.gate_up_proj)
    for layer in layers:
        weight = ops.awq_dequantize(layer.qweight, layer.qzeros, layer.scales)
        assert math.isclose(float(weight.std()), 0.02, rel_tol=0.05) and abs(weight.mean()) < 0.001
        assert len(weight.unique()) == 31  # differences of two numbers of 4 bits
    assert not torch.equal(layers[0].qweight, layers[1].qweight)
    params = SamplingParams(temperature=0, max_tokens=2, logprobs=0)
    (output,) = llm.generate([{"prompt_token_ids": [3, 4, 5]}], params, use_tqdm=False)
    assert math.isfinite(output.outputs[0].cumulative_logprob)
