//! Image files of the web: addresses, libraries, and what they may not do.

use harness::{Place, Ran};

/// A library that has one image under two tags, and what it says of it.
const LIBRARY: &str = r#"set -e
mkdir -p web/v1/images/me/tools web/v1/imagefile/me/tools web/blob
cp box.sif web/blob/box
say() { printf '{"data":{"id":"1","hash":"sha256.%s","size":%s,"arch":"amd64"}}' $1 $(stat -c %s box.sif); }
for tag in 1 latest; do
    say $(sha256sum <box.sif | cut -d' ' -f1) >web/v1/images/me/tools/box:$tag
    echo /blob/box >web/v1/imagefile/me/tools/box:$tag.redirect
done
say $(printf x | sha256sum | cut -d' ' -f1) >web/v1/images/me/tools/other:1
echo /blob/box >web/v1/imagefile/me/tools/other:1.redirect
echo '{"data":{"hash":"sif.12"}}' >web/v1/images/me/tools/odd:1
echo '<html>' >web/v1/images/me/tools/html:1
echo '<html>log in</html>' >web/page.sif
"#;

fn library() -> (Place, String, String) {
    let place = Place::new();
    let _ = place.sampan(&["convert", &place.image_file(), "box.sif"]).ok();
    let _ = place.shell(LIBRARY).ok();
    let sum = place.shell("sha256sum <box.sif | cut -d' ' -f1").ok().trim().to_owned();
    let url = harness::serve(&place.path("work/web"));
    (place, url, sum)
}

#[track_caller]
fn says(ran: Ran, code: i32, words: &[&str]) {
    let err = ran.fails(code);
    for word in words {
        assert!(err.contains(word), "{word}: {err}");
    }
}

#[test]
fn images_of_a_library_are_run_as_files_are() {
    let (place, url, sum) = library();
    let name = "library://me/tools/box:1";
    says(place.sampan(&["exec", name, "true"]), 125, &["no library is configured", "--library"]);
    let run = |args: &[&str]| place.sampan(&[&["--library", &url][..], args].concat());
    assert_eq!(run(&["exec", name, "echo", "in"]).ok(), "in\n");
    assert_eq!(run(&["pull", "library://me/tools/box"]).ok(), format!("sha256:{sum}\n"));
    assert!(run(&["inspect", name]).ok().contains("Inodes"));
    let _ = run(&["convert", name, "copy.sif"]).ok();
    assert_eq!(place.sampan(&["exec", "./copy.sif", "echo", "copied"]).ok(), "copied\n");
    // With its host in the name, and in a definition file that names the library.
    let host = url.trim_start_matches("http://");
    let named = format!("library://{host}/me/tools/box:1");
    assert_eq!(run(&["exec", &named, "echo", "host"]).ok(), "host\n");
    let text =
        format!("Bootstrap: library\nFrom: me/tools/box:1\nLibrary: {url}\n%post\n echo x >/x\n");
    place.write("work/a.def", text);
    let _ = place.sampan(&["build", "-t", "made", "-f", "a.def", "."]).ok();
    assert_eq!(place.sampan(&["exec", "made", "cat", "/x"]).ok(), "x\n");

    // What does not fit together is not kept under any name.
    let other = "library://me/tools/other:1";
    says(run(&["exec", other, "true"]), 125, &["has the digest", &sum]);
    says(run(&["pull", other]), 6, &["has the digest", &sum]);
    says(run(&["pull", "library://me/tools/odd:1"]), 1, &["no answer of a library", "sif.12"]);
    says(run(&["pull", "library://me/tools/html:1"]), 1, &["no answer of a library"]);
    says(run(&["pull", "library://me/tools/gone:1"]), 3, &["gone:1"]);
    says(run(&["pull", "library://a//b"]), 2, &["a//b", "ENTITY"]);
    says(run(&["pull", "shub://a/b"]), 2, &["Singularity Hub has closed"]);

    // What is here is run without the library, unless it must be asked.
    let _ = place.shell("rm -r web/v1 web/blob").ok();
    assert_eq!(run(&["exec", name, "echo", "kept"]).ok(), "kept\n");
    says(run(&["exec", "--pull", "always", name, "true"]), 125, &["box:1"]);
    let never = ["exec", "--pull", "never", "library://me/tools/box:2", "true"];
    says(run(&never), 125, &["not in the store"]);
    let _ = run(&["prune", "--all"]).ok();
    says(run(&["exec", name, "true"]), 125, &["box:1"]);
}

