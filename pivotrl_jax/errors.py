"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """Bad input, configuration or environment.

    The message is one sentence that names the file, line or field and ends with the remedy; the
    command line prints it without a traceback.
    """
