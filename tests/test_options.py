"""What is said of an option that there is not."""

import pytest

from lm.errors import UserError
from lm.options import OptionParser, nearest

OPTIONS = ["data.seq_len", "model.optimizer.lr", "name", "tokens", "trainer.max_steps"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr", "model.optimizer.lr"),  # the end of one
        ("model.lr", "model.optimizer.lr"),
        ("learning_rate", "model.optimizer.lr"),  # another project's word
        ("max-new-tokens", "tokens"),
        ("max_iters", "trainer.max_steps"),
        ("trainer.max_step", "trainer.max_steps"),  # misspelt
        ("sec_len", "data.seq_len"),
        ("bla", None),
    ],
)
def test_the_option_that_was_meant(typed, meant):
    assert nearest(typed, OPTIONS) == meant


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "--toknes", "3"], "there is no option --toknes: did you mean --tokens?"),
        (["a", "--token", "3"], "did you mean --tokens?"),  # not taken for a shortened one
        (["a", "--bla"], "`lm x --help` lists them"),
        (["a", "b"], "one word too many: 'b'"),
        ([], "the following arguments are required: model"),
        (["a", "--tokens"], "--tokens: expected one argument"),
    ],
)
def test_wrong_usage_is_one_line(words, said):
    parser = OptionParser("x", "An example.")
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int)
    with pytest.raises(UserError, match=said.replace("?", r"\?")) as caught:
        parser.parse(words)
    assert caught.value.status == 2
    assert "\n" not in str(caught.value)
    assert parser.parse(["--tokens", "3", "a"]).tokens == 3
