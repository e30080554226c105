//! The tools that are compared, and what each needs beforehand.

use std::path::PathBuf;
use std::process::Stdio;

use super::Job;
use super::apptainer::Apptainer;
use crate::error::{Error, Result};
use crate::run::{output, root_shell, run as execute, user_shell};
use crate::setup::{SUBID_USER, USER};

const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// One tool doing one kind of work.
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) user: &'static str,
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: PathBuf,
    /// Run before each time, not counted.
    pub(super) before: Option<String>,
    /// Run after each time, not counted; what it prints is read, lines of a
    /// word and a number: `bytes`, `server_cpu_ms`, `server_kb`.
    pub(super) after: Option<String>,
}

/// A row of the bench.
pub(super) struct Work {
    pub(super) key: String,
    pub(super) title: String,
    pub(super) tools: Vec<Tool>,
    pub(super) bars: Vec<Bar>,
}

/// `ours` takes at most `most` times as much as `peer`.
pub(super) struct Bar {
    pub(super) ours: &'static str,
    pub(super) most: f64,
    pub(super) peer: &'static str,
    /// Of what.
    pub(super) of: Measure,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Time,
    Memory,
    Size,
    ServerCpu,
}

impl Bar {
    /// Of time.
    pub(super) fn time(ours: &'static str, most: f64, peer: &'static str) -> Self {
        Self { ours, most, peer, of: Measure::Time }
    }
}

/// Brings the image into every tool's own form, unless it is there.
const PREPARE: &str = r#"
cd "$DIR"
if [ ! -e rootfs.done ]; then
  echo "bench: unpacking the image and making ch-run's squashfs (a minute, once)"
  chmod -R u+rwX rootfs 2>/dev/null || true; rm -rf oci rootfs image.sqfs
  skopeo --insecure-policy copy --quiet --src-tls-verify=false docker://$REGISTRY/numpy:latest oci:$PWD/oci:latest
  umoci raw unpack --rootless --image oci:latest rootfs >/dev/null
  mksquashfs rootfs image.sqfs -comp gzip -noappend -no-progress -quiet >/dev/null
  touch rootfs.done
fi
$SAMPAN --store $DIR/store pull --quiet docker://$REGISTRY/numpy:latest
"#;

/// The same for the tools of the user with a subuid range.
const PREPARE_SUBID: &str = r#"
mkdir -p ~/bundle; cd ~/bundle; rm -f config.json; crun spec --rootless
map='[{"containerID":0,"hostID":'$(id -u)',"size":1}]'
for work in true numpy; do
  args='["true"]'; [ $work = true ] || args='["python3","-c","import numpy"]'
  mkdir -p ~/bundle/$work
  jq ".process.args=$args | .process.terminal=false | .root.path=\"$DIR/rootfs\" | .linux.uidMappings=$map | .linux.gidMappings=$map" config.json >$work/config.json
done
"#;

/// Sets the machine up for the peers.
pub(super) fn prepare(job: &Job) -> Result<()> {
    let dir = job.dir.display();
    let script = format!("mkdir -p {dir}; chown {USER} {dir}");
    execute(root_shell(&script).stdout(Stdio::null()))?;
    let vars =
        format!("DIR='{dir}' REGISTRY='{}' SAMPAN='{}'\n", job.registry, job.sampan.display());
    execute(&mut user_shell(USER, &format!("{vars}{PREPARE}")))?;
    execute(&mut user_shell(SUBID_USER, &format!("{vars}{PREPARE_SUBID}")))
}

fn home(user: &str) -> Result<String> {
    let text = output(std::process::Command::new("getent").args(["passwd", user]))?;
    text.split(':').nth(5).map(str::to_owned).ok_or_else(|| Error::User(user.to_owned()))
}

/// Makes the tools of one user.
pub(super) struct As {
    user: &'static str,
    pub(super) home: String,
}

