"""Chat markers of the usual model families: one list for exports and for chat APIs, which render texts into one string.

Only a tokenizer knows its markers, and these files are read by tokenizers that are not known here. So the list holds what
public tokenizers and chat templates of instruction models use, by family. Sources, read in 2026:

- llama.cpp, `src/llama-chat.cpp` (built-in chat templates) and `src/llama-vocab.cpp` (tokens that end a turn or belong
  to code completion);
- LLaMA-Factory, `src/llamafactory/data/template.py` (templates and the tokens of media);
- for families that both lack (Falcon, LongCat, StarCoder, Gemma's and Mistral's rarer tokens), the models' own tokenizer
  files as public repositories quote them.

Turns marked by plain words (`### Instruction:`, `Human:`, ChatGLM's bare `sop`) look like any other text.
"""

from __future__ import annotations

import re

from reasongenrm.chat.delimiters import break_matches

MARKERS: dict[str, tuple[str, ...]] = {
    "chatml (Qwen, Yi, InternLM2)": ("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>"),
    "harmony (gpt-oss)": ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"),
    "llama 2": ("<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    "llama 3, 4": ("<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|header_start|>", "<|eot|>"),
    "mistral": ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]",
                "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CONTENT]", "[THINK]", "[/THINK]", "[ARGS]", "[CALL_ID]",
                "[BEGIN_AUDIO]", "[TRANSCRIBE]", "[IMG_BREAK]", "[IMG_END]"),
    "gemma": ("<bos>", "<eos>", "<pad>", "<mask>", "<2mass>", "[@BOS@]", "[multimodal]", "<start_of_turn>",
              "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>", "<audio_soft_token>",
              "<|turn>", "<turn|>", "<|tool_response>"),
    "deepseek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<|EOT|>",
                 "<｜tool▁calls▁begin｜>", "<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),
    "phi, zephyr, granite": ("<|system|>", "<|user|>", "<|assistant|>", "<|start_of_role|>", "<|end_of_text|>"),
    "glm": ("[gMASK]", "[sMASK]", "[MASK]", "<sop>", "<eop>", "<|observation|>", "<arg_key>", "</arg_key>",
            "<arg_value>", "</arg_value>"),
    "exaone, bluelm": ("[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]", "[|tool|]", "[|Human|]", "[|AI|]"),
    "seed": ("<seed:bos>", "<seed:eos>", "<seed:pad>", "<seed:think>", "</seed:think>", "<seed:tool_call>",
             "</seed:tool_call>", "<seed:cot_budget_reflect>", "</seed:cot_budget_reflect>"),
    "minimax": ("]~b]", "]~!b[", "[e~[", "<minimax:tool_call>", "</minimax:tool_call>", "<beginning_of_sentence>",
                "<end_of_sentence>"),
    "kimi": ("<|im_user|>", "<|im_middle|>", "[EOS]", "[BOS]", "[EOT]", "[PAD]", "[UNK]", "◁think▷", "◁/think▷"),
    "cohere": ("<BOS_TOKEN>", "<EOS_TOKEN>", "<PAD_TOKEN>", "<UNK_TOKEN>", "<CLS>", "<SEP>", "<MASK_TOKEN>",
               "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"),
    "bailing": ("<|role_end|>",),
    "minicpm": ("<用户>",),
    "longcat": ("<longcat_user>", "<longcat_assistant>", "<longcat_system>", "<longcat_s>", "</longcat_s>",
                "<longcat_think>", "</longcat_think>", "<longcat_tool_call>", "</longcat_tool_call>"),
    "internlm": ("<eoh>", "<eoa>", "<eob>", "<eosys>"),
    "smolvlm": ("<end_of_utterance>", "<fake_token_around_image>"),
    "bert, xlm-r": ("[CLS]", "[SEP]", "<cls>", "<sep>"),
    "starcoder": ("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<fim-prefix>", "<fim-middle>",
                  "<fim-suffix>", "<fim-pad>", "<file_sep>", "<repo_name>", "<reponame>", "<gh_stars>",
                  "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>",
                  "<jupyter_code>", "<jupyter_output>", "<empty_output>", "<commit_before>", "<commit_msg>",
                  "<commit_after>"),
    "reasoning and tools": ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
                            "<tools>", "</tools>", "<tool_calls>", "</tool_calls>", "<TOOLCALL>", "</TOOLCALL>",
                            "<AVAILABLE_TOOLS>", "</AVAILABLE_TOOLS>", "<function_calls>", "</function_calls>"),
}  # fmt: skip
"""Markers by family, in any case; those of a shape of `_SHAPES` only as examples."""

EXACT_MARKERS: dict[str, tuple[str, ...]] = {
    "code llama": ("<PRE>", "<SUF>", "<MID>", "<EOT>", "<REPO>"),
    "mistral": ("[PREFIX]", "[SUFFIX]", "[MIDDLE]", "[IMG]", "[AUDIO]", "[MODEL_SETTINGS]", "[/MODEL_SETTINGS]"),
    "bailing": ("<role>", "</role>"),
    "minicpm, telechat": ("<AI>", "<_user>", "<_bot>", "<_system>", "<_end>"),
    "media": ("<image>", "</image>", "<video>", "</video>", "<audio>", "</audio>"),
    "falcon": (">>TITLE<<", ">>ABSTRACT<<", ">>INTRODUCTION<<", ">>SUMMARY<<", ">>COMMENT<<", ">>ANSWER<<",
               ">>QUESTION<<", ">>DOMAIN<<", ">>PREFIX<<", ">>SUFFIX<<", ">>MIDDLE<<"),
}  # fmt: skip
"""Markers by family, in this case only: in another one they are ordinary (`<pre>` in HTML, `List<Image>` in Java)."""

_SHAPES = (
    r"</?[|｜]{1,2}[^\s\\<>|｜]{1,64}[|｜]",  # <|im_start|>, <|eot_id|>, <｜User｜>, </｜DSML｜…>
    r"<[|｜][^\s\\<>|｜]{1,64}>",  # <|turn>
    r"<[^\s\\<>|｜]{1,64}[|｜]>",  # <turn|>
    # T5 and Nemotron <extra_id_1>, <SPECIAL_11>; Baichuan <reserved_106>; Gemma <unused9>; InternLM <TOKENS_UNUSED_1>
    r"<(?:extra_id|special|reserved|unused|madeupword|placeholder|tokens_unused|control)_?[0-9]{1,6}>",
    r"\[(?:extra_id|special|reserved|unused|control)_?[0-9]{1,6}\]",  # Pangu [unused9], Mistral [control_8]
    r"<0x[0-9a-f]{2}>",  # byte tokens of SentencePiece
)
"""Patterns of markers with names or numbers of their own, in any case."""


def _pattern() -> re.Pattern[str]:
    """Return the pattern of a marker's first character, followed by the rest."""
    patterns = [f"(?i:{shape})" for shape in _SHAPES]
    patterns += [f"(?i:{re.escape(marker)})" for family in MARKERS.values() for marker in family]
    patterns += [re.escape(marker) for family in EXACT_MARKERS.values() for marker in family]
    # A search for one of a few characters, and a look from there at a whole marker, is much faster than the alternatives.
    return re.compile(rf"[<>\[\]◁](?<=(?={'|'.join(patterns)}).)")


_PATTERN = _pattern()


def break_markers(text: str, mark: str = " ") -> str:
    """Return a text in which no chat marker is left: a mark is inserted behind the first character of each.

    Args:
        text: any text.
        mark: a character that is in no marker.
    """
    return break_matches(text, _PATTERN, mark)
