"""Merged models: whole models by formula, small weight files, little memory, and a merge that was killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.merge import MergeConfig
from reasongenrm.errors import ConfigError, EngineError
from reasongenrm.store import read_json
from reasongenrm.train import merge_models
from reasongenrm.train.merge import merge
from reasongenrm.train.merge_inputs import read_input
from support.merge_fixtures import MakeAdapter, change_json

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def judge(make_adapter: MakeAdapter) -> Path:
    return make_adapter(7)


@pytest.fixture(scope="module")
def chat(make_model: Callable[[int], Path]) -> Path:
    """A chat model: further training of the judge's base, with another chat template."""
    folder = make_model(8)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    return folder


def weights_of(folder: Path) -> dict[str, Any]:
    """All tensors of a model's files."""
    from safetensors.torch import load_file

    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def judge_weights(model: Path, adapter: Path) -> dict[str, Any]:
    """The weights of a base with an adapter merged in by peft."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter)
    state = tuned.merge_and_unload().state_dict()
    return {name: state[name] for name in weights_of(model)}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    import torch

    assert one.keys() == other.keys() and one
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-5, msg=name)


def test_a_judge_and_a_chat_model(tiny_model: Path, judge: Path, chat: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    config = MergeConfig(weights=[0.75, 0.25], shard_size="100KB")
    record = merge([str(judge.parent), str(chat)], config, out)
    trained, other = judge_weights(tiny_model, judge), weights_of(chat)
    assert_same(weights_of(out), {name: 0.75 * trained[name] + 0.25 * other[name] for name in other})
    shards = sorted(out.glob("model-*.safetensors"))
    assert len(shards) > 3 and read_json(out / "model.safetensors.index.json")["metadata"]["total_size"]
    assert record["result"] == "model" and record["inputs"][0]["base"] == str(tiny_model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged"]


def test_the_merged_model_is_a_judge_of_stage_3(judge: Path, chat: Path, tmp_path: Path) -> None:
    from contextlib import ExitStack

    import torch
    from transformers import AutoModelForCausalLM

    from reasongenrm.chat.prompts import PromptFile
    from reasongenrm.config.models import models_recipe
    from reasongenrm.run import Run
    from reasongenrm.stages.models import load_models

    out = tmp_path / "merged"
    merge([str(chat), str(judge)], MergeConfig(shard_size="100KB"), out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert torch.isfinite(model(input_ids=torch.arange(3, 20)[None]).logits).all()
    recipe = models_recipe(
        model=str(out), adapter=None, server=None, api_key_env=None, scalar=None, benchmarks="rewardbench"
    )
    with ExitStack() as stack:
        reasoning, direct = load_models(recipe, Run(recipe, "evaluate"), stack)
    assert reasoning.encoder is not None and reasoning.encoder.reasons_first
    assert not reasoning.encoder.one_turn, "the judge's template, with a turn for the reason"
    wording = PromptFile.load(judge / "judge.yaml")
    assert (reasoning.wording, direct.wording) == (wording, wording.for_direct())


def test_a_judge_of_all_weights_is_in_its_folder_model(chat: Path) -> None:
    one = read_input(str(chat.parent))
    assert (one.kind, one.folder, one.is_judge) == ("model", chat.parent / "model", False)


def test_slerp_of_models(tiny_model: Path, judge: Path, chat: Path, tmp_path: Path) -> None:
    import torch

    config = MergeConfig(method="slerp", weights=[1, 1])
    merge([str(judge), str(chat)], config, tmp_path / "m")
    trained, other, expected = judge_weights(tiny_model, judge), weights_of(chat), {}
    for name, value in other.items():
        a, b = trained[name].double(), value.double()
        cosine = float((a * b).sum() / a.norm() / b.norm())
        angle = float(torch.tensor(cosine, dtype=torch.float64).acos())
        factor = (
            float(torch.tensor(angle / 2).sin()) / float(torch.tensor(angle).sin())
            if cosine < 0.9995
            else 0.5
        )
        expected[name] = (factor * (a + b)).float()
    assert_same(weights_of(tmp_path / "m"), expected)


def test_ties_counts_changes_from_the_base(
    tiny_model: Path, judge: Path, chat: Path, make_model: Callable[[int], Path], tmp_path: Path
) -> None:
    import torch
    from peft.utils.merge_utils import ties

    third = make_model(9)
    config = MergeConfig(method="ties", density=0.4)
    merge([str(judge), str(chat), str(third)], config, tmp_path / "m")
    base = weights_of(tiny_model)
    models = [judge_weights(tiny_model, judge), weights_of(chat), weights_of(third)]
    expected = {
        name: start + ties([model[name] - start for model in models], torch.ones(3), 0.4)
        for name, start in base.items()
    }
    result = weights_of(tmp_path / "m")
    # The adapter's own sum has rounding errors, which may move a value over the limit of what is kept.
    moved = sum(int(((result[n] - expected[n]).abs() > 1e-4).sum()) for n in base)
    assert result.keys() == base.keys() and moved <= 2


def test_numbers_stay_in_16_bits(tiny_model: Path, judge: Path, chat: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(chat, dtype=torch.bfloat16).save_pretrained(half)
    for file in chat.glob("*token*"):
        shutil.copy(file, half)
    merge([str(half), str(chat)], MergeConfig(), tmp_path / "m")
    result, full = weights_of(tmp_path / "m"), weights_of(chat)
    for name, value in weights_of(half).items():
        assert result[name].dtype == torch.bfloat16
        assert torch.equal(result[name], ((value.float() + full[name]) / 2).bfloat16())


def test_numbers_beyond_the_range_of_their_type_are_refused(judge: Path, chat: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"the weights of .+ are not finite"):
        merge([str(judge), str(chat)], MergeConfig(weights=[1e39, 1 - 1e39]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_linear_without_a_mean_needs_a_base(tiny_model: Path, chat: Path, tmp_path: Path) -> None:
    inputs, config = [str(chat), str(chat)], MergeConfig(weights=[1, 1])
    with pytest.raises(ConfigError, match=r"weights of a linear merge of models sum to 2 .*--base"):
        merge(inputs, config, tmp_path / "m")
    with pytest.raises(ConfigError, match=r"ties needs the model .* \(give --base\)"):
        merge(inputs, MergeConfig(method="ties"), tmp_path / "m")
    merge(inputs, config.model_copy(update={"base": str(tiny_model)}), tmp_path / "m")
    base, other = weights_of(tiny_model), weights_of(chat)
    assert_same(weights_of(tmp_path / "m"), {name: 2 * other[name] - base[name] for name in base})


def test_a_killed_merge_continues_with_its_weight_files(
    judge: Path, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [str(judge), str(chat)]
    config = MergeConfig(method="dare_ties", shard_size="100KB")
    merge(inputs, config, tmp_path / "whole")
    written, write_file = [], merge_models._write_file

    def stop_after_two(path: Path, tensors: Any) -> None:
        if len(written) == 2:
            path.with_name(path.name + ".tmp").write_bytes(b"torn")
            raise KeyboardInterrupt
        written.append(path)
        write_file(path, tensors)

    with monkeypatch.context() as patched:
        patched.setattr(merge_models, "_write_file", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            merge(inputs, config, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    before = {path.name: path.stat().st_mtime_ns for path in written}
    merge(inputs, config, tmp_path / "m")
    assert before == {name: (tmp_path / "m" / name).stat().st_mtime_ns for name in before}
    assert {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()
    }


def test_files_of_another_merge_are_not_continued(judge: Path, chat: Path, tmp_path: Path) -> None:
    partial = tmp_path / "m.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"of another merge")
    (partial / "merge.json").write_text("{}")
    merge([str(judge), str(chat)], MergeConfig(), tmp_path / "m")
    assert weights_of(tmp_path / "m").keys() == weights_of(chat).keys()


def test_models_that_do_not_fit_are_refused(judge: Path, chat: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    other = tmp_path / "other"
    shutil.copytree(chat, other)
    change_json(other / "config.json", model_type="llama")
    with pytest.raises(ConfigError, match="is of the architecture qwen2"):
        merge([str(chat), str(other)], MergeConfig(), out)
    wider = tmp_path / "wider"
    shutil.copytree(chat, wider)
    model = AutoModelForCausalLM.from_pretrained(chat)
    model.resize_token_embeddings(model.config.vocab_size + 8)
    model.save_pretrained(wider)
    with pytest.raises(
        ConfigError, match=r"1 tensors differ in shape .* model.embed_tokens.weight: \d+×64 and"
    ):
        merge([str(chat), str(wider)], MergeConfig(), out)
    tokens = tmp_path / "tokens"
    shutil.copytree(chat, tokens)
    text = (tokens / "tokenizer.json").read_text()
    assert "<|im_end|>" in text
    (tokens / "tokenizer.json").write_text(text.replace("<|im_end|>", "<|turn_end|>"))
    with pytest.raises(ConfigError, match=r"tokenizers of .* differ in 2 tokens, such as '<|im_end|>'"):
        merge([str(chat), str(tokens)], MergeConfig(), out)
    quantized = tmp_path / "quantized"
    shutil.copytree(chat, quantized)
    change_json(quantized / "config.json", quantization_config={"bits": 4})
    with pytest.raises(EngineError, match="its weights are quantized"):
        read_input(str(quantized))
    with pytest.raises(ConfigError, match="rank and factors are of merged adapters"):
        merge([str(judge), str(chat)], MergeConfig(rank=2), out)
    assert not out.exists()


# --- memory

MEASURE = """
import sys, threading, time
from pathlib import Path
import peft, torch, transformers
from reasongenrm.config.merge import MergeConfig
from reasongenrm.train.merge import merge

