"""How the model in a folder is loaded, as its card tells: with transformers or peft, zoo, vLLM and llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.models.names import head_in


@dataclass(frozen=True)
class Folder:
    """What lies in a folder: a whole model, adapters, or a GGUF file (`kind`).

    head: as of `head_in`; chats: whether it has a chat template, and was trained with one.
    """

    path: Path
    kind: str
    head: str
    chats: bool

    @classmethod
    def of(cls, path: Path, chats: bool) -> Folder:
        if any(path.glob("*.gguf")):
            return cls(path, "gguf", "lm", chats)
        adapted = (path / "adapter_config.json").is_file()
        chats = chats and (path / "chat_template.jinja").is_file()
        return cls(path, "adapter" if adapted else "whole", head_in(path), chats)

    @property
    def gguf(self) -> str:
        """The name of the GGUF file."""
        return min(file.name for file in self.path.glob("*.gguf"))


def how_to_load(found: Folder, bases: Sequence[str]) -> Iterator[str]:
    """The paragraphs of the card. bases: the names on the hub of what it was made from."""
    yield "## How to load it"
    yield "`FOLDER` is where this file lies, or the name of its repository on the hub."
    yield f"```python\n{_python(found)}\n```"
    yield f"```sh\n{_commands(found, next(filter(None, bases), 'BASE'))}\n```"
    if found.kind == "adapter":
        yield (
            "Adapters need the model that they were trained on, which `adapter_config.json` names. If it names a "
            "folder, make one model of both before you pass them on: `zoo export FOLDER NEW-FOLDER --merge`."
        )
    if found.head == "lm":
        yield "What ends an answer, and the chat template, are those that it was trained with."


def _python(found: Folder) -> str:
    head = "ForSequenceClassification" if found.head == "scalar" else "ForCausalLM"
    kind = f"AutoPeftModel{head}" if found.kind == "adapter" else f"AutoModel{head}"
    imports = f"from transformers import {kind}, AutoTokenizer"
    more = ""
    if found.kind == "adapter":
        stops = ", GenerationConfig" if found.head == "lm" else ""
        imports = f"from peft import {kind}\nfrom transformers import AutoTokenizer{stops}"
        # peft leaves the base's own.
        more = 'model.generation_config = GenerationConfig.from_pretrained("FOLDER")\n' if stops else ""
    place = f'"FOLDER", gguf_file="{found.gguf}"' if found.kind == "gguf" else '"FOLDER"'
    # peft does not look for the number of outputs in the folder of the adapters.
    outputs = ", num_labels=1" if found.kind == "adapter" and found.head == "scalar" else ""
    load = f"model = {kind}.from_pretrained({place}{outputs})\ntokenizer = AutoTokenizer.from_pretrained({place})"
    return f"{imports}\n\n{load}\n{more}{SCORE if found.head == 'scalar' else ASK}".replace("TEXT", _text(found))


def _text(found: Folder) -> str:
    """The tokens of a prompt, or for a reward model of a prompt and an answer."""
    if not found.chats:
        return 'tokenizer("A plum is", return_tensors="pt")'
    asked = '{"role": "user", "content": "Name a fruit."}'
    if found.head == "scalar":
        asked, more = f'{asked}, {{"role": "assistant", "content": "A plum."}}', ""
    else:
        more = "add_generation_prompt=True, "
    return f'tokenizer.apply_chat_template(\n    [{asked}],\n    {more}return_tensors="pt", return_dict=True,\n)'


ASK = """text = TEXT
answer = model.generate(**text, max_new_tokens=100)
print(tokenizer.decode(answer[0, text["input_ids"].shape[1] :], skip_special_tokens=True))"""
SCORE = """text = TEXT
print(model(**text).logits)"""


def _commands(found: Folder, base: str) -> str:
    if found.head == "scalar":
        return "zoo eval MODEL --reward FOLDER"
    if found.kind == "gguf":
        return f"llama-cli -m FOLDER/{found.gguf}\nzoo chat FOLDER/{found.gguf}"
    served = "FOLDER"
    if found.kind == "adapter":
        chat = " --chat-template FOLDER/chat_template.jinja" if found.chats else ""
        served = f"{base} --enable-lora --lora-modules mine=FOLDER --generation-config FOLDER{chat}"
    return f"zoo chat FOLDER\nvllm serve {served}"
