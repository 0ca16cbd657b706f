"""Merged adapters: peft loads them, and they give the outputs of the formula."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.merge import MergeConfig, MergeMethod
from reasongenrm.errors import ConfigError, EngineError
from reasongenrm.store import read_json
from reasongenrm.train.merge import merge
from support.merge_fixtures import MakeAdapter, change_json

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def first(make_adapter: MakeAdapter) -> Path:
    return make_adapter(1)


@pytest.fixture(scope="module")
def second(make_adapter: MakeAdapter) -> Path:
    return make_adapter(2, r=6)


def deltas(model: Path, adapter: Path) -> dict[str, Any]:
    """The change of every weight by an adapter, as peft computes it on the real base."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer
    from transformers import AutoModelForCausalLM

    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter)
    layers = tuned.base_model.model.named_modules()
    return {n: m.get_delta_weight("default").detach() for n, m in layers if isinstance(m, LoraLayer)}


def logits(model: Path, adapter: Path) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter).eval()
    with torch.inference_mode():
        return tuned(input_ids=torch.arange(3, 40)[None]).logits


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    import torch

    assert one.keys() == other.keys() and one
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5, msg=name)


def test_linear_with_weights_1_and_0_answers_as_the_first_adapter(
    tiny_model: Path, first: Path, second: Path, tmp_path: Path
) -> None:
    import torch

    out = tmp_path / "merged"
    record = merge([str(first), str(second)], MergeConfig(weights=[1, 0]), out)
    expected = logits(tiny_model, first)
    torch.testing.assert_close(logits(tiny_model, out), expected, rtol=1e-5, atol=1e-5)
    assert (logits(tiny_model, second) - expected).abs().max() > 0.1, "the adapters differ"
    assert record["rank"] == 10 == read_json(out / "adapter_config.json")["r"]


def test_linear_adds_the_changes(tiny_model: Path, first: Path, second: Path, tmp_path: Path) -> None:
    merge([str(first), str(second)], MergeConfig(weights=[0.3, -2]), tmp_path / "m")
    one, two = deltas(tiny_model, first), deltas(tiny_model, second)
    assert_same(deltas(tiny_model, tmp_path / "m"), {n: 0.3 * one[n] - 2 * two[n] for n in one})


def test_slerp_interpolates_every_weight(tiny_model: Path, first: Path, second: Path, tmp_path: Path) -> None:
    merge([str(first), str(second)], MergeConfig(method="slerp", weights=[1, 3]), tmp_path / "m")
    one, two, expected = deltas(tiny_model, first), deltas(tiny_model, second), {}
    for name, change in one.items():
        a, b = change.double().flatten(), two[name].double().flatten()
        angle = math.acos(float(a @ b / a.norm() / b.norm()))
        between = (math.sin(0.25 * angle) * a + math.sin(0.75 * angle) * b) / math.sin(angle)
        expected[name] = between.reshape(change.shape).float()
    assert_same(deltas(tiny_model, tmp_path / "m"), expected)


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_a_lower_rank_is_the_nearest_one(
    method: Any, tiny_model: Path, first: Path, second: Path, tmp_path: Path
) -> None:
    import torch

    inputs = [str(first), str(second)]
    merge(inputs, MergeConfig(method=method), tmp_path / "exact")
    record = merge(inputs, MergeConfig(method=method, rank=3), tmp_path / "cut")
    assert record["rank"] == 3 == read_json(tmp_path / "cut" / "adapter_config.json")["r"]
    exact, expected = deltas(tiny_model, tmp_path / "exact"), {}
    for name, change in exact.items():
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        expected[name] = left[:, :3] * values[:3] @ right[:3]
    assert_same(deltas(tiny_model, tmp_path / "cut"), expected)


def test_ties_trims_the_product_of_the_factors(
    tiny_model: Path, first: Path, second: Path, tmp_path: Path
) -> None:
    import torch
    from peft.utils.merge_utils import ties

    config = MergeConfig(method="ties", density=0.3, rank=64)  # all of it: the narrowest weight has 32 rows
    merge([str(first), str(second)], config, tmp_path / "m")
    one, two = deltas(tiny_model, first), deltas(tiny_model, second)
    expected = {n: ties([one[n], two[n]], torch.ones(2), 0.3) for n in one}
    assert_same(deltas(tiny_model, tmp_path / "m"), expected)


