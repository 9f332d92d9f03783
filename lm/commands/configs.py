"""`lm configs`: the configurations that ship, and what is in one."""

from lm.options import OptionParser
from lm.run.configs import find, listed, shipped


def main(argv: list[str]) -> None:
    """The command `lm configs`."""
    parser = OptionParser("configs", "List the configurations that ship with lm, or print one.")
    parser.add_argument("name", nargs="?", help="print it, to begin your own: lm configs gpt-nano > my.yaml")
    name = parser.parse(argv).name
    if name is not None:
        print(find(name).read_text(encoding="utf-8"), end="")
        return
    known = list(listed(shipped()))
    width = max(len(each.path.stem) for each in known)
    for group in dict.fromkeys(each.name.partition("/")[0] for each in known):
        print(f"{group}/")
        for each in known:
            if each.name.startswith(f"{group}/"):
                print(f"  {each.path.stem:{width}}  {each.what}")
    print("\nlm fit NAME uses one (lm eval MODEL --tasks NAME one of eval, lm sweep NAME one of sweep)")
    print(f"lm configs NAME prints it; they lie in {shipped()}")
