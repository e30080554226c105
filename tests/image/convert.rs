//! `convert` to the forms of OCI, read back by other tools.

use std::process::Command;

use harness::Place;

/// Runs a command as root; its output.
fn tool(program: &str, args: &[&str]) -> String {
    harness::run(Command::new(program).args(args)).ok()
}

fn inspect(args: &[&str]) -> serde_json::Value {
    let mut all = vec!["inspect", "--tls-verify=false"];
    all.extend(args);
    serde_json::from_str(&tool("skopeo", &all)).unwrap()
}

/// A new repository of the registry.
fn repository(name: &str) -> String {
    format!("{}/{name}-{}", harness::registry(), std::process::id())
}

#[test]
fn an_image_of_a_registry_keeps_its_digest_everywhere() {
    let place = Place::new();
    let source = format!("docker://{}/base:latest", harness::registry());
    let digest = inspect(&[&source])["Digest"].as_str().unwrap().to_owned();
    let copy = repository("copy");
    for to in ["oci:lay:one", "oci-archive:one.tar:one", &format!("docker://{copy}:1")] {
        let out = place.sampan(&["convert", "--json", &source, to]).ok();
        let said: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(said["digest"], digest.as_str(), "{to}");
    }
    let work = place.path("work");
    let at = |form: &str, name: &str| format!("{form}:{}/{name}", work.display());
    assert_eq!(inspect(&[&at("oci", "lay:one")])["Digest"], digest.as_str());
    assert_eq!(inspect(&[&at("oci-archive", "one.tar:one")])["Digest"], digest.as_str());
    assert_eq!(inspect(&[&format!("docker://{copy}:1")])["Digest"], digest.as_str());
    // From there on again, and to the archive of docker.
    let _ = place.sampan(&["convert", "oci:lay:one", "docker-archive:saved.tar:a/b"]).ok();
    let saved = inspect(&[&at("docker-archive", "saved.tar:a/b:latest")]);
    let diff_ids = |config: &str| {
        let raw = tool("skopeo", &["inspect", "--config", "--raw", "--tls-verify=false", config]);
        serde_json::from_str::<serde_json::Value>(&raw).unwrap()["rootfs"].clone()
    };
    assert_eq!(diff_ids(&at("docker-archive", "saved.tar:a/b:latest")), diff_ids(&source));
    assert_eq!(saved["Architecture"], "amd64");
    let _ = place.sampan(&["convert", "docker-archive:saved.tar", "oci:lay:two"]).ok();
    assert_eq!(diff_ids(&at("oci", "lay:two")), diff_ids(&source));
    // A second image joined the first in the layout; a tag moves.
    let _ = place.sampan(&["convert", "oci-archive:one.tar", "oci:lay:two"]).ok();
    let index = std::fs::read(work.join("lay/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(inspect(&[&at("oci", "lay:two")])["Digest"], digest.as_str());
    assert_eq!(place.sampan(&["run", "--pull=never", "oci:lay:one"]).code, 0);
}

#[test]
fn files_and_directories_become_a_layer() {
    let place = Place::new();
    let source = format!("docker://{}/base:latest", harness::registry());
    let repository = repository("flat");
    let script = format!(
        "export SOURCE_DATE_EPOCH=7; $sampan convert {source} base.sqfs \\
         && $sampan convert ./base.sqfs oci:lay:flat && $sampan convert ./base.sqfs oci:lay:again \\
         && $sampan convert --compression zstd ./base.sqfs oci-archive:zstd.tar \\
         && $sampan convert {source} base.oci.sif && $sampan convert ./base.oci.sif oci:lay:sif \\
         && $sampan convert ./base.sqfs docker://{repository}:1 && $sampan convert base.sqfs tree/ \\
         && $sampan convert ./tree oci:lay:tree"
    );
    let _ = place.shell(&script).ok();
    let work = place.path("work");
    let digest =
        |tag: &str| inspect(&[&format!("oci:{}/lay:{tag}", work.display())])["Digest"].clone();
    assert_eq!(digest("flat"), digest("again"), "the same image gave other bytes");
    let pushed = inspect(&[&format!("docker://{repository}:1")]);
    assert_eq!(pushed["Digest"], digest("flat"));
    let zstd = inspect(&["--raw", &format!("oci-archive:{}/zstd.tar", work.display())]);
    assert_eq!(zstd["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    // What an OCI image says of its process comes through SIF of its own form.
    let image = work.join("base.oci.sif");
    let config = |image: &str| {
        let raw = tool("skopeo", &["inspect", "--config", "--tls-verify=false", image]);
        serde_json::from_str::<serde_json::Value>(&raw).unwrap()["config"]["Env"].clone()
    };
    assert_eq!(config(&format!("oci:{}/lay:sif", work.display())), config(&source));
    assert_eq!(place.sampan(&["run", image.to_str().unwrap(), "true"]).code, 0);
    // A script of Apptainer's form is what the image starts.
    let flat =
        tool("skopeo", &["inspect", "--config", &format!("oci:{}/lay:flat", work.display())]);
    assert!(flat.contains("/.singularity.d/actions/run"), "{flat}");
    // umoci unpacks as root what the first image had.
    let list = "cd rootfs && find . -mindepth 1 -not -path './.singularity.d*' -printf \
                '%P %y %m %U %G %l %s\\n' | grep -v ' d ' | sort; getcap -r . | sort";
    let unpacked = |tag: &str| {
        let bundle = place.path(&format!("bundle-{tag}"));
        let image = format!("{}/lay:{tag}", work.display());
        tool("umoci", &["unpack", "--image", &image, bundle.to_str().unwrap()]);
        harness::run(Command::new("sh").args(["-c", list]).current_dir(&bundle)).ok()
    };
    let _ = place.sampan(&["convert", &source, "oci:lay:source"]).ok();
    let first = unpacked("source");
    assert!(first.contains(" 640 0 42 ") && first.lines().count() > 1000, "{}", first.len());
    assert_eq!(unpacked("flat"), first);
    // Through a directory only what an ordinary user cannot make is lost.
    assert_eq!(unpacked("tree"), first);
}

#[test]
fn what_cannot_be_written_says_why() {
    let place = Place::new();
    let image = place.image_file();
    let convert = |to: &str| place.sampan(&["convert", &image, to]);
    assert!(convert("oci:/nosuch/dir:x").fails(1).contains("/nosuch/dir"));
    let other = place.write("work/other/file", "");
    place.give(other.parent().unwrap());
    assert!(convert("oci:other").fails(1).contains("no OCI layout"));
    assert!(convert("docker://127.0.0.1:1/x").fails(5).contains("127.0.0.1:1"));
    let _ = convert("oci-archive:a.tar").ok();
    assert!(convert("oci-archive:a.tar").fails(1).contains("--force"));
    let _ = place.sampan(&["convert", "--force", &image, "oci-archive:a.tar"]).ok();
    let left: Vec<_> = std::fs::read_dir(place.path("work")).unwrap().flatten().collect();
    let hidden = left.iter().filter(|e| e.file_name().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 0, "something half written is left: {left:?}");
}