def own():  # bytes of this process alone: pages of mapped files are the system's to drop
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))

def watch():
    while not done.is_set():
        peak.append(own())
        time.sleep(0.002)

*warm_up, base, first, second, out = sys.argv[1:]
merge([warm_up[0]] * 2, MergeConfig(method="ties", base=warm_up[0]), Path(warm_up[1]))  # loads libraries
start, peak, done = own(), [], threading.Event()
thread = threading.Thread(target=watch)
thread.start()
merge([first, second], MergeConfig(method="ties", base=base, shard_size="10MB"), Path(out))
done.set()
thread.join()
print(max(peak) - start)
"""


def big_model(folder: Path, tokenizer: Path, seed: int) -> int:
    """Write a model of some 100 MB, with weights of at most 6 MB each; return its size in bytes."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=2000, hidden_size=1024, intermediate_size=3072, num_hidden_layers=4, num_attention_heads=16,
        num_key_value_heads=2, tie_word_embeddings=True, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(seed)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="40MB")
    for file in tokenizer.glob("*token*"):
        shutil.copy(file, folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_memory_is_that_of_a_weight_file(tiny_model: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("base", "first", "second")]
    size = min(big_model(folder, tiny_model, number) for number, folder in enumerate(folders))
    paths = [tiny_model, tmp_path / "warm-up", *folders, tmp_path / "m"]
    words = [sys.executable, "-c", MEASURE, *map(str, paths)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    peak = int(done.stdout.splitlines()[-1])
    # A file of 10 MB twice while it is written, and a weight of 6 MB in 32 bits; measured: some 40 MB
    assert size > 80e6 and peak < size * 0.7, f"{peak / 1e6:.0f} of {size / 1e6:.0f} MB"
    for folder in (*folders, tmp_path / "m"):
        shutil.rmtree(folder)