/// A token from the credential files opens what is private, and goes to its host alone.
#[test]
fn private_images_of_a_library_need_its_token() {
    let (place, url, _) = library();
    let other = place.path("work/other");
    let _ = place.shell("mkdir other").ok();
    let elsewhere = harness::serve(&other);
    let prepare = format!(
        "cd web; for f in v1/images v1/imagefile; do
             echo 'Bearer s3cret' >$f/me/tools/box:1.authorization; done
         cp ../box.sif ../other/box
         : >../other/box.authorization
         echo {elsewhere}/box >v1/imagefile/me/tools/box:1.redirect"
    );
    let _ = place.shell(&prepare).ok();
    let name = "library://me/tools/box:1";
    let run = |args: &[&str]| place.sampan(&[&["--library", &url][..], args].concat());
    let host = format!("library://{}", url.strip_prefix("http://").unwrap());
    says(run(&["pull", name]), 4, &["login library://127.0.0.1:"]);
    let login = |token: &str| {
        let script = format!("printf {token} | $sampan login --password-stdin {host}");
        place.shell(&script)
    };
    let _ = login("wrong").ok();
    says(run(&["pull", name]), 4, &["401", "login library://127.0.0.1:"]);
    let said = login("s3cret").ok();
    assert!(said.contains("kept the token") && !said.contains("s3cret"), "{said}");
    let _ = run(&["pull", name]).ok();
    assert_eq!(run(&["exec", name, "echo", "in"]).ok(), "in\n");
    let said = place.sampan(&["logout", &host]).ok();
    assert!(said.contains("removed"), "{said}");
    let _ = run(&["prune", "--all"]).ok();
    says(run(&["pull", name]), 4, &["login library://"]);
}

#[test]
fn addresses_of_files_are_images() {
    let (place, url, sum) = library();
    let file = format!("{url}/blob/box");
    let run = |args: &[&str]| place.sampan(args);
    assert_eq!(run(&["exec", &file, "echo", "in"]).ok(), "in\n");
    assert_eq!(run(&["pull", &format!("{file}@sha256:{sum}")]).ok(), format!("sha256:{sum}\n"));
    let wrong = format!("{file}@sha256:{}", "0".repeat(64));
    says(run(&["pull", &wrong]), 6, &["has the digest", &sum]);
    says(run(&["pull", &format!("{url}/page.sif")]), 1, &["page.sif gives no image file"]);
    says(run(&["pull", &format!("{url}/gone.sif")]), 3, &["gone.sif"]);
    let small = format!("SAMPAN_SIZE_LIMIT=1000 $sampan --store s pull {file}");
    says(place.shell(&small), 1, &["cannot fetch", "size_limit"]);
    // The same name, another file: only who asks again sees it.
    let _ = place
        .shell("$sampan convert --compression lz4 box.sif new.sif && mv new.sif web/blob/box")
        .ok();
    assert_eq!(run(&["exec", &file, "echo", "old"]).ok(), "old\n");
    let pulled = run(&["pull", &file]).ok();
    assert_eq!(pulled, format!("sha256:{sum}\n"));
    let again = place.shell(&format!("SAMPAN_PULL=always $sampan pull {file}")).ok();
    assert_ne!(again, pulled);
    // A site's list counts for them too.
    place.write("work/site.toml", "allowed_registries = [\"registry.example\"]\n");
    let script = format!("SAMPAN_SITE_CONFIG=$PWD/site.toml $sampan --store s pull {file}");
    says(place.shell(&script), 1, &["may not be fetched", "registry.example"]);
    let text = format!("ARG B\nFROM {file}\nRUN echo x >/x\n");
    place.write("work/Dockerfile", text);
    let _ = run(&["build", "-t", "made", "-f", "Dockerfile", "."]).ok();
}
