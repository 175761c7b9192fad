"""On the device: what the agent does with no workstation, from its own file under ROOT/agent.

    python3 -I ROOT/agent/current.py recover            before anything of a release is started, and at boot
    python3 -I ROOT/agent/current.py guard RELEASE      decides on the trial of that release when its time is over
    python3 -I ROOT/agent/current.py failed             what was started does not stay up: a trial is given up
    python3 -I ROOT/agent/current.py confirm RELEASE    the trial went well
    python3 -I ROOT/agent/current.py status             the journal, as JSON
    python3 -I ROOT/agent/current.py power install      as root: edgekit-powerd of the release in use; `power remove`

Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Sequence

from edgekit.deploy.disk import Refused, explain
from edgekit.deploy.guard import wait
from edgekit.deploy.health import check_in_use
from edgekit.deploy.helper import install_helper, remove_helper
from edgekit.deploy.journal import read_journal
from edgekit.deploy.store import Store
from edgekit.deploy.trial import Trials

BUSY_S = 3600.0  # for which a decision waits for its turn: who holds the lock in a trial holds it briefly


def as_file(packed: bytes) -> bytes:
    """The agent as one file that Python runs; `packed` is what a workstation sent."""
    return b"""# edgekit's agent, as a workstation sent it: python3 -I FILE recover|guard RELEASE|failed|confirm RELEASE|status
import base64, json, sys, zlib
for name, source in json.loads(zlib.decompress(base64.b64decode("%s"))):
    module = sys.modules[name] = type(sys)(name)
    exec(compile(source, name, "exec"), module.__dict__)
sys.exit(sys.modules["edgekit.deploy.alone"].main(__file__, sys.argv[1:]))
""" % base64.b64encode(packed)


def main(file: str, arguments: Sequence[str]) -> int:
    """Does what is asked of the ROOT in which the file lies, and returns an exit code."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(file)))
    os.umask(0o022)
    store = Store(root)
    try:
        return _act(Trials(store), store, list(arguments))
    except Refused as error:
        reply = error.reply
    except OSError as error:
        reply = explain(error, root)
    finally:
        store.unlock()
    print(f"edgekit: {reply['message']}\n  {reply['hint']}", file=sys.stderr)
    return 4


def _act(trials: Trials, store: Store, arguments: list[str]) -> int:
    if arguments == ["recover"]:
        if trials.needs_recovery():  # else nothing is written: a runner may have no right to
            store.lock(BUSY_S)
            trials.recover()
    elif arguments == ["status"]:
        print(json.dumps(trials.journal._asdict()))
    elif arguments == ["failed"]:
        store.lock(BUSY_S)
        trials.give_up()
    elif arguments in (["power", "install"], ["power", "remove"]):
        done = install_helper(store.root) if arguments[1] == "install" else remove_helper(store.root)
        print("\n".join([*done, ""]), end="")
    elif len(arguments) == 2 and arguments[0] == "confirm":
        store.lock(BUSY_S)
        trials.confirm(arguments[1])
    elif len(arguments) == 2 and arguments[0] == "guard":
        _guard(trials, store, arguments[1])
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


def _guard(trials: Trials, store: Store, release: str) -> None:
    if not wait(release, lambda: read_journal(store.root), trials.now):
        return
    found = trials.journal
    healthy = False
    if found.confirm == "device" and not found.is_over(trials.now()):
        try:
            check_in_use(trials.service(found.service), store.path("releases", release))
            healthy = True
        except Exception:  # whatever it was, it is no proof, and nobody else is left to decide
            healthy = False
    store.lock(BUSY_S)
    found = trials.journal
    if found.is_trial and found.to == release:  # not confirmed meanwhile
        if healthy:
            trials.confirm(release)
        else:
            trials.give_up()
