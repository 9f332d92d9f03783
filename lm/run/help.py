"""What `lm fit --help` says: what a person decides, and how to see the rest. Imports nothing heavy."""

from lm.optim import SCHEDULES
from lm.tasks.table import TASKS

DATA = {
    "PretrainingData": "text, Markdown, code, JSON Lines, Parquet: windows of a corpus",
    "TextData": "texts with a label, or a number, each (CSV, TSV, JSON Lines, JSON, Parquet, folders)",
    "TagData": "words with an entity's tag each (CoNLL)",
    "QuestionData": "questions with their answers in texts (SQuAD)",
    "ChatData": "instructions and chats (Alpaca, ShareGPT, messages)",
    "ImageData": "pictures with a label each (folders by class, tables)",
    "DetectionData": "pictures with boxes (VOC, COCO, YOLO)",
    "SegmentationData": "pictures with a label for each pixel (PNG, COCO)",
    "AudioData": "sounds with a label each (folders by class, tables)",
    "SpeechData": "speech with its transcripts (tables)",
    "PreferenceData": "two answers to a prompt, and which is better",
}

USAGE = {
    "fit": (
        "lm fit CONFIG … [--option value]",
        "Pretrains or fine-tunes. CONFIG: a YAML file, or a name from `lm configs`; what comes later wins.\n"
        "The same command again goes on with a run that was stopped.",
    ),
    "validate": ("lm validate MODEL|CONFIG [--option value]", "The figures of a model on the held-out part."),
    "test": ("lm test MODEL|CONFIG [--option value]", "The figures of a model on the test part."),
    "predict": (
        "lm predict MODEL|CONFIG [--option value]",
        "Predictions of the test part, a line of JSON each, into the run's predictions.jsonl.",
    ),
}

OPTIONS = {
    "the run": {
        "--name NAME": "the folder under checkpoints/ that it is",
        "--seed_everything N": "of every generator; --seeds 0,1,2: a run with each, and their mean",
        "--ckpt_path FILE": "a last.ckpt to go on from; for the others the one to measure",
        "--checkpoint.every_n_steps N": "save so often; --checkpoint.patience N: end without progress",
    },
    "the text": {
        "--data CLASS": "what is learned from, see below",
        "--data.corpus PATH": "files, folders or globs to pretrain on",
        "--data.train FILE": "to fine-tune on; --data.val FILE, --data.test FILE",
        "--data.seq_len N": "tokens that the model sees at once",
        "--data.batch_size N": "samples at once; --trainer.accumulate_grad_batches N: so often in a step",
        "--data.vocab_size N": "of the tokenizer that is trained; --data.tokenizer FILE: bring your own",
    },
    "the model": {
        "--model CLASS": "what is learned, see below",
        "--model.init_from MODEL": "start from a checkpoint, a run or a Hugging Face folder",
        "--model.backbone.hidden_size N": "its shape: num_layers, num_heads, mlp, norm, dropout …",
        "--model.adapter.kind lora": "train low-rank matrices beside frozen weights; dora, rslora, pissa",
        "--model.compile true": "compile the blocks: for long runs",
    },
    "how it learns": {
        "--model.optimizer CLASS": "Muon, or one of torch.optim (AdamW …); --model.optimizer.lr X",
        "--model.schedule CLASS": f"{', '.join(SCHEDULES)}; --model.schedule.warmup N",
        "--trainer.max_steps N": "how long; or --trainer.max_epochs N",
        "--trainer.gradient_clip_val X": "the most that the gradients' norm may be (1)",
    },
    "where": {
        "--trainer.accelerator KIND": "cpu, gpu, mps, auto; --trainer.devices N, --trainer.num_nodes N",
        "--trainer.strategy KIND": "ddp …; or the overlays: lm fit gpt-nano ddp, lm fit gpt-nano fsdp",
        "--trainer.precision KIND": "32-true, bf16-mixed, bf16-true …",
        "--trainer.val_check_interval N": "micro-batches between two validations",
        "--trainer.logger CLASS": "besides TensorBoard: the overlays csv, mlflow, wandb",
    },
}


def text(command: str) -> str:
    """The help of a command that works on a run, on at most 80 lines."""
    usage, what = USAGE[command]
    lines = [f"usage: {usage}", "", what]
    tables = {
        **OPTIONS,
        "tasks (--model CLASS)": {name: entry.what for name, entry in TASKS.items()},
        "data (--data CLASS)": DATA,
    }
    for title, table in tables.items():
        lines += ["", f"{title}:", *(f"  {name:31}{words}" for name, words in table.items())]
    lines += [
        "",
        f"  lm {command} --model.help CLASS     the options of a class; so do --data.help and others",
        f"  lm {command} CONFIG --print_config  every option with its value",
        f"  lm {command} --help all             every option there is",
    ]
    return "\n".join(lines)
