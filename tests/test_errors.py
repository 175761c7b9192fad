"""The error tree: complete in its own drawing, importable everywhere, with an exit code by kind."""

import inspect
import re

from edgekit import errors


def error_classes():
    return [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.EdgekitError)]


def test_every_error_is_in_the_drawing_of_its_module():
    drawn = errors.__doc__ or ""

    missing = [cls.__name__ for cls in error_classes() if cls.__name__ not in drawn]

    assert missing == []


def test_an_error_has_the_exit_code_that_the_drawing_gives_its_branch():
    drawn = re.findall(r"── (\w+) +(\d+) ", errors.__doc__ or "")

    wrong = [name for name, code in drawn if getattr(errors, name).exit_code != int(code)]

    assert len(drawn) == 6
    assert wrong == []


def test_an_error_carries_what_to_do_next():
    error = errors.DeviceFull("no space", hint="make room")

    assert (str(error), error.hint, error.exit_code) == ("no space", "make room", 4)


def test_errors_are_documented_in_one_sentence_each():
    lacking = [cls.__name__ for cls in error_classes() if not (cls.__doc__ or "").strip().endswith(".")]

    assert lacking == []
