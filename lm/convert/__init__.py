"""Other projects' formats, in and out: folders of Hugging Face's transformers.

- `start.py`: `read_start`, a checkpoint of lm or a Hugging Face folder as something to train on from
- `export.py`: a checkpoint as a Hugging Face folder; `command.py`: `lm export`
- `family.py` and a file a family: how configurations and tensors relate, both ways in one place
- `fields.py`, `weights.py`, `parts.py`: config.json, safetensors, and tensors made of each other
- `tokenizer_json.py`, `tokenizer_files.py`, `card.py`: the rest of such a folder
- `adapters.py`: an adapter and its base as one model

Nothing is imported here: `lm export --help` answers without torch.
"""
