"""A teacher: whether it can teach a student, and how the two are asked the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lm.checkpoint import Model
from lm.errors import UserError, some
from lm.tasks.examples import ExampleTask
from lm.tasks.table import entry_of


@dataclass
class Heard:
    """What a network was asked, and what it said.

    Args:
        asked: arguments of the network, positional and by name; `backbone` those of its backbone.
        hidden: what the backbone gave (B, T, hidden_size); `outputs` what the network did.
        layers: what each block gave, where that was listened to.
    """

    asked: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    backbone: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    hidden: Any = None
    outputs: Any = None
    layers: list[Tensor] = field(default_factory=list)


@contextmanager
def listening(net: Any, layers: bool) -> Iterator[Heard]:
    """What a network is asked, and says, within.

    Args:
        layers: listen to each block, too.
    """
    heard = Heard()

    def of_network(_: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        heard.asked, heard.outputs = (args, kwargs), outputs

    def of_backbone(_: nn.Module, args: Any, kwargs: Any, hidden: Tensor) -> None:
        heard.backbone, heard.hidden = (args, kwargs), hidden

    handles = [net.register_forward_hook(of_network, with_kwargs=True)]
    handles += [net.backbone.register_forward_hook(of_backbone, with_kwargs=True)]
    if layers:
        handles += [
            block.register_forward_hook(lambda _, args, hidden: heard.layers.append(hidden))
            for block in net.backbone.blocks
        ]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def see_it_fits(teacher: Model, task: Any, name: str) -> None:
    """See that a teacher speaks of what the student does.

    Args:
        task: the student's, after `setup`.
        name: of the teacher, for messages.

    Raises:
        UserError: it does not; says what to do.
    """
    record, config, student, ours = teacher.record, teacher.config, task.config, task.head()
    if teacher.processor.fingerprint != task.processor.fingerprint:
        how = "let `data.tokenizer` be the teacher's"
        if isinstance(task, ExampleTask):
            how = "let `model.init_from` be a model with the teacher's, or leave it out"
        raise UserError(
            f"the teacher {name} has another tokenizer than the student, so what it says of a token says "
            f"nothing of the student's: {how}"
        )
    head = record.get("head") or {"kind": "language"}
    again = "first, and give the run as `model.teacher`"
    if head["kind"] != ours["kind"] or (head["kind"] == "language" and not teacher.has_head):
        entry = entry_of(record)
        raise UserError(
            f"the teacher {name} is {entry.what if entry else 'a pretrained model'}, which can't teach "
            f"{task.plain().__name__}: train it for that {again}"
        )
    known, wanted = list(record.get("labels") or ()), list(task.labels)
    if head.get("outputs") != ours.get("outputs") or known != wanted:
        theirs, found = (some(map(repr, each), 6) or "none" for each in (known, wanted))
        raise UserError(
            f"the teacher {name} knows the labels {theirs}, and the data have {found}: train it on these "
            f"data {again}"
        )
    if ours["kind"] == "pooled" and record.get("kind", "single") != task.kind:
        raise UserError(
            f"the teacher {name} has learned {record.get('kind')}, the data are {task.kind}: train it on "
            f"these data {again}"
        )
    if ours["kind"] != "pooled" and config.causal != student.causal:
        kinds = ("a GPT", "a BERT") if config.causal else ("a BERT", "a GPT")
        raise UserError(f"the teacher {name} is {kinds[0]}, the student {kinds[1]}: both have to be the same")
    if config.positions == "learned" and config.max_seq_len < student.max_seq_len:
        raise UserError(
            f"the teacher {name} sees {config.max_seq_len} tokens, the student {student.max_seq_len}: give "
            f"`data.seq_len` {config.max_seq_len}",
            status=2,
        )
    if ours["kind"] in ("pooled", "span") and config.segments > max(student.segments, 1):
        raise UserError(
            f"the teacher {name} tells the texts of a pair apart by segments: give the student as many, "
            f"`backbone.segments` {config.segments}",
            status=2,
        )