impl As {
    fn new(user: &'static str) -> Result<Self> {
        Ok(Self { user, home: home(user)? })
    }

    /// `line` is split at blanks; the words of `rest` follow as they are.
    pub(super) fn tool(&self, name: &'static str, line: &str, rest: &[&str]) -> Tool {
        let words = line.split_ascii_whitespace().chain(rest.iter().copied());
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Tool {
            name,
            user: self.user,
            argv: words.map(str::to_owned).collect(),
            env: vec![
                variable("PATH", PATH),
                variable("HOME", &self.home),
                variable("USER", self.user),
            ],
            cwd: PathBuf::from(&self.home),
            before: None,
            after: None,
        }
    }

    /// With a server that does not wait for another container.
    fn fresh(&self, mut tool: Tool) -> Tool {
        // A scratch of its own, so that it joins no server of another tool.
        tool.env.push(("SAMPAN_LINGER".to_owned(), "0".to_owned()));
        tool.env.push(("SAMPAN_SCRATCH".to_owned(), self.home.clone()));
        tool
    }
}

/// Everything that is measured.
pub(super) fn works(job: &Job, apptainer: Option<&Apptainer>) -> Result<Vec<Work>> {
    let ordinary = As::new(USER)?;
    let subid = As::new(SUBID_USER)?;
    let (dir, sampan) = (job.dir.display().to_string(), job.sampan.display().to_string());
    let rootfs = format!("{dir}/rootfs");
    let store = format!("{dir}/store");
    let image = format!("docker://{}/numpy:latest", job.registry);
    let podman = format!(
        "podman --root {home}/podman --runroot {home}/run --storage-driver overlay \
         --cgroup-manager cgroupfs --events-backend file",
        home = subid.home
    );
    let bwrap = format!(
        "bwrap --unshare-user --bind {rootfs} / --dev-bind /dev /dev --proc /proc \
         --bind /sys /sys --bind /tmp /tmp --bind {home} {home}",
        home = ordinary.home
    );
    let containers = |rest: &[&str], work: &str| {
        let file = format!("{sampan} --store {store} exec {image}");
        let mut tools = vec![
            ordinary.tool("ch-run directory", &format!("ch-run {rootfs} --"), rest),
            ordinary.tool("ch-run squashfs", &format!("ch-run {dir}/image.sqfs --"), rest),
            ordinary.tool("bwrap directory", &bwrap, rest),
            subid.tool(
                "crun directory",
                &format!("crun --root {0}/crun run --bundle {0}/bundle/{work} bench", subid.home),
                &[],
            ),
            subid.tool(
                "podman overlay",
                &format!("{podman} run --rm --network host --tls-verify=false {image}"),
                rest,
            ),
            ordinary.tool("sampan directory", &format!("{sampan} exec {rootfs}"), rest),
            ordinary.fresh(ordinary.tool("sampan one file", &file, rest)),
            ordinary.tool("sampan one file, joined", &file, rest),
        ];
        if let Some(apptainer) = apptainer {
            for (name, image) in
                [("Apptainer directory", rootfs.clone()), ("Apptainer SIF", apptainer.sif())]
            {
                tools.push(entered(apptainer, name, &[&["exec", &image], rest].concat()));
            }
        }
        tools
    };
    let mut start = vec![
        ordinary.tool("fork and exec", "true", &[]),
        ordinary.tool("unshare -Urm", "unshare -Urm true", &[]),
    ];
    start.extend(containers(&["true"], "true"));
    let numpy = containers(&["python3", "-c", "import numpy"], "numpy");
    let mut works = vec![
        Work {
            key: "start".to_owned(),
            title: "start `true`".to_owned(),
            tools: start,
            bars: vec![
                Bar::time("sampan directory", 1.0, "bwrap directory"),
                Bar::time("sampan one file", 1.0 / 3.0, "ch-run squashfs"),
                // 3 ms where fork and exec take 0.55.
                Bar::time("sampan one file, joined", 5.45, "fork and exec"),
            ],
        },
        Work {
            key: "numpy".to_owned(),
            title: "`import numpy`, fresh mount".to_owned(),
            tools: numpy,
            bars: vec![
                Bar::time("sampan one file", 0.5, "ch-run squashfs"),
                // 100 ms where the directory takes 56.
                Bar::time("sampan one file", 1.78, "sampan directory"),
                Bar::time("sampan one file, joined", 1.05, "sampan directory"),
            ],
        },
        Work {
            key: "pull".to_owned(),
            title: "pull to runnable, empty store".to_owned(),
            tools: pulls(job, &ordinary, &subid, &podman, &image, apptainer),
            bars: vec![
                Bar::time("sampan", 0.7, "podman overlay"),
                Bar::time("sampan", 0.125, "Apptainer SIF"),
            ],
        },
    ];
    works.extend(super::files::works(job));
    works.extend(super::writing::works(job, &ordinary.home));
    works.extend(super::building::works(job, &ordinary, &subid)?);
    Ok(works)
}