def test_factors_keep_the_rank_and_need_equal_ones(
    tiny_model: Path, first: Path, second: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    config = MergeConfig(method="dare_ties", factors=True)
    third = make_adapter(3)
    assert merge([str(first), str(third)], config, tmp_path / "m")["rank"] == 4
    again = merge([str(first), str(third)], config, tmp_path / "again")
    assert again == read_json(tmp_path / "m" / "merge.json"), (
        "the record is that of the inputs and the settings"
    )
    assert_same(deltas(tiny_model, tmp_path / "m"), deltas(tiny_model, tmp_path / "again"))
    with pytest.raises(ConfigError, match=r"same r value .* \(leave out --factors\)"):
        merge([str(first), str(second)], config, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_rank_stabilised_scaling_is_counted_once(
    tiny_model: Path, first: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    stable = make_adapter(4, use_rslora=True)
    merge([str(stable), str(first)], MergeConfig(weights=[1, 1]), tmp_path / "m")
    one, two = deltas(tiny_model, stable), deltas(tiny_model, first)
    assert_same(deltas(tiny_model, tmp_path / "m"), {n: one[n] + two[n] for n in one})


def test_adapters_of_other_modules(tiny_model: Path, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    one, two = (
        make_adapter(5, target_modules=["q_proj"]),
        make_adapter(6, target_modules=["q_proj", "up_proj"]),
    )
    for method in ("linear", "slerp"):
        merge([str(one), str(two)], MergeConfig(method=method, weights=[1, 1]), tmp_path / method)
        result, of_two = deltas(tiny_model, tmp_path / method), deltas(tiny_model, two)
        factor = 1.0 if method == "linear" else 0.5
        mlp = {name: factor * change for name, change in of_two.items() if "up_proj" in name}
        assert_same({name: result[name] for name in mlp}, mlp)


def test_files_beside_the_weights(first: Path, second: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    record = merge([str(first.parent), str(second)], MergeConfig(), out)
    assert (out / "judge.yaml").read_bytes() == (first / "judge.yaml").read_bytes()
    assert (out / "chat_template.jinja").read_bytes() == (first / "chat_template.jinja").read_bytes()
    assert (out / "tokenizer.json").is_file() and not (out / "README.md").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged"], "no lock and no unfinished folder"
    assert record == read_json(out / "merge.json")
    assert record["settings"]["weights"] == [0.5, 0.5] and record["result"] == "adapter"
    files = record["inputs"][0]["files"]
    assert {"adapter_model.safetensors", "adapter_config.json", "judge.yaml"} <= files.keys()
    assert files != record["inputs"][1]["files"] and all(len(value) == 64 for value in files.values())


@pytest.mark.parametrize("method", ["linear", "slerp", "ties"])
def test_weights_that_are_not_finite_are_refused(
    first: Path, make_adapter: MakeAdapter, tmp_path: Path, method: MergeMethod
) -> None:
    from safetensors.torch import load_file, save_file

    failed = make_adapter(3)
    weights = load_file(failed / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    weights[name][0, 0] = math.nan
    save_file(weights, failed / "adapter_model.safetensors")
    with pytest.raises(EngineError, match=r"the weights of .+ are not finite"):
        merge([str(first), str(failed)], MergeConfig(method=method), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_never_overwritten(first: Path, second: Path, tmp_path: Path) -> None:
    out, inputs = tmp_path / "m", [str(first), str(second)]
    merge(inputs, MergeConfig(), out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert merge(inputs, MergeConfig(), out)["rank"] == 10, "the same merge is done"
    with pytest.raises(ConfigError, match="it exists, and is not the result of this merge"):
        merge(inputs, MergeConfig(weights=[1, 1]), out)
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}


def changed(folder: Path, target: Path, **config: Any) -> Path:
    import shutil

    shutil.copytree(folder, target)
    if config:
        change_json(target / "adapter_config.json", **config)
    return target


def test_adapters_that_do_not_fit_are_refused(first: Path, second: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    other_base = changed(second, tmp_path / "other-base", base_model_name_or_path="org/other")
    with pytest.raises(ConfigError, match=r"was trained on .*tiny-model.*, and .* on org/other"):
        merge([str(first), str(other_base)], MergeConfig(), out)
    template = changed(second, tmp_path / "template")
    (template / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ConfigError, match="were trained with another chat template"):
        merge([str(first), str(template)], MergeConfig(), out)
    wording = changed(second, tmp_path / "wording")
    (wording / "judge.yaml").unlink()
    with pytest.raises(ConfigError, match=r"were trained with another wording \(judge.yaml\)"):
        merge([str(first), str(wording)], MergeConfig(), out)
    for key in ("use_dora", "modules_to_save"):
        dora = changed(second, tmp_path / key, **{key: True})
        with pytest.raises(EngineError, match=f"sets {key}, which adds weights"):
            merge([str(first), str(dora)], MergeConfig(), out)
    pickled = changed(second, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(EngineError, match=r"adapter_model.safetensors is missing"):
        merge([str(first), str(pickled)], MergeConfig(), out)
    no_base = changed(second, tmp_path / "no-base", base_model_name_or_path=None)
    with pytest.raises(ConfigError, match=r"names no base \(give --base\)"):
        merge([str(no_base), str(no_base)], MergeConfig(), out)
    with pytest.raises(EngineError, match="does not fit the base"):
        merge([str(first), str(second)], MergeConfig(base="data/toy-base"), out)
    assert not out.exists()
