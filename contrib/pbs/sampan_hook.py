"""PBS hook: the job's script runs in a container of sampan.

    #PBS -l select=2:ncpus=4:container_engine=sampan
    #PBS -l container_image=docker://registry.example/solver:1

Needs two resources of type string, and itself (as root, on the server):

    qmgr -c "create resource container_engine type=string,flag=h"
    qmgr -c "create resource container_image type=string"
    qmgr -c "create hook sampan event='execjob_begin,execjob_launch'"
    qmgr -c "import hook sampan application/x-python default sampan_hook.py"
    qmgr -c "import hook sampan application/x-config default sampan_hook.json"

where sampan_hook.json is {} or {"sampan": "/path/to/sampan", "options": ["--contain"]}.

At execjob_begin the request is checked, so that a job with a mistake never
starts. At execjob_launch the program that PBS is about to start becomes
`sampan exec IMAGE PROGRAM`: PBS still starts it, as the user and in the job's
cgroup. That holds for the script's shell and for what pbsdsh and MPI launchers
start on other nodes. sampan's own proxies of an MPI launcher (--mpi=container) are
left as they are: they make the container themselves. The image is fetched by sampan in the job itself, whose
time it takes: a hook has 30 seconds, and an image may need more.

Interface: PBS Professional Hooks Guide, "Event Types" (execjob_begin,
execjob_launch) and "The pbs Module".
"""

import json
import os

import pbs

ENGINE = "sampan"
SAMPAN = "/usr/bin/sampan"
SHELLS = ("sh", "bash", "dash", "ash", "ksh", "zsh")


class Mistake(Exception):
    """What the person who submitted the job, or the site, has to mend."""


def configuration():
    """The hook's configuration file, if the site has imported one."""
    path = getattr(pbs, "hook_config_filename", None)
    if not path:
        return {}
    try:
        with open(path) as file:
            found = json.load(file)
    except (OSError, ValueError) as error:
        raise Mistake("the configuration of the hook cannot be read: %s" % error)
    if not isinstance(found, dict):
        raise Mistake("the configuration of the hook must be a JSON object")
    for key in found:
        if key not in ("sampan", "options"):
            raise Mistake("the configuration of the hook has an unknown key: %s" % key)
    options = found.get("options", [])
    if not isinstance(options, list) or not all(isinstance(one, str) for one in options):
        raise Mistake("options in the configuration of the hook must be a list of strings")
    return found


def resource(job, name):
    """A resource that the job asks for, as text; None without it."""
    try:
        value = job.Resource_List[name]
    except KeyError:
        return None
    return None if value is None else str(value)


def engines(job):
    """The container engines of the job: of the whole, or of its chunks."""
    found = set()
    whole = resource(job, "container_engine")
    if whole:
        found.add(whole)
    for chunk in (resource(job, "select") or "").split("+"):
        for part in chunk.split(":"):
            name, _, value = part.partition("=")
            if name == "container_engine":
                found.add(value.strip("\"'"))
    return found


def wanted(job):
    """The image of a job that is ours; None where it is not."""
    found = engines(job)
    if ENGINE not in found:
        return None
    if len(found) > 1:
        raise Mistake("one job cannot have several container engines: %s" % ", ".join(sorted(found)))
    image = resource(job, "container_image")
    if not image:
        raise Mistake("container_engine=sampan needs an image: -l container_image=IMAGE")
    if image.startswith("-") or any(c.isspace() or not c.isprintable() for c in image):
        raise Mistake("container_image is no image: %r" % image)
    return image


def sampan(config):
    """Where sampan is on this node."""
    path = config.get("sampan", SAMPAN)
    if not isinstance(path, str) or not os.path.isabs(path):
        raise Mistake("sampan in the configuration of the hook must be an absolute path")
    if not os.access(path, os.X_OK):
        raise Mistake("there is no sampan on this node: %s" % path)
    return path


def spool(argv):
    """What of the arguments PBS keeps where the container does not see it: the
    script."""
    home = getattr(pbs, "pbs_conf", {}).get("PBS_HOME", "/var/spool/pbs")
    return [one for one in argv if one.startswith(home + "/") and os.path.isfile(one)]


def escape(path):
    """A path for --bind."""
    return "".join("\\" + c if c in "\\:," else c for c in path)


def words(config, image, program, argv):
    """The command line of sampan for a program and its arguments."""
    line = [sampan(config), "exec"] + config.get("options", [])
    for path in spool(argv[1:]):
        line += ["--bind", "%s:%s:ro" % (escape(path), escape(path))]
    line += ["--", image, program]
    # A login shell is called -bash; the word that says so inside is an option.
    if argv and argv[0].startswith("-") and os.path.basename(program) in SHELLS:
        line.append("-l")
    return line + argv[1:]


def proxy(config, program, argv):
    """Whether it is sampan's start of a launcher's proxy, which makes the container."""
    own = program == config.get("sampan", SAMPAN) or os.path.basename(program) == "sampan"
    return own and argv[1:2] == ["mpi-proxy"]


def answer(event):
    """Does what the event asks for; raises Mistake."""
    image = wanted(event.job)
    if image is None:
        return
    config = configuration()
    if event.type == pbs.EXECJOB_BEGIN:
        sampan(config)
    elif event.type == pbs.EXECJOB_LAUNCH:
        program, argv = str(event.progname), [str(one) for one in event.argv]
        if proxy(config, program, argv):
            return
        line = words(config, image, program, argv)
        event.progname = line[0]
        event.argv = line
    else:
        raise Mistake("the hook is for execjob_begin and execjob_launch only")


def main():
    event = pbs.event()
    try:
        answer(event)
    except Mistake as mistake:
        event.reject("sampan: %s" % mistake)
    except Exception as error:  # PBS would say no more than that the hook failed
        event.reject("sampan: the hook has failed: %s: %s" % (type(error).__name__, error))
    event.accept()


main()