/// Apptainer starts as root, to enter its namespace.
fn entered(apptainer: &Apptainer, name: &'static str, rest: &[&str]) -> Tool {
    Tool {
        name,
        user: "root",
        argv: apptainer.words(rest),
        env: vec![("PATH".to_owned(), format!("{PATH}:/usr/sbin:/sbin"))],
        cwd: PathBuf::from("/"),
        before: None,
        after: None,
    }
}

fn pulls(
    job: &Job,
    ordinary: &As,
    subid: &As,
    podman: &str,
    image: &str,
    apptainer: Option<&Apptainer>,
) -> Vec<Tool> {
    let scratch = format!("{}/pull", job.dir.display());
    let sampan = job.sampan.display();
    let timed = |mut tool: Tool, before: String| {
        let mut argv: Vec<String> =
            ["/usr/bin/time", "--quiet", "--format=resident %M"].map(str::to_owned).to_vec();
        argv.append(&mut tool.argv);
        Tool { argv, before: Some(before), ..tool }
    };
    let measured =
        |who: &As, name, line: &str, before: String| timed(who.tool(name, line, &[]), before);
    let wipe = format!(
        "chmod -R u+rwX {scratch} 2>/dev/null || true; rm -rf {scratch}; mkdir -p {scratch}"
    );
    let mut tools = vec![
        measured(
            ordinary,
            "skopeo copy (no unpack)",
            &format!(
                "skopeo --insecure-policy copy --quiet --src-tls-verify=false {image} \
                 oci:{scratch}/oci:latest"
            ),
            wipe.clone(),
        ),
        measured(
            subid,
            "podman overlay",
            &format!("{podman} pull --quiet --tls-verify=false {image}"),
            format!("{podman} rmi --all --force >/dev/null"),
        ),
        measured(
            ordinary,
            "ch-image",
            &format!(
                "ch-image --storage {scratch}/ch --no-cache --tls-no-verify pull {}/numpy:latest",
                job.registry_tls
            ),
            wipe.clone(),
        ),
        measured(
            ordinary,
            "umoci unpack alone",
            &format!(
                "umoci raw unpack --rootless --image {}/oci:latest {scratch}/rootfs",
                job.dir.display()
            ),
            wipe.clone(),
        ),
        measured(
            ordinary,
            "sampan",
            &format!("{sampan} --store {scratch}/store pull --quiet {image}"),
            wipe,
        ),
    ];
    if let Some(apptainer) = apptainer {
        let sif = format!("{scratch}.sif");
        let words = ["pull", "--force", "--no-https", &sif, image];
        let before = format!("rm -rf {sif} {}/.apptainer-bench", ordinary.home);
        tools.push(timed(entered(apptainer, "Apptainer SIF", &words), before));
    }
    tools
}
