"""Other projects' formats, in and out: folders of Hugging Face's transformers.

- `models.py`: `open_model`, a checkpoint of lm or a Hugging Face folder; `open_adapter`, one with its base
- `folder.py`, `export.py`: such a folder read, and written
- `family.py` and a file a family: how configurations and tensors relate, both ways in one place
- `fields.py`, `weights.py`, `parts.py`: config.json, safetensors, and tensors made of each other
- `tokenizer_json.py`, `tokenizer_files.py`, `card.py`: the rest of such a folder

Nothing is imported before it is used: `lm export --help` answers without torch.
"""

from lm.lazy import lazy

__getattr__, __dir__ = lazy(
    __name__, {"open_model": "models", "open_adapter": "models", "export_folder": "export"}
)
