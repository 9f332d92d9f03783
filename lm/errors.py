"""What a person can mend: one exception, shown by the command as a line or two without a traceback."""


class UserError(Exception):
    """Bad input, said in one or two lines that name the file, line or option and what to do.

    Args:
        message: shown on stderr after `lm COMMAND: `.
        status: the command's exit status: 2 for wrong usage, 1 for everything else.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def not_installed(what: str, package: str, extra: str) -> UserError:
    """That something needs a package of one of the project's extras."""
    return UserError(f"{what} needs {package}: pip install -e '.[{extra}]' in the folder of lm")
