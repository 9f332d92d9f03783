"""`lm completion SHELL`: what makes a shell complete the commands, their options and the configurations."""

import re

from lm.options import OptionParser
from lm.run.configs import listed, shipped

BASH = r"""# bash: eval "$(lm completion bash)"
_lm() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}"
    case "$COMP_CWORD:${{COMP_WORDS[1]}}:$word" in
        1:*) COMPREPLY=($(compgen -W "$(lm --help | awk '/^  [a-z]/ {{print $1}}')" -- "$word")) ;;
        *:fit:-*|*:validate:-*|*:test:-*|*:predict:-*) COMPREPLY=($(compgen -W "{options}" -- "$word")) ;;
        *:fit:*|*:configs:*)
            mapfile -t COMPREPLY < <(compgen -W "{configurations}" -- "$word"; compgen -f -- "$word") ;;
        *) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    esac
}}
complete -o filenames -F _lm lm
"""
ZSH = r"""# zsh: eval "$(lm completion zsh)"
autoload -U +X bashcompinit && bashcompinit
mapfile() {{ COMPREPLY=("${{(@f)$(cat)}}"); }}
"""
FISH = r"""# fish: lm completion fish | source
complete -c lm -n __fish_use_subcommand -f -a "(lm --help | awk '/^  [a-z]/ {{print \$1}}')"
complete -c lm -n "__fish_seen_subcommand_from fit configs" -a "{configurations}"
complete -c lm -n "__fish_seen_subcommand_from fit validate test predict" -a "{options}"
"""


def main(argv: list[str]) -> None:
    """The command `lm completion`."""
    from lm.run.help import OPTIONS

    parser = OptionParser("completion", 'Print what makes a shell complete: eval "$(lm completion bash)".')
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    shell = parser.parse(argv).shell
    words = (option for table in OPTIONS.values() for key, what in table.items() for option in (key, what))
    options = dict.fromkeys(re.findall(r"--[\w.]+", " ".join(words)))
    text = {"bash": BASH, "zsh": ZSH + BASH.partition("\n")[2], "fish": FISH}[shell]
    print(
        text.format(
            options=" ".join(options),
            configurations=" ".join(each.path.stem for each in listed(shipped())),
        ),
        end="",
    )
