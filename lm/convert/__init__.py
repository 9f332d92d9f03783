"""Other projects' formats, in and out: folders of Hugging Face's transformers, ONNX and GGUF
files.

- `models.py`: `open_model`, whatever holds a model: a checkpoint, a run, an adapter, such a folder or file
- `folder.py`, `export.py`: such a folder read, and written; `media_export.py`: that of pictures or sounds
- `onnx.py`: an ONNX file written, and run; `gguf.py`, `gguf_tokenizer.py`: a GGUF file written
- `family.py`, `media.py` and a file a family: how configurations and tensors relate, both ways in one place
- `fields.py`, `weights.py`, `parts.py`: config.json, safetensors, and tensors made of each other
- `tokenizer_json.py`, `tokenizer_files.py`, `preprocessors.py`, `card.py`: the rest of such a folder

Nothing is imported before it is used: `lm export --help` answers without torch.
"""

from lm.lazy import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "located": "models",
        "open_model": "models",
        "export_folder": "export",
        "export_onnx": "onnx",
        "export_gguf": "gguf",
    },
)
