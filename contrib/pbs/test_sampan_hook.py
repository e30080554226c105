"""Drives the hook against a pbs module as the Hooks Guide describes it."""

import json
import os
import runpy
import sys
import tempfile
import types
import unittest

HOOK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sampan_hook.py")


class Resources:
    """pbs.pbs_resource: what was not asked for is None."""

    def __init__(self, values):
        self.values = values

    def __getitem__(self, name):
        return self.values.get(name)


class Select:
    """pbs.select: text when asked for text."""

    def __init__(self, text):
        self.text = text

    def __str__(self):
        return self.text


class Event:
    """pbs.event: accept and reject end the hook."""

    def __init__(self, kind, resources, progname="/bin/bash", argv=("-bash",)):
        self.type = kind
        self.job = types.SimpleNamespace(id="1.server", Resource_List=Resources(resources))
        self.progname = progname
        self.argv = list(argv)
        self.env = {"PBS_JOBID": "1.server"}
        self.answer = None

    def accept(self):
        self.answer = "accepted"
        raise SystemExit(0)

    def reject(self, message=""):
        self.answer = message
        raise SystemExit(1)


class Hook(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.sampan = self.file("sampan", "#!/bin/sh\n")
        os.chmod(self.sampan, 0o755)
        self.pbs = types.ModuleType("pbs")
        self.pbs.EXECJOB_BEGIN, self.pbs.EXECJOB_LAUNCH, self.pbs.QUEUEJOB = 0x200, 0x8000, 0x1
        self.pbs.pbs_conf = {"PBS_HOME": self.dir.name}
        self.configure({"sampan": self.sampan})
        sys.modules["pbs"] = self.pbs
        self.addCleanup(sys.modules.pop, "pbs")

    def file(self, name, text):
        path = os.path.join(self.dir.name, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def configure(self, value):
        self.pbs.hook_config_filename = self.file("config.json", json.dumps(value))

    def run_hook(self, event):
        self.pbs.event = lambda: event
        with self.assertRaises(SystemExit):
            runpy.run_path(HOOK)
        return event

    def launch(self, resources, **more):
        return self.run_hook(Event(self.pbs.EXECJOB_LAUNCH, resources, **more))

    def rejected(self, resources, *parts, kind=None):
        kind = self.pbs.EXECJOB_BEGIN if kind is None else kind
        event = self.run_hook(Event(kind, resources))
        self.assertTrue(event.answer.startswith("sampan: "), event.answer)
        for part in parts:
            self.assertIn(part, event.answer)
        self.assertEqual((event.progname, event.argv), ("/bin/bash", ["-bash"]))

    def test_the_shell_of_the_script_is_started_in_the_image(self):
        select = Select("2:ncpus=4:container_engine=sampan+1:ncpus=1")
        event = self.launch({"select": select, "container_image": "python:3.12"})
        self.assertEqual(event.answer, "accepted")
        self.assertEqual(event.progname, self.sampan)
        line = [self.sampan, "exec", "--", "python:3.12", "/bin/bash", "-l"]
        self.assertEqual(event.argv, line)

    def test_a_program_keeps_its_arguments(self):
        resources = {"container_engine": "sampan", "container_image": "/images/a.sqsh"}
        argv = ["solver", "-n", "a b", ""]
        event = self.launch(resources, progname="/opt/solver", argv=argv)
        line = [self.sampan, "exec", "--", "/images/a.sqsh", "/opt/solver", "-n", "a b", ""]
        self.assertEqual(event.argv, line)

    def test_a_script_in_the_spool_is_shown_inside(self):
        script = self.file("1:x.SC", "echo\n")
        resources = {"container_engine": "sampan", "container_image": "a"}
        event = self.launch(resources, argv=["-bash", script])
        escaped = script.replace(":", "\\:")
        self.assertEqual(event.argv[2:4], ["--bind", "%s:%s:ro" % (escaped, escaped)])
        self.assertEqual(event.argv[-2:], ["-l", script])

    def test_proxies_of_sampan_are_left_alone(self):
        resources = {"container_engine": "sampan", "container_image": "a"}
        for program in (self.sampan, "/opt/other/sampan"):
            argv = [program, "mpi-proxy", "2f00"]
            event = self.launch(resources, progname=program, argv=argv)
            self.assertEqual((event.answer, event.progname), ("accepted", program))
            self.assertEqual(event.argv, argv)
        # Whatever else has that word is a program of the job.
        event = self.launch(resources, progname="/opt/solver", argv=["solver", "mpi-proxy"])
        self.assertEqual(event.progname, self.sampan)

    def test_options_of_the_site(self):
        self.configure({"sampan": self.sampan, "options": ["--no-home"]})
        event = self.launch({"container_engine": "sampan", "container_image": "a"})
        self.assertEqual(event.argv[1:4], ["exec", "--no-home", "--"])

    def test_jobs_of_others_are_left_alone(self):
        for resources in (
            {},
            {"select": Select("1:ncpus=1")},
            {"select": Select("1:container_engine=docker"), "container_image": "a"},
            {"container_image": "a"},
        ):
            event = self.launch(resources)
            self.assertEqual((event.answer, event.argv), ("accepted", ["-bash"]))

    def test_a_job_without_mistakes_may_begin(self):
        resources = {"container_engine": "sampan", "container_image": "a"}
        event = self.run_hook(Event(self.pbs.EXECJOB_BEGIN, resources))
        self.assertEqual((event.answer, event.argv), ("accepted", ["-bash"]))

    def test_mistakes_in_the_request(self):
        self.rejected({"container_engine": "sampan"}, "container_image=IMAGE")
        self.rejected({"container_engine": "sampan", "container_image": ""}, "needs an image")
        for image in ("--root", "a b", "a\nb", "a\x1b[2J"):
            resources = {"container_engine": "sampan", "container_image": image}
            self.rejected(resources, "no image")
        both = Select("1:container_engine=sampan+1:container_engine=docker")
        self.rejected({"select": both, "container_image": "a"}, "several", "docker, sampan")

    def test_mistakes_of_the_site(self):
        resources = {"container_engine": "sampan", "container_image": "a"}
        self.configure({"sampan": "/no/such/sampan"})
        self.rejected(resources, "no sampan on this node", "/no/such/sampan")
        self.rejected(resources, "no sampan", kind=self.pbs.EXECJOB_LAUNCH)
        self.configure({"sampan": "sampan"})
        self.rejected(resources, "absolute")
        self.configure({"sampan": self.sampan, "options": "--contain"})
        self.rejected(resources, "list of strings")
        self.configure({"simpan": "/x"})
        self.rejected(resources, "unknown key: simpan")
        self.configure([])
        self.rejected(resources, "JSON object")
        self.file("config.json", "{")
        self.rejected(resources, "cannot be read")
        self.configure({"sampan": self.sampan})
        self.rejected(resources, "execjob_begin", kind=self.pbs.QUEUEJOB)

    def test_a_failure_of_the_hook_is_told(self):
        event = Event(self.pbs.EXECJOB_BEGIN, {})
        event.job = None
        self.run_hook(event)
        self.assertIn("the hook has failed: AttributeError", event.answer)


if __name__ == "__main__":
    unittest.main()
